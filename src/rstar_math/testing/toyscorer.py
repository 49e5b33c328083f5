"""The toy world's judges: a scorer that can be wrong, and a verifier that cannot."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rstar_math.meter import charge
from rstar_math.seeding import derive
from rstar_math.testing.toysteps import Effect, effect_of
from rstar_math.types import Cost, Question, Step, Verdict

TEMPTING = 0.9
"""What the scorer sees in a trap that it has not noticed."""


@dataclass(frozen=True, slots=True)
class ToyScorer:
    """A Scorer made of true values, noise and a blind spot; see `ToyWorld.scorer`."""

    value: Callable[[Sequence[Step]], float | None]
    noise: float
    seed: int
    blind: int

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`."""
        read = [question.text, *(step.text for prefix in prefixes for step in prefix)]
        words = sum(len(text.split()) for text in read[1:]) + len(read[0].split()) * len(prefixes)
        charge(Cost(scorer_tokens=words))
        return [self._score(question, prefix) for prefix in prefixes]

    def _score(self, question: Question, prefix: Sequence[Step]) -> float:
        value = TEMPTING if self._tempted(prefix) else self.value(prefix)
        texts = (step.text for step in prefix)
        rng = random.Random(derive(self.seed, "noise", question.id, *texts))
        noisy = (-1.0 if value is None else value) + rng.gauss(0, self.noise)
        return min(1.0, max(-1.0, noisy))

    def _tempted(self, prefix: Sequence[Step]) -> bool:
        """Whether a trap is all that is wrong with a prefix, and not yet noticed."""
        effects = [effect_of(step) for step in prefix]
        if Effect.TRAP not in effects or not set(effects) <= {Effect.RIGHT, Effect.TRAP}:
            return False
        return len(effects) - effects.index(Effect.TRAP) <= self.blind


@dataclass(frozen=True, slots=True)
class ToyVerifier:
    """A Verifier that compares with the reference, character by character."""

    reference: str

    async def judge(self, answer: str) -> Verdict:
        """See `protocols.Verifier`."""
        return Verdict.RIGHT if answer.strip() == self.reference else Verdict.WRONG
