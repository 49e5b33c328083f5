"""rStar's five actions (Qi et al. 2024, arXiv:2408.06195, section 3.1): which action may follow
which, and parsers of sampled text.

A path is a list of `Step`s whose kind is the action that made it. Their prose:

    A1  a thought, one line:          He has 3 * 4 = 12 apples.
    A2  the rest of the solution:     He eats 2 of the 12, so 10 are left. The answer is 10.
    A3  a sub-question, its answer:   as in `prompts.subquestions`
    A4  that answer, given again:     He has 4 + 4 + 4 = 12 apples. The answer is 12.
    A5  the question, said anew:      Condition 1: Tim has 3 bags. ... Question: How many are left?

Only a step that ends its path has an `answer`: A2, A3 on the problem's own question, and an A1 that
states the final answer.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from rstar_math.errors import ConfigError
from rstar_math.extraction import extract_answer
from rstar_math.prompts.grammar import ParsedSample
from rstar_math.prompts.subquestions import STOPS, subquestion_of
from rstar_math.types import Question, Step

NAMES = {
    "A1": "thought",
    "A2": "rest of the solution",
    "A3": "sub-question",
    "A4": "answered again",
    "A5": "question rephrased",
}


def label(step: Step) -> str:
    """The action that made a step, and how the vote on its answer went; "" for other steps."""
    name = NAMES.get(step.kind, "")
    if name and step.confidence is not None:
        name += f", {step.confidence:.0%} of the votes"
    return name


ACTIONS = ("A1", "A2", "A3", "A4", "A5")
"""The kinds of steps, in the order in which they are asked for."""
_FOLLOWS: dict[str | None, tuple[str, ...]] = {
    None: ("A1", "A2", "A3", "A5"),
    "A1": ("A1", "A2"),
    "A3": ("A1", "A2", "A3", "A4"),
    "A4": ("A1", "A2", "A3"),
    "A5": ("A1", "A2", "A3"),
}
"""What rStar's code allows after a step of each kind; None is the root."""
_STATEMENT = re.compile(
    r"(?:\A|(?<=[.!?])\s+|\n)(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+)?answer\s+is\b"
    r"[^\n]*\Z",
    re.IGNORECASE,
)
_FINAL = re.compile(
    r"\\boxed\b|"
    r"(?:\A|[.!?,:]|\b(?:so|thus|hence|therefore|that))\s*(?:\*\*)?(?:the\s+)?(?:final\s+)?answer"
    r"(?:\s+to\s+(?:the|this)\s+(?:question|problem)\b)?"
    r"\s*(?:\*\*)?(?:\s+is\b|:)(?!\s*(?:not|what|how|which|unknown)\b)[^?\n]*(?:\n|\Z)",
    re.IGNORECASE,
)
_UNIT = re.compile(r"\s*\S(?:[^\n]*?[.!?](?=\s|\Z)|[^\n]*)")


def ends_path(step: Step) -> bool:
    """Whether a path ends with this step: it states the answer, or was to be the rest."""
    return step.answer is not None or step.kind == "A2"


def allowed_actions(
    prefix: Sequence[Step], allowed: Sequence[str], *, depth: int
) -> tuple[str, ...]:
    """The actions that may follow a prefix, in the order of `ACTIONS`; none after its end.

    A path has at most `depth` steps, a rephrasing (A5) among them. For the last one only those
    actions are asked that end a path: A2, and A3 on the problem's own question. Where neither may
    follow, it is A1, which may state the answer.
    """
    if len(prefix) >= depth or (prefix and ends_path(prefix[-1])):
        return ()
    last = prefix[-1].kind if prefix else None
    if last not in _FOLLOWS:
        raise ConfigError(
            f"A tree with steps of kind {last!r} cannot be searched on by rStar's actions; begin a "
            "new tree, or take the strategy that it was grown by."
        )
    follows = _FOLLOWS[last]
    found = tuple(action for action in follows if action in allowed)
    if len(prefix) + 1 < depth:
        return found
    return tuple(a for a in found if a in ("A2", "A3")) or tuple(a for a in found if a == "A1")


def effective_question(question: Question, prefix: Sequence[Step]) -> Question:
    """The question that a path answers: as its first step rephrased it, if that is an A5."""
    if not prefix or prefix[0].kind != "A5":
        return question
    lines = prefix[0].text.split("\n")
    *conditions, last = (line if line[-1:] in ".!?" else f"{line}." for line in lines)
    return Question(question.id, " ".join([*conditions, last.removeprefix("Question: ")]))


def solution_segments(question: Question, steps: Sequence[Step]) -> list[str]:
    """What a path says, in sentences and lines, for cutting it in two: joined by "" they are the
    solution as a chain-of-thought prompt shows it after "Answer:", but for the space before it.

    Sub-questions are left out, and so is the "The answer is 12." of those on the way; an answer
    given again (A4) takes the place of the first; a rephrased question (A5) is no part of its own
    solution. Units after the first begin with the space that parts them from the one before. All
    from the first statement of the final answer on is one unit: who is shown all but the last is
    not shown the answer.
    """
    del question  # the same for every question: what a step ends is written in the step
    text = " ".join(filter(None, (as_solution_text(step) for step in with_revised_answers(steps))))
    units = _UNIT.findall(text)
    for at, unit in enumerate(units):
        if states_answer(unit):
            return [*units[:at], "".join(units[at:])]
    return units


