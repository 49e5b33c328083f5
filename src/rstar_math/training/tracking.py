"""Records a training with the callbacks that transformers has for the trackers.

A callback that fails warns once and is switched off; the training goes on.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rstar_math.tracking import (
    PROJECT,
    TensorBoardTracker,
    TrackedRun,
    current_run,
    failure_message,
    find_mlflow_run,
    limit_mlflow_retries,
    mlflow_experiment,
    mlflow_parent_tag,
    open_wandb_run,
    warn,
)


@contextmanager
def tracked_training(trainer: Any) -> Iterator[None]:
    """Record the training in the block, if `tracking.track_trainings` says so.

    The first process records. The runs end with the block, whether or not it fails.
    """
    run = current_run()
    if run is None or not run.trackers or os.environ.get("RANK", "0") != "0":
        yield
        return
    trainer.args.run_name, trainer.args.project = run.name, PROJECT
    callback, recorders = _guarded_callback(run)
    trainer.add_callback(callback)
    try:
        yield
    finally:
        for recorder in recorders:
            recorder.end()


class _Recorder:
    """A callback of transformers for one tracker, which is switched off when it fails."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        self._name, self._run = name, run
        self._inner: Any = None
        self._finish: Callable[[], None] = lambda: None
        self._is_on = True

    def call(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Pass an event on. The run is opened at the first one."""
        self._guarded(lambda: self._pass_on(event, *args, **kwargs))

    def end(self) -> None:
        """End the run."""
        self._guarded(lambda: self._finish())
        self._is_on = False

    def _pass_on(self, event: str, *args: Any, **kwargs: Any) -> None:
        if self._inner is None:
            self._inner, self._finish = _OPENERS[self._name](self._run)
        getattr(self._inner, event)(*args, **kwargs)

    def _guarded(self, action: Callable[[], None]) -> None:
        if not self._is_on:
            return
        try:
            with redirect_stdout(sys.stderr):  # trackers print, and stdout may be for JSON
                action()
        except Exception as error:
            self._is_on = False
            warn(failure_message(self._name, error))


def _guarded_callback(run: TrackedRun) -> tuple[Any, list[_Recorder]]:
    """One trainer callback for all trackers of a run, and what it passes events to."""
    from transformers import TrainerCallback

    recorders = [_Recorder(name, run) for name in run.trackers]

    class TrackerCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            for recorder in recorders:
                recorder.call("on_train_begin", *args, **kwargs)

        def on_log(self, *args: Any, **kwargs: Any) -> None:
            for recorder in recorders:
                recorder.call("on_log", *args, **kwargs)

        def on_save(self, *args: Any, **kwargs: Any) -> None:
            for recorder in recorders:
                recorder.call("on_save", *args, **kwargs)

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            for recorder in recorders:
                recorder.call("on_train_end", *args, **kwargs)

    return TrackerCallback(), recorders


Opened = tuple[Any, Callable[[], None]]
"""A callback of transformers, and the function that ends its run."""


def _callback_class(name: str) -> Any:
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    return get_reporting_integration_callbacks([name])[0]


def _open_tensorboard(run: TrackedRun) -> Opened:
    writer = TensorBoardTracker(run, {})
    return _callback_class("tensorboard")(tb_writer=writer), writer.close


def _open_wandb(run: TrackedRun) -> Opened:
    opened = open_wandb_run(run, {}, reinit="finish_previous")
    return _callback_class("wandb")(), opened.finish


def _open_mlflow(run: TrackedRun) -> Opened:
    import mlflow

    limit_mlflow_retries()
    callback = _callback_class("mlflow")()
    client = mlflow.MlflowClient()
    experiment = mlflow_experiment(client)
    found = find_mlflow_run(client, experiment, run.name)
    mlflow.start_run(
        run_id=found,
        experiment_id=experiment,
        run_name=run.name,
        tags=mlflow_parent_tag(client, experiment, run),
    )

    def finish() -> None:
        mlflow.flush_async_logging()
        mlflow.end_run()

    return callback, finish


def _open_trackio(run: TrackedRun) -> Opened:
    import trackio

    def finish() -> None:
        if trackio.context_vars.current_run.get() is not None:
            trackio.finish()

    return _callback_class("trackio")(), finish


_OPENERS: dict[str, Callable[[TrackedRun], Opened]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
    "trackio": _open_trackio,
}
"""How each tracker's callback is opened; the keys are those of `rstar_math.tracking.TRACKERS`."""
