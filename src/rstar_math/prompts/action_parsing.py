"""Parsers of the samples of rStar's actions (Qi et al. 2024, arXiv:2408.06195, section 3.1).

A parser returns a `ParsedSample`: a `Step`, or the reason why the sample is not one.
"""

import re
from collections.abc import Sequence

from rstar_math.extraction import extract_answer, extract_stated_answer
from rstar_math.prompts.grammar import ParsedSample
from rstar_math.prompts.subquestions import STOPS
from rstar_math.types import Step

LINE_STOPS = ("\n",)
"""Stop strings of a thought and of a sub-question, which are one line."""
ANSWER_STOPS = STOPS
"""Stop strings of a solution and of an answer to a sub-question. An empty line ends an example."""
REPHRASING_STOPS = ("\n\n", "\nProblem:")
"""Stop strings of a rephrased question, whose last line is its "Question:"."""
_FINAL = re.compile(
    r"\\boxed\b|"
    r"(?:\A|[.!?,:]|\b(?:so|thus|hence|therefore|that))\s*(?:\*\*)?(?:the\s+)?(?:final\s+)?answer"
    r"(?:\s+to\s+(?:the|this)\s+(?:question|problem)\b)?"
    r"\s*(?:\*\*)?(?:\s+is\b|:)(?!\s*(?:not|what|how|which|unknown)\b)[^?\n]*(?:\n|\Z)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:Question|Problem|Answer|Steps|Condition \d+):")
_REPHRASING = re.compile(
    r"(?P<step>(?:Condition \d+: *[^\s].*\n)+Question: *[^\s].*)(?:\n|(?P<open>\Z))"
)


def states_answer(text: str) -> bool:
    """Whether a sentence states the final answer.

    It does with a box, or with "the answer is" followed by neither a question nor a denial.
    """
    return _FINAL.search(text) is not None


def parse_answer(
    text: str,
    *,
    kind: str,
    finished: bool,
    stops: Sequence[str] = ANSWER_STOPS,
    stated_only: bool = True,
) -> ParsedSample:
    """Parse a text that ends by stating an answer.

    `Step.answer` is the stated answer, even if the step does not end its path. `stops` are the
    stop strings that the text was sampled with. Without `stated_only`, the value of the last
    sentence counts as the answer of a text that states none.
    """
    prose, problem = _prose(text, finished=finished, stops=stops)
    find = extract_stated_answer if stated_only else extract_answer
    answer = None if problem else find(prose)
    if answer is None:
        return ParsedSample(None, problem or "no answer stated")
    return ParsedSample(Step(prose=prose, kind=kind, answer=answer))


def parse_thought(text: str, *, finished: bool) -> ParsedSample:
    """A1: parse a step of one line.

    It has an `answer` if it states the final one, with the word "answer" or a box. A thought that
    only begins with "so" is an intermediate step.
    """
    prose, problem = _line(text, finished=finished)
    if problem:
        return ParsedSample(None, problem)
    if not states_answer(prose):
        return ParsedSample(Step(prose=prose, kind="A1"))
    answer = extract_stated_answer(prose)
    if answer is None:
        return ParsedSample(None, "no answer stated")
    return ParsedSample(Step(prose=prose, kind="A1", answer=answer))


def parse_subquestion(text: str, *, finished: bool) -> ParsedSample:
    """A3 without its answer: parse a step whose prose is a sub-question."""
    prose, problem = _line(text, finished=finished)
    return ParsedSample(None, problem) if problem else ParsedSample(Step(prose=prose, kind="A3"))


def parse_rephrasing(text: str, *, finished: bool) -> ParsedSample:
    """A5: parse a text sampled after "Condition 1:".

    It has one line per condition and then the question. Text after the question is dropped, since
    small models like to add a hint or an answer.
    """
    found = _REPHRASING.match(f"Condition 1: {text.strip()}")
    if found is None or (found["open"] is not None and not finished):
        _, problem = _prose(text, finished=finished, stops=REPHRASING_STOPS)
        return ParsedSample(None, problem or "no list of conditions and a question")
    lines = [re.sub(r":\s*", ": ", line, count=1) for line in found["step"].split("\n")]
    return ParsedSample(Step(prose="\n".join(" ".join(line.split()) for line in lines), kind="A5"))


def _prose(
    text: str, *, finished: bool, stops: Sequence[str] = ANSWER_STOPS
) -> tuple[str, str | None]:
    """A text stripped of surrounding space, and what is wrong with it."""
    prose = text.strip()
    if not finished:
        return prose, "cut off at the token limit"
    if not prose:
        return prose, "empty"
    if any(stop in prose for stop in stops):
        return prose, "goes on after its answer"
    return prose, None


def _line(text: str, *, finished: bool) -> tuple[str, str | None]:
    """A text of one line with single spaces, and what is wrong with it."""
    prose, problem = _prose(text, finished=finished)
    if problem is None and len(prose.splitlines()) > 1:
        problem = "goes on after its line"
    if problem is None and _LABEL.match(prose):
        problem = "a label in the place of a sentence"
    return " ".join(prose.split()), problem