def states_answer(text: str) -> bool:
    """Whether a sentence states the final answer: in a box, or with "the answer is" and something
    that is no question and no denial."""
    return _FINAL.search(text) is not None


def with_revised_answers(steps: Sequence[Step]) -> list[Step]:
    """The steps without A4: each has put its answer in the place of that of its A3."""
    kept: list[Step] = []
    for step in steps:
        if step.kind == "A4" and kept:
            first = kept.pop()
            kept.append(replace(first, prose=f"{subquestion_of(first)}\nAnswer: {step.text}"))
        else:
            kept.append(step)
    return kept


def as_solution_text(step: Step) -> str:
    """A step as a part of a whole solution; "" for a rephrased question."""
    if step.kind == "A5":
        return ""
    if step.kind != "A3":
        return step.text.strip()
    answer = step.text.partition("\n")[2].strip().removeprefix("Answer:").strip()
    if step.answer is not None:
        return answer
    return _STATEMENT.sub("", answer).strip() or f"{subquestion_of(step)} {extract_answer(answer)}."


LINE_STOPS = ("\n",)
"""Stop strings of a thought and of a sub-question, which are one line."""
ANSWER_STOPS = STOPS
"""Stop strings of a solution and of an answer to a sub-question; an empty line ends an example."""
REPHRASING_STOPS = ("\n\n", "\nProblem:")
"""Stop strings of a rephrased question, whose last line is its "Question:"."""
_LABEL = re.compile(r"(?:Question|Problem|Answer|Steps|Condition \d+):")
_REPHRASING = re.compile(
    r"(?P<step>(?:Condition \d+: *[^\s].*\n)+Question: *[^\s].*)(?:\n|(?P<open>\Z))"
)


def parse_answer(
    text: str, *, kind: str, finished: bool, stops: Sequence[str] = ANSWER_STOPS
) -> ParsedSample:
    """The step of a text that ends by stating an answer; its `answer` is what it states, also
    where the step does not end a path. `stops` are those that it was sampled with."""
    prose, problem = _prose(text, finished=finished, stops=stops)
    answer = None if problem else extract_answer(prose)
    if answer is None:
        return ParsedSample(None, problem or "no answer stated")
    return ParsedSample(Step(prose=prose, kind=kind, answer=answer))


def parse_thought(text: str, *, finished: bool) -> ParsedSample:
    """A1: the step of one line. It has an `answer` if it states the final one, with the word
    "answer" or a box: a thought that merely begins with "so" is on its way."""
    prose, problem = _line(text, finished=finished)
    if problem:
        return ParsedSample(None, problem)
    if not states_answer(prose):
        return ParsedSample(Step(prose=prose, kind="A1"))
    answer = extract_answer(prose)
    if answer is None:
        return ParsedSample(None, "no answer stated")
    return ParsedSample(Step(prose=prose, kind="A1", answer=answer))


def parse_subquestion(text: str, *, finished: bool) -> ParsedSample:
    """A3 without its answer: the step whose prose is a sub-question, its space single."""
    prose, problem = _line(text, finished=finished)
    return ParsedSample(None, problem) if problem else ParsedSample(Step(prose=prose, kind="A3"))


def parse_rephrasing(text: str, *, finished: bool) -> ParsedSample:
    """A5: the step of a text sampled after "Condition 1:": a line for each condition, then one for
    what is asked, which ends it: small models like to add a hint or an answer."""
    found = _REPHRASING.match(f"Condition 1: {text.strip()}")
    if found is None or (found["open"] is not None and not finished):
        _, problem = _prose(text, finished=finished, stops=REPHRASING_STOPS)
        return ParsedSample(None, problem or "no list of conditions and a question")
    lines = [re.sub(r":\s*", ": ", line, count=1) for line in found["step"].split("\n")]
    return ParsedSample(Step(prose="\n".join(" ".join(line.split()) for line in lines), kind="A5"))


def _prose(
    text: str, *, finished: bool, stops: Sequence[str] = ANSWER_STOPS
) -> tuple[str, str | None]:
    """A text without the space around it, and what is wrong with it."""
    prose = text.strip()
    if not finished:
        return prose, "cut off at the token limit"
    if not prose:
        return prose, "empty"
    if any(stop in prose for stop in stops):
        return prose, "goes on after its answer"
    return prose, None


def _line(text: str, *, finished: bool) -> tuple[str, str | None]:
    """A text of one line, its space single, and what is wrong with it."""
    prose, problem = _prose(text, finished=finished)
    if problem is None and len(prose.splitlines()) > 1:
        problem = "goes on after its line"
    if problem is None and _LABEL.match(prose):
        problem = "a label in the place of a sentence"
    return " ".join(prose.split()), problem
