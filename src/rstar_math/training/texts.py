"""Steps of trees as training text, through the renderers that inference uses: what a model is
trained on and what it is asked cannot differ.

What a program printed is in the text too, since the model goes on after it, but the harness wrote
it: those pieces are not to be trained on (rStar-Math's code trains on them).

Data files hold plain text and the question by itself; a trainer renders it for its model
(`for_model`), in chat with the model's own template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rstar_math.steps.grammar import KINDS as KINDS
from rstar_math.steps.grammar import TAGS, StepFormat
from rstar_math.steps.rendering import PLAIN, Renderer, require_code_steps
from rstar_math.types import Question, Step, StepPair


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a solution's text."""

    text: str
    trained: bool
    """Whether the model wrote it (then it is trained on), or the harness."""


def prompt_text(question: Question) -> str:
    """The plain prompt that a solution's text follows directly."""
    return PLAIN.before(question)


def solution_text(steps: Sequence[Step], step_format: StepFormat = TAGS) -> str:
    """A solution's text: what the model wrote with its marks, and what its programs printed.

    Raises `InputError` for steps that are not of the code grammar (rStar's actions).
    """
    require_code_steps(steps)
    return step_format.render(steps)


def segments(steps: Sequence[Step], step_format: StepFormat = TAGS) -> list[Segment]:
    """A solution's text in pieces that are trained on or not; joined they are `solution_text`."""
    require_code_steps(steps)
    pieces: list[Segment] = []
    for block in _blocks(steps):
        text = step_format.render(block)
        output = ""
        if block[-1].kind == "code":
            runs = [step.execution for step in block if step.execution is not None]
            output = step_format.shown(runs)
        pieces.append(Segment(text[: len(text) - len(output)], trained=True))
        if output:
            pieces.append(Segment(output, trained=False))
    return pieces


def step_texts(steps: Sequence[Step], step_format: StepFormat = TAGS) -> list[str]:
    """What each step adds to the solution's text; joined they are `solution_text`."""
    text = solution_text(steps, step_format)
    ends = [len(step_format.render(steps[:length])) for length in range(len(steps) + 1)]
    return [text[start:end] for start, end in pairwise(ends)]


def pair_texts(pair: StepPair, step_format: StepFormat = TAGS) -> tuple[str, str, str]:
    """A pair as (the prefix's text, chosen continuation, rejected continuation).

    The plain prompt with the first and either of the others is exactly what a scorer is shown.
    """
    prefix = solution_text(pair.prefix, step_format)
    chosen = solution_text((*pair.prefix, *pair.chosen), step_format)
    rejected = solution_text((*pair.prefix, *pair.rejected), step_format)
    return prefix, chosen[len(prefix) :], rejected[len(prefix) :]


def rendered_prompt(renderer: Renderer, question: str, prefix: str = "") -> str:
    """The prompt of a row for a model: its question, rendered, and the prefix's text."""
    return renderer.before(Question("", question)) + prefix


def _blocks(steps: Sequence[Step]) -> list[Sequence[Step]]:
    """The steps cut after each end of a code block; each part renders by itself as it does in the
    whole."""
    ends = [index + 1 for index, step in enumerate(steps) if step.kind == "code"]
    cuts = [0, *ends] if ends and ends[-1] == len(steps) else [0, *ends, len(steps)]
    return [steps[a:b] for a, b in pairwise(cuts) if a < b]
