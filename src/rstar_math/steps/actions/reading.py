"""What sampled texts hold: the steps of rStar's actions, or why there is none."""

import re
from collections.abc import Sequence

from rstar_math.grading.extract import extract_answer
from rstar_math.steps.actions.paths import states
from rstar_math.steps.grammar import Sample
from rstar_math.steps.subquestions import STOPS
from rstar_math.types import Step

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


def read_answer(
    text: str, *, kind: str, finished: bool, stops: Sequence[str] = ANSWER_STOPS
) -> Sample:
    """The step of a text that ends by stating an answer; its `answer` is what it states, also
    where the step does not end a path. `stops` are those that it was sampled with."""
    prose, problem = _prose(text, finished=finished, stops=stops)
    answer = None if problem else extract_answer(prose)
    if answer is None:
        return Sample(None, problem or "no answer stated")
    return Sample(Step(prose=prose, kind=kind, answer=answer))


def read_thought(text: str, *, finished: bool) -> Sample:
    """A1: the step of one line. It has an `answer` if it states the final one, with the word
    "answer" or a box: a thought that merely begins with "so" is on its way."""
    prose, problem = _line(text, finished=finished)
    if problem:
        return Sample(None, problem)
    if not states(prose):
        return Sample(Step(prose=prose, kind="A1"))
    answer = extract_answer(prose)
    if answer is None:
        return Sample(None, "no answer stated")
    return Sample(Step(prose=prose, kind="A1", answer=answer))


def read_asked(text: str, *, finished: bool) -> Sample:
    """A3 without its answer: the step whose prose is a sub-question, its space single."""
    prose, problem = _line(text, finished=finished)
    return Sample(None, problem) if problem else Sample(Step(prose=prose, kind="A3"))


def read_rephrasing(text: str, *, finished: bool) -> Sample:
    """A5: the step of a text sampled after "Condition 1:": a line for each condition, then one for
    what is asked, which ends it: small models like to add a hint or an answer."""
    found = _REPHRASING.match(f"Condition 1: {text.strip()}")
    if found is None or (found["open"] is not None and not finished):
        _, problem = _prose(text, finished=finished, stops=REPHRASING_STOPS)
        return Sample(None, problem or "no list of conditions and a question")
    lines = [re.sub(r":\s*", ": ", line, count=1) for line in found["step"].split("\n")]
    return Sample(Step(prose="\n".join(" ".join(line.split()) for line in lines), kind="A5"))


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
