"""Scorers without training: a language model judges steps or solutions.

Their tokens are charged as a scorer's (`Cost.scorer_tokens`), whatever the Completer charges. Only
`calls`, `retries` and `failures` are charged unchanged. Seeds derive from `seed` and the prompt, so
the same prefix gives the same request. A prefix is unscorable if its prompt exceeds the model's
context, if the server refuses only this request, or if no judgement can be parsed. It then gets 0
and counts in `Cost.unscorable`. Any other `ModelError` is raised.
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

    A value is the mean of `samples` verdicts (paper: 3) at `temperature` (their code: 0.7).
    Samples without a verdict are left out. With `check`, the model comments on the steps in one
    line of about 25 tokens before each verdict, as in the paper. Without it, the model writes only
    the verdict: about ten times faster, without deliberation. A sample has at most `max_tokens`
    tokens.

    Departures: the verdicts are worth 1, 0 and -1. Theirs are worth 20, 1 and 0.001 and are summed,
    so a single "sure" outweighs all other samples. That only ranks the states of one layer. Values
    here are also backed up and compared with the rewards of wrong and right answers, so they lie in
    [-1, 1]. The comment replaces the lookahead in their prompt for the game of 24.
    """

    def __init__(
        self,
        completer: Completer,
        *,
        samples: int = 3,
        temperature: float = 0.7,
        check: bool = True,
        max_tokens: int = 64,
        seed: int = 0,
    ) -> None:
        stop = VERDICT_STOPS if check else ONE_LINE_STOPS
        self._check = check
        self._sampler = _JudgementSampler(completer, samples, temperature, stop, max_tokens, seed)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. Requests for all prefixes run concurrently."""

        async def value(prefix: Sequence[Step]) -> float:
            prompt = verdict_prompt(question, prefix, check=self._check)
            texts = await self._sampler.sample(question, prompt)
            verdicts = _parse_all(texts, partial(parse_verdict, check=self._check))
            return fmean(verdicts) if verdicts else 0.0

        with reclassify_cost(as_scorer_cost):
            return await gather(value(prefix) for prefix in prefixes)


class SubquestionScorer:
    """Values a sub-question with its answer by RAP's reward (Hao et al. 2023, arXiv:2305.14992,
    section 3.2): r = useful^alpha * confidence^(1 - alpha), all in [0, 1]. The value is 2r - 1.

    `useful` is the share of "yes" in `samples` replies to "Is the new question useful?", asked
    about the last step of each prefix. Prefixes must consist of sub-questions. `confidence` is the
    step's own; without one, r is `useful`. `alpha` is 0.5 in their code for grade-school problems.

    Departures: RAP takes the probability of "Yes" from the model's logits. Servers differ in what
    logits they report, so here it is estimated from samples, in steps of 1 / samples. At
    temperature 1 the samples follow the logits. For a step without a confidence their code uses
    0.8. As in theirs, the value is that of the last step only. The search combines the values of a
    path (theirs takes the mean).
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
        self._sampler = _JudgementSampler(completer, samples, temperature, ONE_LINE_STOPS, 4, seed)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. Requests for all prefixes run concurrently. An empty prefix gets
        0 without a request."""

        async def value(prefix: Sequence[Step]) -> float:
            if not prefix:
                return 0.0
            prompt = useful_prompt(question, prefix)
            replies = _parse_all(await self._sampler.sample(question, prompt), parse_useful)
            if not replies:
                return 0.0
            return 2.0 * self._reward(fmean(replies), prefix[-1].confidence) - 1.0

        with reclassify_cost(as_scorer_cost):
            return await gather(value(prefix) for prefix in prefixes)

    def _reward(self, useful: float, confidence: float | None) -> float:
        """Returns RAP's r, in [0, 1]."""
        if confidence is None:
            return useful
        return float(useful**self._alpha * confidence ** (1.0 - self._alpha))


class SolutionVerifierScorer:
    """Values whole solutions by the policy's own judgement: the "self-verification" that rStar's
    discriminator is compared with (arXiv:2408.06195, table 5).

    A value is 2r - 1, where r is the share of "yes" in `samples` replies to "Is the answer right?".
    The prompt contains the judged solutions of a prompt set. Replies that are neither yes nor no
    are left out. A prefix without a final answer gets 0 without a request. The paper does not give
    its prompt or its number of samples.
    """

    def __init__(
        self,
        completer: Completer,
        prompt_set: str = "school",
        *,
        samples: int = 8,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._prompts = load_action_prompts(prompt_set)
        self._sampler = _JudgementSampler(completer, samples, temperature, ONE_LINE_STOPS, 4, seed)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. Requests for all prefixes run concurrently."""

        async def value(prefix: Sequence[Step]) -> float:
            if not prefix or prefix[-1].answer is None:
                return 0.0
            prompt = verify_prompt(self._prompts, question, prefix)
            replies = _parse_all(await self._sampler.sample(question, prompt), parse_useful)
            return 2.0 * fmean(replies) - 1.0 if replies else 0.0

        with reclassify_cost(as_scorer_cost):
            return await gather(value(prefix) for prefix in prefixes)


@dataclass(frozen=True, slots=True)
class _JudgementSampler:
    """A model and the sampling options for judgements."""

    completer: Completer
    samples: int
    temperature: float
    stop: tuple[str, ...]
    max_tokens: int
    seed: int

    async def sample(self, question: Question, prompt: str) -> list[str]:
        """Returns the samples' texts, including truncated ones: they may contain the verdict.

        Returns none if the prompt does not fit the model's context, or if the server refuses only
        this request.
        """
        try:
            completions = await self.completer.complete(
                prompt,
                n=self.samples,
                stop=self.stop,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                seed=derive(self.seed, question.id, prompt),
            )
        except (ContextLengthError, RequestError):
            return []
        return [completion.text for completion in completions]


def _parse_all(texts: Sequence[str], parse: Callable[[str], T | None]) -> list[T]:
    """Returns the judgements in the texts. Charges `Cost.unscorable` if there are none."""
    judgements = [parsed for text in texts if (parsed := parse(text)) is not None]
    if not judgements:
        add_cost(Cost(unscorable=1))
    return judgements
