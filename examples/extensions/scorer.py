"""A scorer of your own: it prefers short programs and calls no model.

PYTHONPATH=examples rstar solve "..." --set search.scorer=extensions.scorer:brevity
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from rstar_math.config import Config
from rstar_math.protocols import Completer, Scorer
from rstar_math.types import Question, Step


class Brevity:
    """Values a prefix by its length: 1 for nothing, -1 for `longest` characters of code."""

    def __init__(self, longest: int = 1000) -> None:
        self.longest = longest

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """One value in [-1, 1] per prefix."""
        sizes = [sum(len(step.code) for step in prefix) for prefix in prefixes]
        return [max(-1.0, 1 - 2 * size / self.longest) for size in sizes]


@asynccontextmanager
async def brevity(config: Config, model: Completer | None) -> AsyncIterator[Scorer]:
    """Opens the scorer for the lifetime of a solver. A scorer with a server would start it here."""
    yield Brevity()
