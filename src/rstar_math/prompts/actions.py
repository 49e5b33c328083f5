"""rStar's actions (Qi et al. 2024, arXiv:2408.06195, section 3.1): one table, `ACTIONS`.

An entry says how the action is sampled, which steps it may follow and how its step reads as part of
a solution. To add an action, write one entry, here or outside the package
(`load_actions`). A path is a list of `Step`s whose `kind` is the name of an action. Their prose:

    A1  a thought, one line:             He has 3 * 4 = 12 apples.
    A2  the rest of the solution:        He eats 2 of the 12, so 10 are left. The answer is 10.
    A3  a sub-question and its answer:   see `prompts.subquestions`
    A4  that sub-question, re-answered:  He has 4 + 4 + 4 = 12 apples. The answer is 12.
    A5  the question, rephrased:         Condition 1: Tim has 3 bags. ... Question: How many?

Only a step that ends its path has an `answer`: A2, A3 on the problem's own question, and an A1 that
states the final answer.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from rstar_math.concurrency import gather
from rstar_math.config.loading import import_object
from rstar_math.config.sections import ActionsConfig
from rstar_math.errors import ConfigError
from rstar_math.extraction import extract_answer
from rstar_math.prompts.action_parsing import (
    LINE_STOPS,
    REPHRASING_STOPS,
    parse_rephrasing,
    parse_subquestion,
    parse_thought,
    states_answer,
)
from rstar_math.prompts.families import VERIFY_QUESTION, ActionPrompts, chain_prompt, question_line
from rstar_math.prompts.grammar import ParsedSample
from rstar_math.prompts.subquestions import (
    FINAL_PREFIX,
    is_final_subquestion,
    last_sentence,
    render_subquestions,
    subquestion_of,
)
from rstar_math.seeding import derive
from rstar_math.types import Question, Step


class Parser(Protocol):
    """Reads one sample."""

    def __call__(self, text: str, *, finished: bool) -> ParsedSample:
        """A step, or why the text is not one. `finished` is False for a text cut off at its
        token limit."""


class ActionContext(Protocol):
    """The inputs and the sampling functions of an action."""

    question: Question
    prefix: Sequence[Step]
    prompts: ActionPrompts
    config: ActionsConfig
    k: int
    """Maximum number of thoughts, and of sub-questions, to sample (K)."""
    is_last: bool
    """Whether the proposed step is the last one that the path may have."""
    seed: int
    """The expansion's seed; derive the action's own with `derive(seed, name)`."""

    async def sample(
        self, prompt: str, parse: Parser, *, n: int, max_tokens: int, stop: Sequence[str], seed: int
    ) -> tuple[Step, ...]:
        """Sample `n` completions and return the parsed steps. The cost counts those that do not
        parse."""

    async def vote(
        self, prompt: str, *, kind: str, n: int, max_tokens: int, seed: int
    ) -> "SampleVote":
        """Sample `n` solutions that end by stating an answer, and take a majority vote."""


@dataclass(frozen=True, slots=True)
class SampleVote:
    """The result of a majority vote over the samples of one prompt."""

    step: Step | None
    """The first sample of the largest class, with that class's share as its confidence. None if
    no sample states an answer."""
    answers: tuple[str, ...] = ()
    """The answers of all samples."""


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What an action proposes."""

    steps: tuple[Step, ...] = ()
    answers: tuple[str, ...] = ()
    """Sampled answers to the whole problem. They are votes for `Action.uses_votes`."""


def _plain_text(step: Step) -> str:
    return step.text.strip()


@dataclass(frozen=True, slots=True)
class Action:
    """An entry of `ACTIONS`."""

    name: str
    """The `Step.kind` of its steps. Seeds derive from it."""
    label: str
    """Shown in the viewer and by `rstar solve`."""
    propose: Callable[[ActionContext], Awaitable[ActionResult]]
    follows: frozenset[str | None]
    """Kinds of steps that the action may follow; None is the root."""
    ends: Literal["always", "if last", "if stated", "never"] = "never"
    """When its step ends the path: always, if it is the path's last step, if it states an answer,
    or never."""
    followed_by: frozenset[str] = frozenset()
    """Further actions that may follow it, for an action that others do not name in `follows`."""
    solution_text: Callable[[Step], str] = _plain_text
    """The step as part of a whole solution; "" if it contributes nothing."""
    rephrases: bool = False
    """Whether its step takes the place of the question. Such a step is the path's first."""
    revises: bool = False
    """Whether its step takes the place of the answer of the sub-question before it."""
    asks_subquestion: bool = False
    """Whether its step is a sub-question with its answer, as the prompt for the next sub-question
    shows them."""
    uses_votes: bool = False
    """Whether a step that states the final answer gets its confidence from the votes of the other
    actions of the same expansion; without votes, from the action's own steps."""


