"""The policy of rStar's five actions (arXiv:2408.06195, section 3.1)."""

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rstar_math.concurrency import gather
from rstar_math.config.sections import ActionsConfig
from rstar_math.costs import add_cost
from rstar_math.errors import ContextLengthError, ModelError, RequestError
from rstar_math.prompts.actions import (
    ANSWER_STOPS,
    LINE_STOPS,
    REPHRASING_STOPS,
    allowed_actions,
    effective_question,
    parse_answer,
    parse_rephrasing,
    parse_subquestion,
    parse_thought,
)
from rstar_math.prompts.families import (
    ActionPrompts,
    answer_prompt,
    completion_prompt,
    final_subquestion,
    load_action_prompts,
    reanswer_prompt,
    rephrase_prompt,
    subquestion_prompt,
    thought_prompt,
)
from rstar_math.prompts.grammar import ParsedSample
from rstar_math.prompts.subquestions import is_final_subquestion
from rstar_math.protocols import AnswerGrouper, Completer, Completion
from rstar_math.seeding import derive
from rstar_math.types import Cost, Question, Step


@dataclass(frozen=True, slots=True)
class _ActionResult:
    """What one action brought."""

    steps: tuple[Step, ...] = ()
    votes: tuple[str, ...] = ()
    """The answers that stood for election, for a vote on the problem's own question."""
    error: ModelError | None = None
    """Why it brought nothing, where its request could not be served."""


