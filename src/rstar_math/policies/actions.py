"""The policy of rStar's actions (arXiv:2408.06195, section 3.1)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from rstar_math.concurrency import gather
from rstar_math.config.sections import ActionsConfig
from rstar_math.errors import ContextLengthError, ModelError, RequestError
from rstar_math.policies.completions import of_completion
from rstar_math.policies.unusable import Rejections
from rstar_math.prompts.action_parsing import ANSWER_STOPS, parse_answer
from rstar_math.prompts.actions import (
    ACTIONS,
    ActionResult,
    Parser,
    SampleVote,
    allowed_actions,
    load_actions,
)
from rstar_math.prompts.families import ActionPrompts, load_action_prompts
from rstar_math.protocols import AnswerGrouper, Completer, Completion
from rstar_math.types import Question, Step


class ActionPolicy:
    """Proposes the steps of all actions that may follow a prefix, sampled concurrently.

    An expansion has up to `k` thoughts (A1), up to `k` sub-questions (A3), and one step of each
    other action, so it may have more than `k` steps (paper: k = 5). Every answer except that of a
    thought is chosen by a vote: `votes` samples for the rest of the solution (A2) and for the
    problem's own question, `sub_votes` for other sub-questions and for a re-answer (A4). `group`
    sorts answers into classes. The step is the first sample of the largest class (ties go to the
    class seen first), and its `confidence` is the class's share of all samples that state an
    answer. Samples that are cut off or malformed do not vote; the cost counts them (`truncated`,
    `malformed`).

    A thought that states the final answer ends its path. Its confidence is the share of this
    expansion's A2 votes that agree with it; without such votes, the share of this expansion's
    thoughts that state an answer.

    A path has at most `max_depth` steps; see `prompts.actions.allowed_actions` for the last one. An
    action whose request the server refuses proposes no steps. If all actions are refused, the
    first error is raised.
    """

    def __init__(
        self, completer: Completer, config: ActionsConfig, *, group: AnswerGrouper, max_depth: int
    ) -> None:
        self._completer = completer
        self._config = config
        self._prompts = load_action_prompts(config.prompt_set)
        self._enabled = load_actions(config.enabled)
        self._group = group
        self._max_depth = max_depth

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`. The result may contain more than `k` steps, and equal ones."""
        expansion = _Expansion(
            question=question,
            prefix=prefix,
            prompts=self._prompts,
            config=self._config,
            k=k,
            is_last=len(prefix) + 1 >= self._max_depth,
            seed=seed,
            completer=self._completer,
            group=self._group,
        )
        names = allowed_actions(prefix, self._enabled, depth=self._max_depth)
        outcomes = await gather(_try_action(name, expansion) for name in names)
        results: dict[str, ActionResult] = {}
        errors: list[ModelError] = []
        for name, outcome in zip(names, outcomes, strict=True):
            if isinstance(outcome, ModelError):
                errors.append(outcome)
            else:
                results[name] = outcome
        if errors and not results:
            raise errors[0]
        votes = [answer for result in results.values() for answer in result.answers]
        steps: list[Step] = []
        for name, result in results.items():
            if ACTIONS[name].uses_votes:
                steps += await _with_confidence(result.steps, votes, self._group)
            else:
                steps += result.steps
        return steps


async def _try_action(name: str, expansion: "_Expansion") -> ActionResult | ModelError:
    """What an action proposes, or the error of a request that the server refused."""
    try:
        return await ACTIONS[name].propose(expansion)
    except (ContextLengthError, RequestError) as error:
        return error


async def _with_confidence(
    steps: Sequence[Step], votes: Sequence[str], group: AnswerGrouper
) -> list[Step]:
    """The steps of an action. Those that state the final answer get a confidence: the share of
    `votes` for their answer, or without votes the share of these steps."""
    stated = [step.answer for step in steps if step.answer is not None]
    if not stated:
        return list(steps)
    classes = await group([*stated, *votes])
    counts = Counter(classes[len(stated) :] if votes else classes)
    shares = iter(counts[each] / counts.total() for each in classes[: len(stated)])
    return [s if s.answer is None else replace(s, confidence=next(shares)) for s in steps]


@dataclass(slots=True)
class _Expansion:
    """The `ActionContext` of one expansion."""

    question: Question
    prefix: Sequence[Step]
    prompts: ActionPrompts
    config: ActionsConfig
    k: int
    is_last: bool
    seed: int
    completer: Completer
    group: AnswerGrouper

    async def sample(
        self, prompt: str, parse: Parser, *, n: int, max_tokens: int, stop: Sequence[str], seed: int
    ) -> tuple[Step, ...]:
        """See `ActionContext`."""
        completions: list[Completion] = await self.completer.complete(
            prompt,
            n=n,
            stop=stop,
            max_tokens=max_tokens,
            temperature=self.config.temperature,
            seed=seed,
        )
        samples = [parse(each.text, finished=each.finished) for each in completions]
        rejected = Rejections(lambda: prompt, len(self.prefix))
        for parsed, completion in zip(samples, completions, strict=True):
            if parsed.step is None:
                rejected.add(completion, parsed.problem)
        return tuple(
            of_completion(sample.step, completion)
            for sample, completion in zip(samples, completions, strict=True)
            if sample.step is not None
        )

    async def vote(
        self, prompt: str, *, kind: str, n: int, max_tokens: int, seed: int
    ) -> SampleVote:
        """See `ActionContext`."""
        steps = await self.sample(
            prompt,
            partial(parse_answer, kind=kind),
            n=n,
            max_tokens=max_tokens,
            stop=ANSWER_STOPS,
            seed=seed,
        )
        answers = tuple(step.answer for step in steps if step.answer is not None)
        if not answers:
            return SampleVote(None)
        classes = await self.group(answers)
        [(winner, size)] = Counter(classes).most_common(1)
        step = replace(steps[classes.index(winner)], confidence=size / len(answers))
        return SampleVote(step, answers)
