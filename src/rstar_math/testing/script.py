"""A policy that follows a script."""

from collections.abc import Callable, Sequence

from rstar_math.meter import charge
from rstar_math.steps import GRAMMAR
from rstar_math.types import Cost, Question, Step

Script = Callable[[Question, Sequence[Step], int, int], Sequence[str]]
"""(question, prefix, k, seed) -> sampled texts, each ended by its mark."""


class ScriptedPolicy:
    """A Policy whose samples come from a function. One call costs one call, and a token a word."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`."""
        texts = list(self._script(question, prefix, k, seed))[:k]
        words = sum(len(text.split()) for text in texts)
        samples = (GRAMMAR.read(prefix, text.removesuffix("/>"), finished=True) for text in texts)
        steps = [sample.step for sample in samples if sample.step is not None]
        charge(
            Cost(
                calls=1,
                samples=len(texts),
                sampled_tokens=words,
                malformed=len(texts) - len(steps),
            )
        )
        return steps
