"""Scorers without training: a language model judges steps or solutions.

What they use is billed as a scorer's (`Cost.scorer_tokens`), whatever the Completer charges; only
`calls` and what went wrong on the way (`retries`, `failures`) are counted as anyone's. The same
prefix means the same request: seeds come from `seed` and the prompt. A prefix whose prompt does not
fit the model's context, that cannot be served, or in whose judgements nothing can be read, gets 0
and is counted in `Cost.unscorable`; any other `ModelError` is raised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TypeVar

from rstar_math.concurrency import gather
from rstar_math.costs import add_cost, as_scorer_cost, reclassify_cost
from rstar_math.errors import ContextLengthError, RequestError
from rstar_math.prompts.actions import verify_prompt
from rstar_math.prompts.families import load_action_prompts
from rstar_math.prompts.templates import (
    ONE_LINE_STOPS,
    VERDICT_STOPS,
    parse_useful,
    parse_verdict,
    useful_prompt,
    verdict_prompt,
)
from rstar_math.protocols import Completer
from rstar_math.seeding import derive
from rstar_math.types import Cost, Question, Step

T = TypeVar("T")


class SelfEvaluator:
    """Values prefixes of code-augmented steps by the words "sure", "likely" and "impossible": the
    value prompt of Tree of Thoughts (Yao et al. 2023, arXiv:2305.10601, section 3).

    A value is the mean of `samples` verdicts (paper: 3), drawn at `temperature` (their code: 0.7);
    samples in which none can be read are left out. With `check` the model looks at the steps in a
    line of its own before each verdict, of some 25 tokens, as the paper's does; without, it writes
    the verdict alone, which is some ten times faster and less considered. A sample has at most
    `tokens` tokens.

    Departures: the verdicts are worth 1, 0 and -1. Theirs are worth 20, 1 and 0.001, and are
    summed, so that a single "sure" outweighs whatever the other samples say: that ranks the states
    of one layer and no more. Values here lie in [-1, 1], the scale of answers that are wrong and
    right, since they are also backed up and compared with those. The line of checking takes the
    place of the lookahead that their prompt for the game of 24 spells out.
    """

    def __init__(
        self,
        completer: Completer,
        *,
        samples: int = 3,
        temperature: float = 0.7,
        check: bool = True,
        tokens: int = 64,
        seed: int = 0,
    ) -> None:
        stop = VERDICT_STOPS if check else ONE_LINE_STOPS
        self._check = check
        self._judge = _Judge(completer, samples, temperature, stop, tokens, seed)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`; all prefixes are asked about at once."""

        async def value(prefix: Sequence[Step]) -> float:
            prompt = verdict_prompt(question, prefix, check=self._check)
            texts = await self._judge.ask(question, prompt)
            verdicts = _read(texts, partial(parse_verdict, check=self._check))
            return fmean(verdicts) if verdicts else 0.0

        with reclassify_cost(as_scorer_cost):
            return await gather(value(prefix) for prefix in prefixes)


class SubquestionScorer:
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
        self._judge = _Judge(completer, samples, temperature, ONE_LINE_STOPS, 4, seed)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`; all prefixes are asked about at once. An empty prefix asks
        nothing new and is worth 0."""

        async def value(prefix: Sequence[Step]) -> float:
            if not prefix:
                return 0.0
            prompt = useful_prompt(question, prefix)
            said = _read(await self._judge.ask(question, prompt), parse_useful)
            return 2.0 * self._reward(fmean(said), prefix[-1].confidence) - 1.0 if said else 0.0

        with reclassify_cost(as_scorer_cost):
            return await gather(value(prefix) for prefix in prefixes)

    def _reward(self, useful: float, confidence: float | None) -> float:
        """RAP's r, in [0, 1]."""
        if confidence is None:
            return useful
        return float(useful**self._alpha * confidence ** (1.0 - self._alpha))


class SolutionVerifierScorer:
    """Values whole solutions by the policy's own word: the "self-verification" that rStar's
    discriminator is compared with (arXiv:2408.06195, table 5).

    A value is 2r - 1, with r the share of "yes" among `samples` answers to "Is the answer right?"
    after the judged solutions of a `family` of prompts; samples that say neither yes nor no are
    left out. A prefix that does not end in an answer is no solution: it is worth 0, unasked. The
    paper does not give its prompt or the number of samples.
    """

    def __init__(
        self,
        completer: Completer,
        family_name: str = "school",
        *,
        samples: int = 8,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._family = load_action_prompts(family_name)
        self._judge = _Judge(completer, samples, temperature, ONE_LINE_STOPS, 4, seed)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`; all prefixes are asked about at once."""

        async def value(prefix: Sequence[Step]) -> float:
            if not prefix or prefix[-1].answer is None:
                return 0.0
            prompt = verify_prompt(self._family, question, prefix)
            said = _read(await self._judge.ask(question, prompt), parse_useful)
            return 2.0 * fmean(said) - 1.0 if said else 0.0

        with reclassify_cost(as_scorer_cost):
            return await gather(value(prefix) for prefix in prefixes)


@dataclass(frozen=True, slots=True)
class _Judge:
    """A model, and how it is asked for judgements."""

    completer: Completer
    samples: int
    temperature: float
    stop: tuple[str, ...]
    tokens: int
    seed: int

    async def ask(self, question: Question, prompt: str) -> list[str]:
        """The samples' texts, also of those that were cut off, for the word may be in them; none
        where the prompt does not fit the model's context."""
        try:
            completions = await self.completer.complete(
                prompt,
                n=self.samples,
                stop=self.stop,
                max_tokens=self.tokens,
                temperature=self.temperature,
                seed=derive(self.seed, question.id, prompt),
            )
        except (ContextLengthError, RequestError):
            return []
        return [completion.text for completion in completions]


def _read(texts: Sequence[str], read: Callable[[str], T | None]) -> list[T]:
    """What the texts say, without those that say nothing; counted if none does."""
    found = [said for text in texts if (said := read(text)) is not None]
    if not found:
        add_cost(Cost(unscorable=1))
    return found
