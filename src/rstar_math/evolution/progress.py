"""Progress events and the budget of an evolution."""

from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from rstar_math.errors import RstarError
from rstar_math.tracking import Trackers
from rstar_math.types import Problem


class BudgetSpent(RstarError):
    """The budget of this call is spent. Finished work is kept; the same command resumes."""

    exit_code = 3


class ProgressListener(Protocol):
    """Receives the progress events of an evolution."""

    def begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        """A stage starts or resumes; `done` of its `total` problems are finished.

        `total` is None for a stage that does not count problems, such as a training.
        """
        ...

    def advance(self, problem: Problem, *, solved: bool, tokens: int) -> None:
        """The current stage finished a problem with `tokens` sampled tokens."""
        ...

    def say(self, line: str) -> None:
        """A log line of a training, or a result."""
        ...


class NullListener:
    """A `ProgressListener` that ignores all events."""

    def begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        """See `ProgressListener`."""

    def advance(self, problem: Problem, *, solved: bool, tokens: int) -> None:
        """See `ProgressListener`."""

    def say(self, line: str) -> None:
        """See `ProgressListener`."""


class TrackedListener:
    """A `ProgressListener` that also records the progress of searches with trackers."""

    def __init__(self, listener: ProgressListener, trackers: Trackers) -> None:
        self._listener, self._trackers = listener, trackers
        self._stage = ""
        self._done = self._searched = self._solved = self._tokens = 0

    def begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        """See `ProgressListener`."""
        self._listener.begin(stage, description, total, done)
        self._stage, self._done = f"round-{stage}", done
        self._searched = self._solved = self._tokens = 0

    def advance(self, problem: Problem, *, solved: bool, tokens: int) -> None:
        """See `ProgressListener`. The figures count the problems since the last `begin`."""
        self._listener.advance(problem, solved=solved, tokens=tokens)
        self._done += 1
        self._searched += 1
        self._solved += solved
        self._tokens += tokens
        figures = {
            f"{self._stage}/solved_share": self._solved / self._searched,
            f"{self._stage}/sampled_tokens": float(self._tokens),
        }
        self._trackers.log(figures, self._done)

    def say(self, line: str) -> None:
        """See `ProgressListener`."""
        self._listener.say(line)


@dataclass(slots=True)
class RunBudget:
    """Limits of one call, checked after each problem and before each stage."""

    hours: float | None = None
    """Maximum wall time; None for no limit."""
    tokens: int | None = None
    """Maximum sampled tokens of all searches; None for no limit."""
    began: float = field(default_factory=monotonic)
    """Start of the call, in `time.monotonic` seconds."""
    spent: int = 0
    """Tokens sampled so far."""

    def charge(self, tokens: int) -> None:
        """Add sampled tokens. Raises `BudgetSpent`."""
        self.spent += tokens
        self.check()

    def check(self) -> None:
        """Raise `BudgetSpent` if a limit is reached."""
        hours = (monotonic() - self.began) / 3600
        if self.hours is not None and hours >= self.hours:
            raise BudgetSpent(
                f"The budget of {self.hours:g} hours is spent; run the same command again to "
                "resume."
            )
        if self.tokens is not None and self.spent >= self.tokens:
            raise BudgetSpent(
                f"The budget of {self.tokens} tokens is spent ({self.spent} sampled); run the same "
                "command again to resume."
            )