# Paths.


def label(step: Step) -> str:
    """The label of a step's action, with the step's share of the votes; "" without an action."""
    action = ACTIONS.get(step.kind)
    if action is None:
        return ""
    share = "" if step.confidence is None else f", {step.confidence:.0%} of the votes"
    return f"{action.label}{share}"


def load_actions(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the actions that `actions.enabled` selects.

    An entry is a name in `ACTIONS`, or "module:NAME" of an `Action` elsewhere, which is added to
    the table. Raises `ConfigError` for an unknown name, and for an outside action with the name
    of another one.
    """
    return tuple(_load_action(name) for name in names)


def check_actions(names: Sequence[str]) -> None:
    """Raise `ConfigError` if `load_actions` would, or if no selected action can end a path."""
    if all(ACTIONS[name].ends == "never" for name in load_actions(names)):
        ending = ", ".join(name for name, action in ACTIONS.items() if action.ends != "never")
        raise ConfigError(
            f"No action in actions.enabled can end a path; add at least one of {ending}."
        )


def _load_action(name: str) -> str:
    if name in ACTIONS:
        return name
    if ":" not in name:
        known = ", ".join(ACTIONS)
        raise ConfigError(f"Unknown action {name!r}; use {known} or module:NAME.")
    action = import_object(name)
    if not isinstance(action, Action):
        raise ConfigError(f"{name} is not an Action; it is {type(action).__name__}.")
    if ACTIONS.setdefault(action.name, action) is not action:
        raise ConfigError(f"{name} has the name of another action, {action.name!r}; rename it.")
    return action.name


def ends_path(step: Step) -> bool:
    """Whether a path ends with this step."""
    return step.answer is not None or (step.kind in ACTIONS and ACTIONS[step.kind].ends == "always")


def allowed_actions(
    prefix: Sequence[Step], enabled: Sequence[str], *, depth: int
) -> tuple[str, ...]:
    """The enabled actions that may follow a prefix, in the order of `ACTIONS`; none after its end.

    A path has at most `depth` steps, including a rephrasing (A5). Its last step must be able to end
    it: A2, or A3 on the problem's own question. If neither may follow, it is A1, which may state
    the answer.
    """
    if len(prefix) >= depth or (prefix and ends_path(prefix[-1])):
        return ()
    last = prefix[-1].kind if prefix else None
    if last is not None and last not in ACTIONS:
        raise ConfigError(
            f"The tree has steps of kind {last!r}, which rStar's actions cannot continue; start a "
            "new tree, or use the strategy that grew it."
        )
    after = ACTIONS[last].followed_by if last is not None else frozenset()
    found = [
        action
        for action in ACTIONS.values()
        if action.name in enabled and (last in action.follows or action.name in after)
    ]
    if len(prefix) + 1 >= depth:
        ending = [action for action in found if action.ends in ("always", "if last")]
        found = ending or [action for action in found if action.ends == "if stated"]
    return tuple(action.name for action in found)


def effective_question(question: Question, prefix: Sequence[Step]) -> Question:
    """The question that a path answers: the rephrased one if its first step is a rephrasing."""
    if not prefix or prefix[0].kind not in ACTIONS or not ACTIONS[prefix[0].kind].rephrases:
        return question
    lines = prefix[0].text.split("\n")
    *conditions, last = (line if line[-1:] in ".!?" else f"{line}." for line in lines)
    text = " ".join([*conditions, last.removeprefix("Question: ")])
    return replace(question, text=text)


def with_revised_answers(steps: Sequence[Step]) -> list[Step]:
    """The steps without A4: each A4 replaces the answer of the A3 before it."""
    kept: list[Step] = []
    for step in steps:
        if step.kind in ACTIONS and ACTIONS[step.kind].revises and kept:
            first = kept.pop()
            kept.append(replace(first, prose=f"{subquestion_of(first)}\nAnswer: {step.text}"))
        else:
            kept.append(step)
    return kept


def _asks_subquestion(step: Step) -> bool:
    return step.kind in ACTIONS and ACTIONS[step.kind].asks_subquestion


def as_solution_text(step: Step) -> str:
    """A step as part of a whole solution; "" for a rephrased question."""
    action = ACTIONS.get(step.kind)
    return _plain_text(step) if action is None else action.solution_text(step)


_SEGMENT = re.compile(r"\s*\S(?:[^\n]*?[.!?](?=\s|\Z)|[^\n]*)")


def solution_segments(question: Question, steps: Sequence[Step]) -> list[str]:
    """A path as sentences and lines, so that it can be cut in two at any of them.

    Joined by "" they are the solution as a chain-of-thought prompt shows it after "Answer:", except
    for the space before it. Sub-questions and their intermediate "The answer is 12." are left out.
    A re-answer (A4) replaces the first answer. A rephrased question (A5) contributes nothing.
    Everything from the first statement of the final answer on is one segment, so all but the last
    segment never show the answer.
    """
    del question  # the steps alone decide; the signature is that of other segmenters
    text = " ".join(filter(None, (as_solution_text(step) for step in with_revised_answers(steps))))
    segments = _SEGMENT.findall(text)
    for at, segment in enumerate(segments):
        if states_answer(segment):
            return [*segments[:at], "".join(segments[at:])]
    return segments


# Prompts.


_NUMBER = re.compile(r"\d")


def completion_prompt(prompts: ActionPrompts, question: Question, prefix: Sequence[Step]) -> str:
    """A2: asks for the rest of the solution, after the text of the prefix."""
    partial = "".join(solution_segments(question, prefix))
    return chain_prompt(prompts, effective_question(question, prefix), partial)


def reanswer_prompt(prompts: ActionPrompts, question: Question, prefix: Sequence[Step]) -> str:
    """A4: asks for the answer of the last sub-question, by a chain of thought.

    The answer begins with the text of the earlier steps.
    """
    *before, last = prefix
    asked = f"{_facts(effective_question(question, prefix))} {subquestion_of(last)}"
    partial = "".join(solution_segments(question, before))
    return chain_prompt(prompts, replace(question, text=asked), partial)


def thought_prompt(prompts: ActionPrompts, question: Question, prefix: Sequence[Step]) -> str:
    """A1: asks for the next line of a solution. Sub-questions are shown as their answers."""
    lines = (" ".join(as_solution_text(step).split()) for step in with_revised_answers(prefix))
    shown = "".join(f"{line}\n" for line in lines if line)
    return f"{prompts.thoughts}{question_line(effective_question(question, prefix))}Steps:\n{shown}"


def subquestion_prompt(prompts: ActionPrompts, question: Question, prefix: Sequence[Step]) -> str:
    """A3: asks for the next sub-question. A re-answer (A4) replaces the first answer."""
    shown = render_subquestions(
        [step for step in with_revised_answers(prefix) if _asks_subquestion(step)]
    )
    problem = effective_question(question, prefix).shown
    return f"{prompts.subquestions}Problem: {problem}\n{shown}Question:"


def answer_prompt(
    prompts: ActionPrompts, question: Question, prefix: Sequence[Step], subquestion: str
) -> str:
    """A3: asks for the answer to a sub-question."""
    return f"{subquestion_prompt(prompts, question, prefix)} {subquestion}\nAnswer:"


def final_subquestion(question: Question, prefix: Sequence[Step]) -> str:
    """The sub-question that is the problem's own question."""
    return f"{FINAL_PREFIX} {last_sentence(effective_question(question, prefix))}"


def rephrase_prompt(prompts: ActionPrompts, question: Question) -> str:
    """A5: asks for the question as a list of conditions and the question itself."""
    return f"{prompts.rephrase}Problem: {question.text.strip()}\nCondition 1:"


def verify_prompt(prompts: ActionPrompts, question: Question, steps: Sequence[Step]) -> str:
    """Asks whether a whole solution is right, yes or no."""
    solution = "".join(solution_segments(question, steps))
    problem = question_line(effective_question(question, steps))
    return f"{prompts.verify}{problem}Answer: {solution}\n{VERIFY_QUESTION}"


def _facts(question: Question) -> str:
    """A question's text without its last sentence; the whole text if that sentence has a number or
    is the only one."""
    last = last_sentence(question)
    text = " ".join(question.text.split())
    facts = text.removesuffix(last).rstrip()
    return facts if facts and not _NUMBER.search(last) else text


# Proposals.


async def _propose_thoughts(context: ActionContext) -> ActionResult:
    prompt = thought_prompt(context.prompts, context.question, context.prefix)
    steps = await context.sample(
        prompt,
        parse_thought,
        n=context.k,
        max_tokens=context.config.thought_tokens,
        stop=LINE_STOPS,
        seed=derive(context.seed, "A1"),
    )
    return ActionResult(steps)


async def _propose_rest(context: ActionContext) -> ActionResult:
    vote = await context.vote(
        completion_prompt(context.prompts, context.question, context.prefix),
        kind="A2",
        n=context.config.votes,
        max_tokens=context.config.solution_tokens,
        seed=derive(context.seed, "A2"),
    )
    return ActionResult((vote.step,) if vote.step else (), vote.answers)


async def _propose_subquestions(context: ActionContext) -> ActionResult:
    if context.is_last:
        subquestions = [final_subquestion(context.question, context.prefix)]
    else:
        samples = await context.sample(
            subquestion_prompt(context.prompts, context.question, context.prefix),
            parse_subquestion,
            n=context.k,
            max_tokens=context.config.question_tokens,
            stop=LINE_STOPS,
            seed=derive(context.seed, "A3"),
        )
        subquestions = list(dict.fromkeys(step.text for step in samples))
    steps = await gather(_answer_subquestion(context, each) for each in subquestions)
    return ActionResult(tuple(step for step in steps if step is not None))


async def _answer_subquestion(context: ActionContext, subquestion: str) -> Step | None:
    """A sub-question with the majority's answer; None if no sample states one."""
    question = effective_question(context.question, context.prefix)
    is_final = is_final_subquestion(question, subquestion)
    vote = await context.vote(
        answer_prompt(context.prompts, context.question, context.prefix, subquestion),
        kind="A3",
        n=context.config.votes if is_final else context.config.sub_votes,
        max_tokens=context.config.answer_tokens,
        seed=derive(context.seed, "A3", subquestion),
    )
    if vote.step is None:
        return None
    prose = f"{subquestion}\nAnswer: {vote.step.prose}"
    return replace(vote.step, prose=prose, answer=vote.step.answer if is_final else None)


async def _propose_reanswer(context: ActionContext) -> ActionResult:
    vote = await context.vote(
        reanswer_prompt(context.prompts, context.question, context.prefix),
        kind="A4",
        n=context.config.sub_votes,
        max_tokens=context.config.solution_tokens,
        seed=derive(context.seed, "A4"),
    )
    return ActionResult((replace(vote.step, answer=None),) if vote.step else ())


async def _propose_rephrasing(context: ActionContext) -> ActionResult:
    steps = await context.sample(
        rephrase_prompt(context.prompts, context.question),
        parse_rephrasing,
        n=1,
        max_tokens=context.config.answer_tokens,
        stop=REPHRASING_STOPS,
        seed=derive(context.seed, "A5"),
    )
    return ActionResult(steps)


_STATEMENT = re.compile(
    r"(?:\A|(?<=[.!?])\s+|\n)(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?answer\s+is\b"
    r"[^\n]*\Z",
    re.IGNORECASE,
)


def _subquestion_text(step: Step) -> str:
    """The answer to a sub-question without "The answer is ..."; if nothing else is left, the
    sub-question with the stated value."""
    answer = step.text.partition("\n")[2].strip().removeprefix("Answer:").strip()
    if step.answer is not None:
        return answer
    return _STATEMENT.sub("", answer).strip() or f"{subquestion_of(step)} {extract_answer(answer)}."


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            "A1",
            "thought",
            _propose_thoughts,
            follows=frozenset({None, "A1", "A3", "A4", "A5"}),
            ends="if stated",
            uses_votes=True,
        ),
        Action(
            "A2",
            "rest of the solution",
            _propose_rest,
            follows=frozenset({None, "A1", "A3", "A4", "A5"}),
            ends="always",
        ),
        Action(
            "A3",
            "sub-question",
            _propose_subquestions,
            follows=frozenset({None, "A3", "A4", "A5"}),
            ends="if last",
            solution_text=_subquestion_text,
            asks_subquestion=True,
        ),
        Action(
            "A4",
            "sub-question re-answered",
            _propose_reanswer,
            follows=frozenset({"A3"}),
            revises=True,
        ),
        Action(
            "A5",
            "question rephrased",
            _propose_rephrasing,
            follows=frozenset({None}),
            solution_text=lambda step: "",
            rephrases=True,
        ),
    )
}
"""All actions by name, in the order in which an expansion requests them. The order of actions on a
path (`follows`) is that of rStar's public code."""