class ActionPolicy:
    """Proposes the steps of all actions that may follow a prefix (rStar, arXiv:2408.06195, section
    3.1), asked for side by side.

    For `k`, an expansion holds up to `k` thoughts (A1) and up to `k` sub-questions (A3), and one
    step of each other action (paper: k = 5); so it may hold more than `k` steps. Every answer but
    that of a thought is put to the vote: `votes` samples for the rest of the solution (A2) and for
    the problem's own question, `sub_votes` for other sub-questions and for an answer given again
    (A4). Answers are sorted by `group`; the step is the first sample of the largest class, of
    equally large ones the first seen, and its `confidence` the class's share of all samples that
    state an answer. Samples that are cut off or not well formed are counted in the cost
    (`truncated`, `malformed`), and have no vote.

    A thought that states the final answer ends its path. Its confidence is the share of this
    expansion's A2 votes that agree with it; without such votes, the share of this expansion's
    thoughts with an answer.

    A path has at most `depth` steps; see `steps.actions.allowed_actions` for the last one. An
    action whose request cannot be served brings no steps; the error is raised where none could.
    """

    def __init__(
        self, completer: Completer, config: ActionsConfig, *, group: AnswerGrouper, depth: int
    ) -> None:
        self._completer = completer
        self._config = config
        self._family = load_action_prompts(config.prompt_set)
        self._group = group
        self._depth = depth

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`, but for the number of steps; the result may hold equal ones."""
        last = len(prefix) + 1 >= self._depth
        turn = _ActionRequest(
            self._completer,
            self._config,
            self._family,
            self._group,
            question,
            prefix,
            k,
            seed,
            last,
        )
        actions = allowed_actions(prefix, self._config.enabled, depth=self._depth)
        found = dict(zip(actions, await gather(turn.run(a) for a in actions), strict=True))
        errors = [each.error for each in found.values() if each.error is not None]
        if errors and len(errors) == len(found):
            raise errors[0]
        if "A1" in found:
            votes = found["A2"].votes if "A2" in found else ()
            found["A1"] = _ActionResult(tuple(await turn.with_confidence(found["A1"].steps, votes)))
        return [step for each in found.values() for step in each.steps]


@dataclass(frozen=True, slots=True)
class _ActionRequest:
    """One expansion: what is asked, and of whom."""

    completer: Completer
    config: ActionsConfig
    family: ActionPrompts
    group: AnswerGrouper
    question: Question
    prefix: Sequence[Step]
    k: int
    seed: int
    last: bool
    """Whether the path's last step is asked for."""

    async def run(self, action: str) -> _ActionResult:
        """What an action brings, or the error of a request that cannot be served."""
        actions: dict[str, Callable[[], Coroutine[Any, Any, _ActionResult]]] = {
            "A1": self._thoughts,
            "A2": self._rest,
            "A3": self._subquestions,
            "A4": self._again,
            "A5": self._rephrasing,
        }
        try:
            return await actions[action]()
        except (ContextLengthError, RequestError) as error:
            return _ActionResult(error=error)

    async def with_confidence(self, thoughts: Sequence[Step], votes: Sequence[str]) -> list[Step]:
        """Thoughts, with a confidence where they state the final answer."""
        stated = [step.answer for step in thoughts if step.answer is not None]
        if not stated:
            return list(thoughts)
        classes = await self.group([*stated, *votes])
        electors = Counter(classes[len(stated) :] if votes else classes)
        shares = iter(electors[each] / electors.total() for each in classes[: len(stated)])
        return [s if s.answer is None else replace(s, confidence=next(shares)) for s in thoughts]

    async def _thoughts(self) -> _ActionResult:
        prompt = thought_prompt(self.family, self.question, self.prefix)
        texts = await self._ask(
            prompt, self.k, self.config.thought_tokens, LINE_STOPS, derive(self.seed, "A1")
        )
        return _ActionResult(
            _kept([parse_thought(t.text, finished=t.finished) for t in texts], texts)
        )

    async def _rest(self) -> _ActionResult:
        prompt = completion_prompt(self.family, self.question, self.prefix)
        n, tokens = self.config.votes, self.config.solution_tokens
        step, votes = await self._vote(prompt, "A2", n, tokens, derive(self.seed, "A2"))
        return _ActionResult((step,) if step else (), votes)

    async def _subquestions(self) -> _ActionResult:
        if self.last:
            asked = [final_subquestion(self.question, self.prefix)]
        else:
            prompt = subquestion_prompt(self.family, self.question, self.prefix)
            texts = await self._ask(
                prompt, self.k, self.config.question_tokens, LINE_STOPS, derive(self.seed, "A3")
            )
            samples = [parse_subquestion(t.text, finished=t.finished) for t in texts]
            asked = list(dict.fromkeys(step.text for step in _kept(samples, texts)))
        steps = await gather(self._answered(each) for each in asked)
        return _ActionResult(tuple(step for step in steps if step is not None))

    async def _answered(self, subquestion: str) -> Step | None:
        """A sub-question with the answer that most samples give; None where no sample gives one."""
        ends = is_final_subquestion(effective_question(self.question, self.prefix), subquestion)
        prompt = answer_prompt(self.family, self.question, self.prefix, subquestion)
        n = self.config.votes if ends else self.config.sub_votes
        seed = derive(self.seed, "A3", subquestion)
        step, _ = await self._vote(prompt, "A3", n, self.config.answer_tokens, seed)
        if step is None:
            return None
        prose = f"{subquestion}\nAnswer: {step.prose}"
        return replace(step, prose=prose, answer=step.answer if ends else None)

    async def _again(self) -> _ActionResult:
        prompt = reanswer_prompt(self.family, self.question, self.prefix)
        n, tokens = self.config.sub_votes, self.config.solution_tokens
        step, _ = await self._vote(prompt, "A4", n, tokens, derive(self.seed, "A4"))
        return _ActionResult((replace(step, answer=None),) if step else ())

    async def _rephrasing(self) -> _ActionResult:
        prompt = rephrase_prompt(self.family, self.question)
        texts = await self._ask(
            prompt, 1, self.config.answer_tokens, REPHRASING_STOPS, derive(self.seed, "A5")
        )
        return _ActionResult(
            _kept([parse_rephrasing(t.text, finished=t.finished) for t in texts], texts)
        )

    async def _vote(
        self, prompt: str, kind: str, n: int, tokens: int, seed: int
    ) -> tuple[Step | None, tuple[str, ...]]:
        """The first sample with the answer that most give, and all answers."""
        texts = await self._ask(prompt, n, tokens, ANSWER_STOPS, seed)
        samples = [parse_answer(t.text, kind=kind, finished=t.finished) for t in texts]
        steps = _kept(samples, texts)
        answers = tuple(step.answer for step in steps if step.answer is not None)
        if not answers:
            return None, ()
        classes = await self.group(answers)
        [(winner, size)] = Counter(classes).most_common(1)
        return replace(steps[classes.index(winner)], confidence=size / len(answers)), answers

    async def _ask(
        self, prompt: str, n: int, tokens: int, stop: Sequence[str], seed: int
    ) -> list[Completion]:
        return await self.completer.complete(
            prompt,
            n=n,
            stop=stop,
            max_tokens=tokens,
            temperature=self.config.temperature,
            seed=seed,
        )


def _kept(samples: Sequence[ParsedSample], completions: Sequence[Completion]) -> tuple[Step, ...]:
    """The steps among some samples; the others are counted in the cost."""
    bad = [c for s, c in zip(samples, completions, strict=True) if s.step is None]
    cut = sum(not completion.finished for completion in bad)
    add_cost(Cost(truncated=cut, malformed=len(bad) - cut))
    return tuple(sample.step for sample in samples if sample.step is not None)
