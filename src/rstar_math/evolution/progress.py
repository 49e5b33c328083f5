"""Progress events and budget of an evolution."""

from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from rstar_math.errors import RstarError
from rstar_math.types import Problem


class BudgetSpent(RstarError):
    """The budget of this call is spent; what was done is kept, and the same command goes on."""

    exit_code = 3


class ProgressListener(Protocol):
    """Whoever looks on."""

    def begin(self, stage: str, what: str, total: int | None, done: int) -> None:
        """A stage begins, or goes on: how many problems it has and how many are done."""
        ...

    def advance(self, problem: Problem, *, solved: bool, tokens: int) -> None:
        """One more problem of the stage is done."""
        ...

    def say(self, line: str) -> None:
        """A line of a training, or a result."""
        ...


class NullListener:
    """A watch that tells nobody."""

    def begin(self, stage: str, what: str, total: int | None, done: int) -> None:
        """See `ProgressListener`."""

    def advance(self, problem: Problem, *, solved: bool, tokens: int) -> None:
        """See `ProgressListener`."""

    def say(self, line: str) -> None:
        """See `ProgressListener`."""


@dataclass(slots=True)
class RunBudget:
    """What one call may spend; it is looked at after each problem and before each stage."""

    hours: float | None = None
    """Wall time."""
    tokens: int | None = None
    """Sampled tokens of all searches."""
    began: float = field(default_factory=monotonic)
    spent: int = 0

    def charge(self, tokens: int) -> None:
        """Count sampled tokens. Raises `BudgetSpent`."""
        self.spent += tokens
        self.check()

    def check(self) -> None:
        """Raise `BudgetSpent` where nothing is left."""
        hours = (monotonic() - self.began) / 3600
        if self.hours is not None and hours >= self.hours:
            raise BudgetSpent(
                f"{self.hours:g} hours are over; type the same again to go on where it stopped."
            )
        if self.tokens is not None and self.spent >= self.tokens:
            raise BudgetSpent(
                f"{self.spent} tokens are sampled, the budget of this call; type the same again to "
                "go on where it stopped."
            )
