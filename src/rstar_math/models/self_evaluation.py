"""Scorers without training: a language model judges what was tried, mostly its own work.

What they use is billed as a scorer's (`Cost.scorer_tokens`), whatever the Completer charges; only
`calls` and what went wrong on the way (`retries`, `failures`) are counted as anyone's. The same
prefix means the same request: seeds come from `seed` and the prompt. A prefix whose prompt does not
fit the model's context, or in whose judgements nothing can be read, gets 0 and is counted in
`Cost.unscored`; any other `ModelError` is raised.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TypeVar

from rstar_math.errors import ContextExceeded
from rstar_math.meter import as_scoring, charge, rebilled
from rstar_math.protocols import Completer
from rstar_math.seeding import derive
from rstar_math.steps.judging import (
    STOPS,
    read_useful,
    read_verdict,
    useful_prompt,
    verdict_prompt,
)
from rstar_math.tasks import together
from rstar_math.types import Cost, Question, Step

T = TypeVar("T")


class SelfEvaluator:
    """Values prefixes of code-augmented steps by the words "sure", "likely" and "impossible": the
    value prompt of Tree of Thoughts (Yao et al. 2023, arXiv:2305.10601, section 3).

    A value is the mean of `samples` verdicts (paper: 3), drawn at `temperature` (their code: 0.7)
    with at most `tokens` tokens each; a verdict of which none can be read is left out.

    Departures: the verdicts are worth 1, 0 and -1. Theirs are worth 20, 1 and 0.001, and are
    summed, so that a single "sure" outweighs any number of "likely": that ranks the states of one
    layer and no more. Values here lie in [-1, 1], the scale of answers that are wrong and right,
    since they are also backed up and compared with those. A few words of checking take the place
    of the lookahead that their prompt for the game of 24 spells out.
    """

    def __init__(
        self,
        completer: Completer,
        *,
        samples: int = 3,
        temperature: float = 0.7,
        tokens: int = 64,
        seed: int = 0,
    ) -> None:
        self._ask = _Judge(completer, samples, temperature, tokens, seed)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`; all prefixes are asked about at once."""

        async def value(prefix: Sequence[Step]) -> float:
            prompt = verdict_prompt(question, prefix)
            verdicts = await self._ask.readings(question, prompt, read_verdict)
            return fmean(verdicts) if verdicts else 0.0

        with rebilled(as_scoring):
            return await together(value(prefix) for prefix in prefixes)


class UsefulnessScorer:
    """RAP's reward of a sub-question and its answer (Hao et al. 2023, arXiv:2305.14992, section
    3.2), of which 2r - 1 is the value: r = useful^alpha * confidence^(1 - alpha), all in [0, 1].

    `useful` is the share of "yes" among `samples` answers to "Is the new question useful?". It is
    asked of the last step of each prefix, which must consist of sub-questions. `confidence` is the
    step's own; where a step has none, r is `useful` alone. `alpha` is 0.5 in their code for
    grade-school problems.

    Departures: RAP reads the probability of "Yes" off the model's logits; servers differ in what
    they tell of these, so it is estimated, in steps of 1 / samples, at temperature 1, where
    sampling is true to the logits. For a step without a confidence their code takes 0.8. The
    value is that of the last step only, as theirs; how a path's values are put together is up to
    the search (theirs takes their mean).
    """

    def __init__(
        self,
        completer: Completer,
        *,
        alpha: float = 0.5,
        samples: int = 4,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._alpha = alpha
        self._ask = _Judge(completer, samples, temperature, 4, seed)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`; all prefixes are asked about at once. An empty prefix asks
        nothing new and is worth 0."""

        async def value(prefix: Sequence[Step]) -> float:
            if not prefix:
                return 0.0
            prompt = useful_prompt(question, prefix)
            said = await self._ask.readings(question, prompt, read_useful)
            return 2.0 * self._reward(fmean(said), prefix[-1].confidence) - 1.0 if said else 0.0

        with rebilled(as_scoring):
            return await together(value(prefix) for prefix in prefixes)

    def _reward(self, useful: float, confidence: float | None) -> float:
        """RAP's r, in [0, 1]."""
        if confidence is None:
            return useful
        return float(useful**self._alpha * confidence ** (1.0 - self._alpha))


class _Judge:
    """Asks a model for judgements."""

    def __init__(
        self, completer: Completer, samples: int, temperature: float, tokens: int, seed: int
    ) -> None:
        self._completer = completer
        self._samples = samples
        self._temperature = temperature
        self._tokens = tokens
        self._seed = seed

    async def readings(
        self, question: Question, prompt: str, read: Callable[[str], T | None]
    ) -> list[T]:
        """What the samples say, without those that say nothing; none if the prompt is too long. A
        judgement that was cut off after its word counts."""
        try:
            completions = await self._completer.complete(
                prompt,
                n=self._samples,
                stop=STOPS,
                max_tokens=self._tokens,
                temperature=self._temperature,
                seed=derive(self._seed, question.id, prompt),
            )
        except ContextExceeded:
            completions = []
        found = [word for c in completions if (word := read(c.text)) is not None]
        if not found:
            charge(Cost(unscored=1))
        return found
