"""Steps of trees as training text, through the functions that inference uses: what a model is
trained on and what it is asked cannot differ.

What a program printed is in the text too, since the model goes on after it, but the harness wrote
it: those pieces are not to be trained on (rStar-Math's code trains on them).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rstar_math.errors import InputError
from rstar_math.steps import GRAMMAR, trained_prompt
from rstar_math.types import Question, Step, StepPair

_KINDS = ("step", "code", "answer")


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a solution's text."""

    text: str
    trained: bool
    """Whether the model wrote it (then it is trained on), or the harness."""


def prompt_text(question: Question) -> str:
    """The prompt that a solution's text follows directly."""
    return trained_prompt(question)


def solution_text(steps: Sequence[Step]) -> str:
    """A solution's text: what the model wrote with its marks, and what its programs printed.

    Raises `InputError` for steps that are not of the code grammar (rStar's actions).
    """
    _check(steps)
    return GRAMMAR.render(steps)


def segments(question: Question, steps: Sequence[Step]) -> list[Segment]:
    """A solution's text in pieces that are trained on or not; joined they are `solution_text`.

    The pieces do not depend on the question so far: it stands here for a grammar that repeats it.
    """
    _check(steps)
    pieces: list[Segment] = []
    for block in _blocks(steps):
        text = GRAMMAR.render(block)
        output = ""
        if block[-1].kind == "code":
            runs = [step.execution for step in block if step.execution is not None]
            output = GRAMMAR.shown(runs)
        pieces.append(Segment(text[: len(text) - len(output)], trained=True))
        if output:
            pieces.append(Segment(output, trained=False))
    return pieces


def pair_texts(pair: StepPair) -> tuple[str, str, str]:
    """A pair as (prompt with the prefix, chosen continuation, rejected continuation).

    The first joined with either is exactly what a scorer is shown of that side.
    """
    prefix = solution_text(pair.prefix)
    chosen = solution_text((*pair.prefix, *pair.chosen))
    rejected = solution_text((*pair.prefix, *pair.rejected))
    return prompt_text(pair.question) + prefix, chosen[len(prefix) :], rejected[len(prefix) :]


def _blocks(steps: Sequence[Step]) -> list[Sequence[Step]]:
    """The steps cut after each end of a code block; each part renders by itself as it does in the
    whole."""
    ends = [index + 1 for index, step in enumerate(steps) if step.kind == "code"]
    cuts = [0, *ends] if ends and ends[-1] == len(steps) else [0, *ends, len(steps)]
    return [steps[a:b] for a, b in pairwise(cuts) if a < b]


def _check(steps: Sequence[Step]) -> None:
    for step in steps:
        if step.kind not in _KINDS:
            raise InputError(
                f"A step of kind {step.kind!r} has no training text: only code steps have; "
                "leave out the strategies that solve by rStar's actions or by sub-questions."
            )
