"""Judges: a chat model as Scorer of steps, or as the referee of two solutions.

Their tokens are charged as a scorer's (`Cost.scorer_tokens`), as those of `self_evaluation` are.
They count against a token budget with `search.budget` = "all". Seeds derive from the configured
seed and the prompt, so the same prefix gives the same request.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

from rstar_math.concurrency import gather
from rstar_math.config.sections import JudgeConfig
from rstar_math.costs import add_cost, as_scorer_cost, reclassify_cost
from rstar_math.errors import ContextLengthError, RequestError
from rstar_math.prompts.judging import (
    JUDGEMENT_STYLES,
    Messages,
    pair_messages,
    parse_preference,
    plain_prompt,
    read_rubric,
)
from rstar_math.prompts.rendering import Conversation
from rstar_math.prompts.step_rewards import reward_steps
from rstar_math.protocols import Completer
from rstar_math.seeding import derive
from rstar_math.types import Cost, Question, Step


class _Judge:
    """A model with the options of its judgements."""

    def __init__(
        self,
        completer: Completer,
        config: JudgeConfig,
        conversation: Conversation | None,
        seed: int,
    ) -> None:
        self._completer, self._config = completer, config
        self._conversation, self._seed = conversation, seed

    async def verdicts(
        self,
        question: Question,
        messages: Messages,
        parse: Callable[[str], float | None],
        *,
        partial: str = "",
        stop: tuple[str, ...] = (),
    ) -> list[float]:
        """Return the verdicts of `votes` samples; those without one are left out.

        Empty, and charged as unscorable, if the prompt does not fit, the server refuses only this
        request, or no sample has a verdict.
        """
        if self._conversation is None:
            prompt, stops = f"{plain_prompt(messages)} {partial}".rstrip(" "), stop
        else:
            prompt = self._conversation.prompt(messages, partial)
            stops = (*stop, *self._conversation.stops)
        try:
            completions = await self._completer.complete(
                prompt,
                n=self._config.votes,
                stop=stops,
                max_tokens=self._config.tokens,
                temperature=self._config.temperature,
                seed=derive(self._seed, question.id, "judge", prompt),
            )
        except (ContextLengthError, RequestError):
            completions = []
        texts = [f"{each.reasoning}\n{partial}{each.text}" for each in completions]
        found = [value for text in texts if (value := parse(text)) is not None]
        if not found:
            add_cost(Cost(unscorable=1))
        return found


class JudgeScorer:
    """Values prefixes by the mean verdict of a chat model (`judge.style`), in [-1, 1].

    A prefix without steps, and one without any verdict, has the value 0.
    """

    reads_prose = True

    def __init__(
        self,
        completer: Completer,
        config: JudgeConfig,
        conversation: Conversation | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self._judge = _Judge(completer, config, conversation, seed)
        self._style = JUDGEMENT_STYLES[config.style]
        self._rubric = read_rubric(config.rubric)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. Requests for all prefixes run concurrently."""

        async def value(prefix: Sequence[Step]) -> float:
            if not prefix:
                return 0.0
            steps = reward_steps(prefix)
            verdicts = await self._judge.verdicts(
                question,
                self._style.messages(question, steps, self._rubric),
                self._style.parse,
                partial=self._style.partial(len(steps)),
                stop=self._style.stop,
            )
            return fmean(verdicts) if verdicts else 0.0

        with reclassify_cost(as_scorer_cost):
            return await gather(value(prefix) for prefix in prefixes)


class PairwiseJudge:
    """Compares two solutions. Both orders are asked, so a preference for a place cancels out."""

    def __init__(
        self,
        completer: Completer,
        config: JudgeConfig,
        conversation: Conversation | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self._judge = _Judge(completer, config, conversation, seed)
        self._rubric = read_rubric(config.rubric)

    async def compare(
        self, question: Question, first: Sequence[Step], second: Sequence[Step]
    ) -> float:
        """Return the share of the verdicts for `first`, in [0, 1]; 0.5 is a tie.

        An order without any verdict counts as a tie. Raises `ModelError`.
        """

        async def ask(a: Sequence[Step], b: Sequence[Step]) -> float:
            messages = pair_messages(question, a, b, self._rubric)
            verdicts = await self._judge.verdicts(question, messages, parse_preference)
            return fmean(verdicts) if verdicts else 0.5

        with reclassify_cost(as_scorer_cost):
            forward, backward = await gather((ask(first, second), ask(second, first)))
        return (forward + 1.0 - backward) / 2.0
