"""Progress lines of a training, and the error for one that diverges."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import convert_io_errors
from rstar_math.errors import TrainingError

DIVERGED = "diverged.json"
"""Where a training's folder records that it diverged."""


class Progress:
    """Counts what has been trained on and says so: at the first and the last step, and in between
    at most every `every_s` seconds, within long steps too.

    `tokens` counts an example's tokens, `trained` those that its loss is about (None: no such
    count). With several processes, each counts its own share, and the first speaks for all.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        every_s: float,
        tokens: Callable[[Any], int],
        trained: Callable[[Any], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._every_s, self._clock = say, every_s, clock
        self._tokens_of, self._trained_of = tokens, trained
        self._tokens = self._trained = 0
        self._began: float | None = None
        self._first_step = 0
        self._said = -math.inf
        self._state: Any = None
        self._processes = 1
        self._in_step = 0
        self._step_began = 0.0

    def begin(self, state: Any, processes: int = 1) -> None:
        """A step begins; `state` is the trainer's."""
        self._state, self._processes, self._in_step = state, processes, 0
        self._step_began = self._clock()
        if self._began is None:
            self._began, self._first_step = self._step_began, state.global_step
            self._said = self._began

    def part(self, examples: Sequence[Any]) -> None:
        """A micro-batch is done."""
        self._in_step += len(examples)
        self._tokens += self._processes * sum(map(self._tokens_of, examples))
        if self._trained_of is not None:
            self._trained += self._processes * sum(map(self._trained_of, examples))
        state = self._state
        if state is None or not state.is_world_process_zero:
            return
        quiet_s = self._clock() - max(self._said, self._step_began)
        if self._every_s > 0 and quiet_s >= self._every_s:
            done = f"{self._in_step * self._processes} examples done"
            self._line(f"step {state.global_step + 1} of {state.max_steps}, {done}")

    def step(self, loss: float) -> None:
        """A step is done."""
        state = self._state
        if state is None or not state.is_world_process_zero:
            return
        ends = state.global_step in (self._first_step + 1, state.max_steps)
        if ends or self._clock() - self._said >= self._every_s:
            self._line(f"step {state.global_step} of {state.max_steps}, loss {loss:.4f}")

    def _line(self, what: str) -> None:
        assert self._began is not None
        self._said = self._clock()
        spent = max(self._said - self._began, 1e-9)
        rate = f"{self._tokens / spent:.0f} tokens/s"
        if self._trained_of is not None:
            rate += f" ({self._trained / spent:.0f} trained)"
        steps = self._state.global_step - self._first_step
        left = ""
        if steps:
            seconds = spent / steps * (self._state.max_steps - self._state.global_step)
            left = f", {_duration(seconds)} left"
        self._say(f"{what}, {rate}{left}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def watching(progress: Progress, work: Path, settings: Any) -> Any:
    """A callback that reports each step to `progress`, and raises `TrainingError` when the loss or
    the norm of the gradient is infinite or not a number, before a checkpoint is saved."""
    from transformers import TrainerCallback

    class Watching(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.begin(state, args.world_size)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            for name, what in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
                if logs and name in logs and not math.isfinite(float(logs[name])):
                    raise diverged(work, state, what, float(logs[name]), settings)
            if logs and "loss" in logs:
                progress.step(float(logs["loss"]))

    return Watching()


def diverged(work: Path, state: Any, what: str, value: float, settings: Any) -> TrainingError:
    """The error of a training that diverged, which is recorded in its folder too."""
    error = TrainingError(
        f"Training diverged: the {what} was {value} at step {state.global_step} of "
        f"{state.max_steps} with learning_rate {settings.learning_rate:g}; no model was written. "
        f"Lower the learning rate (--set learning_rate={settings.learning_rate / 10:g})."
    )
    if state.is_world_process_zero:
        with convert_io_errors(work):
            (work / DIVERGED).write_text(json.dumps({"message": str(error)}), encoding="utf-8")
    return error


def refuse_diverged(work: Path) -> None:
    """Raise `TrainingError` if the training in this folder diverged: from its checkpoint it would
    do so again."""
    file = work / DIVERGED
    if file.is_file():
        with convert_io_errors(work):
            raise TrainingError(json.loads(file.read_text(encoding="utf-8"))["message"])
