"""Progress lines of a training, and the error for a training that diverges."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import convert_io_errors
from rstar_math.errors import TrainingError

DIVERGED_FILE = "diverged.json"
"""File in a training's working folder that records that it diverged."""


class Progress:
    """Logs the progress of a training.

    A line is logged after the first and the last step, and in between at most every `every_s`
    seconds, also within long steps. `tokens` counts an example's tokens, `trained` those that the
    loss covers (None: not counted). With several processes, the first logs for all, and multiplies
    its own counts by their number.
    """

    def __init__(
        self,
        log: Callable[[str], None],
        *,
        every_s: float,
        tokens: Callable[[Any], int],
        trained: Callable[[Any], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._every_s, self._clock = log, every_s, clock
        self._tokens_of, self._trained_of = tokens, trained
        self._tokens = self._trained = 0
        self._started: float | None = None
        self._first_step = 0
        self._last_line = -math.inf
        self._state: Any = None
        self._processes = 1
        self._examples_in_step = 0
        self._step_started = 0.0

    def begin_step(self, state: Any, processes: int = 1) -> None:
        """Record the start of a step. `state` is the trainer's state object in transformers."""
        self._state, self._processes, self._examples_in_step = state, processes, 0
        self._step_started = self._clock()
        if self._started is None:
            self._started, self._first_step = self._step_started, state.global_step
            self._last_line = self._started

    def end_micro_batch(self, examples: Sequence[Any]) -> None:
        """Record a finished micro-batch."""
        self._examples_in_step += len(examples)
        self._tokens += self._processes * sum(map(self._tokens_of, examples))
        if self._trained_of is not None:
            self._trained += self._processes * sum(map(self._trained_of, examples))
        state = self._state
        if state is None or not state.is_world_process_zero:
            return
        quiet_s = self._clock() - max(self._last_line, self._step_started)
        if self._every_s > 0 and quiet_s >= self._every_s:
            done = f"{self._examples_in_step * self._processes} examples done"
            self._log_line(f"step {state.global_step + 1} of {state.max_steps}, {done}")

    def end_step(self, loss: float) -> None:
        """Record a finished step."""
        state = self._state
        if state is None or not state.is_world_process_zero:
            return
        first_or_last = state.global_step in (self._first_step + 1, state.max_steps)
        if first_or_last or self._clock() - self._last_line >= self._every_s:
            self._log_line(f"step {state.global_step} of {state.max_steps}, loss {loss:.4f}")

    def _log_line(self, text: str) -> None:
        """Log a text with the rate and the remaining time."""
        assert self._started is not None
        self._last_line = self._clock()
        elapsed = max(self._last_line - self._started, 1e-9)
        rate = f"{self._tokens / elapsed:.0f} tokens/s"
        if self._trained_of is not None:
            rate += f" ({self._trained / elapsed:.0f} trained)"
        steps = self._state.global_step - self._first_step
        left = ""
        if steps:
            seconds = elapsed / steps * (self._state.max_steps - self._state.global_step)
            left = f", {_duration(seconds)} left"
        self._log(f"{text}, {rate}{left}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progress_callback(progress: Progress, work: Path, settings: Any) -> Any:
    """A trainer callback that reports each step to `progress`.

    It raises `TrainingError` if the loss or the gradient norm is infinite or NaN, before a
    checkpoint of that step is saved.
    """
    from transformers import TrainerCallback

    class ProgressCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.begin_step(state, args.world_size)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            for key, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
                if logs and key in logs and not math.isfinite(float(logs[key])):
                    raise divergence_error(work, state, name, float(logs[key]), settings)
            if logs and "loss" in logs:
                progress.end_step(float(logs["loss"]))

    return ProgressCallback()


def divergence_error(
    work: Path, state: Any, name: str, value: float, settings: Any
) -> TrainingError:
    """The error for a training that diverged. It is also recorded in the working folder."""
    error = TrainingError(
        f"Training diverged: the {name} was {value} at step {state.global_step} of "
        f"{state.max_steps} with learning_rate {settings.learning_rate:g}; no model was written. "
        f"Lower the learning rate (--set learning_rate={settings.learning_rate / 10:g})."
    )
    if state.is_world_process_zero:
        with convert_io_errors(work):
            (work / DIVERGED_FILE).write_text(json.dumps({"message": str(error)}), encoding="utf-8")
    return error


def require_not_diverged(work: Path) -> None:
    """Raise `TrainingError` if the training in this folder diverged.

    Resumed from its last checkpoint, it would diverge again.
    """
    file = work / DIVERGED_FILE
    if file.is_file():
        with convert_io_errors(work):
            raise TrainingError(json.loads(file.read_text(encoding="utf-8"))["message"])
