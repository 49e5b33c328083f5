"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and Trackio behind one protocol.

The environment variables of the libraries apply, such as TENSORBOARD_LOGGING_DIR, WANDB_MODE,
WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and TRACKIO_DIR. Without them everything
is written on this machine: `runs/` (TensorBoard), `wandb/`, `mlflow.db` and Trackio's cache.

    run = TrackedRun(("tensorboard",), "first")
    with open_trackers(run, config) as trackers:
        trackers.log({"accuracy": 0.5}, step=10)

A tracker that fails warns once and is switched off. It never stops a run: each one is opened and
written in a thread of its own. Trainings use the callbacks that transformers has for these
libraries (`training.tracking`); the run that they write to is in a context variable, so that no
trainer passes it on.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any, Protocol

from rstar_math.errors import MissingDependencyError
from rstar_math.files import file_name
from rstar_math.redaction import redact

PROJECT = "rstar-math"
"""Name of the project (MLflow: experiment) unless the library's own variable names another."""
CLOSE_TIMEOUT_S = 120.0
"""How long the end of a run waits for its trackers to write what is left. On a loaded machine
MLflow needed more than 20 s to start; a shorter limit loses the figures of a short run."""
_QUEUE_SIZE = 10_000
_INVALID = re.compile(r"[^\w\-. /]")
"""Characters that MLflow does not accept in the name of a metric."""
_MAX_PARAMS = 100
"""Parameters in one request to MLflow."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """Which trackers record a run, and its name in them."""

    trackers: tuple[str, ...]
    """Keys of `TRACKERS`."""
    name: str
    """`NAME` or `GROUP/NAME`, for example `evolution/round-1/policy`. A run of the same name
    continues."""

    @property
    def group(self) -> str:
        """The run that this one belongs to: the part of the name before the first slash."""
        return self.name.partition("/")[0]

    @property
    def parent(self) -> str | None:
        """The group; None if the run is not part of one."""
        return self.group if "/" in self.name else None

    def nested(self, part: str) -> "TrackedRun":
        """A run that is part of this one."""
        return replace(self, name=f"{self.name}/{part}")


_current: ContextVar[TrackedRun | None] = ContextVar("rstar_math_tracked_run", default=None)


def current_run() -> TrackedRun | None:
    """Return the run that trainings in this context are recorded as; None if they are not."""
    return _current.get()


@contextmanager
def track_trainings(run: TrackedRun | None) -> Iterator[None]:
    """Record the trainings inside the block as `run`.

    Raises `MissingDependencyError` before the block if a library is missing.
    """
    if run is not None:
        require_trackers(run.trackers)
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)


class Tracker(Protocol):
    """Records the figures of one run. Its methods are called in one thread."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record figures at a step. Raises anything."""
        ...

    def close(self) -> None:
        """Write what is left and end the run. Raises anything."""
        ...


