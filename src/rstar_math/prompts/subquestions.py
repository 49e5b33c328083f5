"""A problem solved by sub-questions: a step asks one and answers it (RAP, Hao et al. 2023,
arXiv:2305.14992, section 3; action A3 of rStar, arXiv:2408.06195).

    Problem: Tim has 3 bags of 4 apples and eats 2. How many are left?
    Question: How many apples has he at first?
    Answer: He has 3 * 4 = 12 apples. The answer is 12.
    Question: Now we can answer the question: How many are left?
    Answer: There are 12 - 2 = 10 apples left. The answer is 10.

A step's prose is the two lines without the leading "Question: " and the space around them, which
delimit it. The papers number the questions ("Question 5.2:"); ours are not, so that a step is the
same text wherever it stands and equal samples are found equal.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from rstar_math.errors import InputError
from rstar_math.extraction import extract_stated_answer
from rstar_math.prompts.grammar import ParsedSample
from rstar_math.types import Question, Step

KIND = "A3"
"""`Step.kind` of a sub-question with its answer."""
FINAL_PREFIX = "Now we can answer the question:"
"""Beginning of the sub-question that repeats the problem's own question."""
STOPS = ("\nQuestion:", "\n\n", "\nProblem:")
"""Stop strings for one sub-question with its answer. An empty line ends a problem."""
_PAIR = re.compile(r"(?P<asked>[^\n]*\S)\s*\n\s*Answer:\s*(?P<answer>\S.*)", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def subquestion_prompt(question: Question) -> str:
    """Worked examples, then the problem; `render_subquestions` and `opening` follow it directly."""
    return f"{_examples()}Problem: {question.shown}\n"


def opening(question: Question, *, last: bool = False) -> str:
    """The beginning of the next step, which the model continues. With `last`, it contains the
    problem's own question, so the model writes only the answer."""
    return f"Question: {FINAL_PREFIX} {last_sentence(question)}\nAnswer:" if last else "Question:"


def render_subquestions(steps: Sequence[Step]) -> str:
    """The solution's text so far, as the model wrote it."""
    return "".join(f"Question: {step.text}\n" for step in steps)


def parse_subquestion(question: Question, text: str, *, finished: bool) -> ParsedSample:
    """Parse a text that was sampled after "Question:".

    A step must state its answer ("The answer is 12."), else it is malformed; the papers' code drops
    such samples too. `Step.answer` is that answer if the sub-question is the problem's own, else
    None, since a step with an answer ends its path.
    """
    if not finished:
        return ParsedSample(None, "cut off at the token limit")
    prose = text.strip()
    if not prose:
        return ParsedSample(None, "empty")
    if any(stop in prose for stop in STOPS):
        return ParsedSample(None, "goes on after its answer")
    pair = _PAIR.fullmatch(prose)
    if pair is None:
        return ParsedSample(None, "no sub-question with an answer")
    stated = extract_stated_answer(pair["answer"])
    if stated is None:
        return ParsedSample(None, "no answer stated")
    last = is_final_subquestion(question, pair["asked"])
    return ParsedSample(Step(prose=prose, kind=KIND, answer=stated if last else None))


def parse_subquestions(question: Question, text: str) -> list[Step]:
    """The steps of a solution's text: the inverse of `render_subquestions`.

    Raises `InputError` for a text of another form.
    """
    if text and not (text.startswith("Question: ") and text.endswith("\n")):
        raise InputError(
            "A solution by sub-questions does not begin with 'Question: ' and end with a newline; "
            "write one 'Question: ' and one 'Answer: ' line for each step."
        )
    steps: list[Step] = []
    for prose in f"\n{text}".removesuffix("\n").split("\nQuestion: ")[1:]:
        if steps and steps[-1].answer is not None:
            raise InputError(
                "A solution goes on after the answer to the problem's own question; "
                "remove what follows it."
            )
        sample = parse_subquestion(question, prose, finished=True)
        if sample.step is None or sample.step.prose != prose:
            problem = sample.problem or "space around it"
            raise InputError(f"Step {len(steps) + 1} of a solution is not well formed ({problem}).")
        steps.append(sample.step)
    return steps


def subquestion_of(step: Step) -> str:
    """The sub-question that a step asks."""
    return step.text.partition("\n")[0].rstrip()


def is_final_subquestion(question: Question, subquestion: str) -> bool:
    """Whether a sub-question is the problem's own: it begins with `FINAL_PREFIX` without its last
    words, or ends in the problem's last sentence. Case, whitespace and end marks are ignored."""
    said = _plain(subquestion)
    if said.startswith("now we can answer"):
        return True
    return f" {said}".endswith(f" {_plain(last_sentence(question))}")


def last_sentence(question: Question) -> str:
    """The last sentence of a problem, on one line: usually what it asks."""
    return " ".join(_SENTENCE_END.split(question.text.strip())[-1].split())


def _plain(text: str) -> str:
    """A sentence in lower case, with single blanks and without its end mark."""
    return " ".join(text.casefold().split()).rstrip(".?! ")


def check_subquestions(text: str) -> None:
    """Raise `InputError` unless all worked examples are well formed and end in their problem's own
    question."""
    for number, example in enumerate(text.removeprefix("Problem: ").split("\n\nProblem: ")):
        problem, _, solution = example.partition("\n")
        steps = parse_subquestions(Question(str(number), problem), solution.rstrip("\n") + "\n")
        if not steps or steps[-1].answer is None:
            raise InputError(
                f"The example {problem!r} does not end in its problem's own question; let its last "
                f"sub-question be '{FINAL_PREFIX} ...'."
            )


@cache
def _examples() -> str:
    """The examples' text, checked against the grammar when first read."""
    path = files("rstar_math.prompts") / "families" / "school" / "subquestions.txt"
    text = path.read_text(encoding="utf-8")
    check_subquestions(text)
    return text.rstrip("\n") + "\n\n"