class TensorBoardTracker:
    """Writes TensorBoard's event files to `$TENSORBOARD_LOGGING_DIR/NAME`, by default `runs/NAME`.

    It writes synchronously, so errors of the disk appear where they happen. `add_text` and
    `add_scalar` are those of torch's summary writer, which needs torch.
    """

    def __init__(self, run: TrackedRun, config: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._text = Event, Summary, text_pb
        root = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or "runs").expanduser()
        folder = root.joinpath(*(file_name(part) for part in run.name.split("/")))
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        self._writer: Any = RecordWriter(file.open("wb"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        for name, value in flatten(config).items():
            self.add_text(f"config/{name}", str(value))
        self.flush()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in metrics.items():
            self.add_scalar(name, value, step)
        self.flush()

    def add_scalar(self, tag: str, value: float, step: int | None = None) -> None:
        """Record a figure."""
        entry = self._summary.Value(tag=tag, simple_value=float(value))
        summary = self._summary(value=[entry])
        self._write(self._event(wall_time=time.time(), step=step or 0, summary=summary))

    def add_text(self, tag: str, text: str, step: int | None = None) -> None:
        """Record a text."""
        summary = self._text(tag, text)
        self._write(self._event(wall_time=time.time(), step=step or 0, summary=summary))

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker`. A second call does nothing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())


class WandbTracker:
    """Writes to Weights & Biases, with `step` as the horizontal axis."""

    def __init__(self, run: TrackedRun, config: Mapping[str, Any]) -> None:
        self._run = open_wandb_run(run, config, reinit="create_new")
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log({**metrics, "step": step})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def open_wandb_run(run: TrackedRun, config: Mapping[str, Any], **options: Any) -> Any:
    """Return a new or resumed run of Weights & Biases.

    It records neither the command line, nor the console, nor code.
    """
    import wandb

    settings = wandb.Settings(
        silent=True, console="off", disable_code=True, disable_git=True, x_disable_meta=True
    )
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        name=run.name,
        id=blake2b(run.name.encode(), digest_size=8).hexdigest(),
        resume="allow",
        group=run.group,
        config=dict(config),
        settings=settings,
        **options,
    )


class MlflowTracker:
    """Writes to MLflow. A run that belongs to another one has it as its parent."""

    def __init__(self, run: TrackedRun, config: Mapping[str, Any]) -> None:
        limit_mlflow_retries()
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        experiment = mlflow_experiment(self._client)
        found = find_mlflow_run(self._client, experiment, run.name)
        if found is None:
            tags = mlflow_parent_tag(self._client, experiment, run)
            created = self._client.create_run(experiment, run_name=run.name, tags=tags)
            found = created.info.run_id
            params = [Param(name, str(v)[:6000]) for name, v in flatten(config).items()]
            for start in range(0, len(params), _MAX_PARAMS):
                self._client.log_batch(found, params=params[start : start + _MAX_PARAMS])
        else:
            self._client.update_run(found, status="RUNNING")
        self._run_id = found

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        now_ms = int(time.time() * 1000)
        entries = [self._metric(name, value, now_ms, step) for name, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=entries)

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._run_id)


def limit_mlflow_retries() -> None:
    """Make MLflow give up on a server that is away within seconds, unless the user says otherwise.

    Its own default retries for several minutes.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def mlflow_experiment(client: Any) -> str:
    """Return the id of the experiment, which is created if it is missing."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))


def find_mlflow_run(client: Any, experiment: str, name: str) -> str | None:
    """Return the id of the newest run of this name; None if there is none."""
    quoted = name.replace("'", "")
    found = client.search_runs([experiment], f"attributes.run_name = '{quoted}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def mlflow_parent_tag(client: Any, experiment: str, run: TrackedRun) -> dict[str, str]:
    """Return the tag that makes a run a part of its group; empty if it is not part of one."""
    if run.parent is None:
        return {}
    parent = find_mlflow_run(client, experiment, run.parent)
    return {} if parent is None else {"mlflow.parentRunId": parent}


class TrackioTracker:
    """Writes to Trackio's database on this machine."""

    def __init__(self, run: TrackedRun, config: Mapping[str, Any]) -> None:
        import trackio

        with redirect_stdout(sys.stderr):  # it prints, and stdout may be for JSON
            self._run = trackio.init(
                project=PROJECT,
                name=run.name,
                group=run.group,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        # A training opens a run of its own, which would end this one.
        trackio.context_vars.current_run.set(None)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(metrics), step)

    def close(self) -> None:
        """See `Tracker`."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


TRACKERS: dict[str, Callable[[TrackedRun, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
}
"""The trackers by name. The name is also that of the module and of this package's extra."""


def require_trackers(names: Sequence[str]) -> None:
    """Raise `MissingDependencyError` unless the libraries of the trackers are installed."""
    for name in names:
        if find_spec(name) is None:
            raise MissingDependencyError(
                f"The tracker {name} is not installed; type: pip install 'rstar-math[{name}]'."
            )


def warn(message: str) -> None:
    """Print a warning on stderr."""
    print(f"rstar: {message}", file=sys.stderr, flush=True)


def failure_message(name: str, error: BaseException) -> str:
    """Return the warning for a tracker that failed."""
    text = " ".join(str(redact(str(error))).split())[:160]
    return (
        f"the tracker {name} failed and is switched off ({type(error).__name__}: {text}); the run "
        "continues."
    )


class Trackers:
    """The trackers of one run. All methods return at once and raise nothing."""

    def __init__(
        self, run: TrackedRun, config: Mapping[str, Any], on_warning: Callable[[str], None] = warn
    ) -> None:
        clean = redact(config)
        self._writers = [_Writer(name, run, clean, on_warning) for name in run.trackers]

    def log(self, metrics: Mapping[str, float | None], step: int) -> None:
        """Record figures at a step. Unknown and infinite ones are left out."""
        known = {
            _INVALID.sub("_", name): float(value)
            for name, value in metrics.items()
            if value is not None and isfinite(value)
        }
        if known:
            for writer in self._writers:
                writer.put((known, step))

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is left. Waits at most `timeout_s` for all trackers together."""
        deadline = time.monotonic() + timeout_s
        for writer in self._writers:
            writer.put(None)
        for writer in self._writers:
            writer.join(deadline - time.monotonic())


NO_TRACKERS = Trackers(TrackedRun((), ""), {})
"""Records nothing."""


@contextmanager
def open_trackers(
    run: TrackedRun | None,
    config: Mapping[str, Any],
    *,
    on_warning: Callable[[str], None] = warn,
) -> Iterator[Trackers]:
    """Yield the trackers of a run, which are closed after the block; none if `run` is None.

    `config` is recorded without its secrets. Raises `MissingDependencyError` before the block if a
    library is missing.
    """
    if run is None:
        yield NO_TRACKERS
        return
    require_trackers(run.trackers)
    trackers = Trackers(run, config, on_warning)
    try:
        yield trackers
    finally:
        trackers.close()


class _Writer:
    """One tracker in a thread of its own."""

    def __init__(
        self,
        name: str,
        run: TrackedRun,
        config: Mapping[str, Any],
        on_warning: Callable[[str], None],
    ) -> None:
        self._name, self._on_warning = name, on_warning
        self._queue: Queue[tuple[Mapping[str, float], int] | None] = Queue(_QUEUE_SIZE)
        self._failed = False
        self._thread = Thread(
            target=self._work, args=(run, config), name=f"tracker-{name}", daemon=True
        )
        self._thread.start()

    def put(self, entry: tuple[Mapping[str, float], int] | None) -> None:
        """Hand over an entry; None is the end. An entry is dropped if the tracker does not keep
        up."""
        with suppress(Full):
            self._queue.put_nowait(entry)

    def join(self, timeout_s: float) -> None:
        """Wait until everything is written, at most `timeout_s` seconds."""
        self._thread.join(max(0.0, timeout_s))
        if self._thread.is_alive() and not self._failed:
            self._fail(TimeoutError("it did not finish writing in time"))

    def _work(self, run: TrackedRun, config: Mapping[str, Any]) -> None:
        try:
            tracker = TRACKERS[self._name](run, config)
            while (entry := self._queue.get()) is not None:
                tracker.log(*entry)
            tracker.close()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self._on_warning(failure_message(self._name, error))


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options as `section.key` entries."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        key = f"{prefix}{name}"
        if isinstance(inner, Mapping):
            flat |= flatten(inner, f"{key}.")
        else:
            flat[key] = inner
    return flat


def new_run_name(stem: str) -> str:
    """Return a name for a run that does not continue another one: a stem and the time."""
    return f"{file_name(stem)}-{time.strftime('%Y%m%d-%H%M%S')}"
