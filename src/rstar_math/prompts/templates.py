"""Training text and judging prompts, rendered by the functions that inference uses.

What a program printed is in the text too, since the model goes on after it, but the harness wrote
it: those pieces are not to be trained on (rStar-Math's code trains on them).

Data files hold plain text and the question by itself; a trainer renders it for its model
(`for_model`), in chat with the model's own template.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise

from rstar_math.prompts.grammar import GRAMMAR, TAGS, StepFormat
from rstar_math.prompts.rendering import PLAIN, Renderer, make_renderer, require_code_steps
from rstar_math.prompts.subquestions import subquestion_of
from rstar_math.types import Question, Step, StepPair

ONE_LINE = ("\n",)
"""Stop strings of a judgement that is a word."""
CHECKED = ("\n\n", "\nQuestion:")
"""Stop strings of a verdict with a line of checking before it."""
_VERDICT = "Verdict (sure, likely or impossible):"
_WORTH = {"sure": 1.0, "likely": 0.0, "impossible": -1.0}
_FOUND = re.compile(r"\bverdict\b[^:\n]{0,40}:\W*(sure|likely|impossible)\b", re.IGNORECASE)
_CHECK = re.compile(r"^Check: .*\n", re.MULTILINE)
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def verdict_prompt(question: Question, prefix: Sequence[Step], *, check: bool = True) -> str:
    """Judged solutions, then a prefix of code-augmented steps to be judged: the value prompt of
    Tree of Thoughts (Yao et al. 2023, arXiv:2305.10601, section 3).

    With `check` the model first looks at the steps in a line of its own, as the paper's does;
    without, the verdict is all that it is asked for.
    """
    examples, lead = _text("judged.txt"), "Check:"
    if not check:
        examples, lead = _CHECK.sub("", examples), _VERDICT
    return f"{examples}{trained_prompt(question)}{GRAMMAR.render(prefix)}{lead}"


def parse_verdict(text: str, *, check: bool = True) -> float | None:
    """1 for "sure", 0 for "likely", -1 for "impossible", of the first verdict that a text sampled
    after `verdict_prompt` gives; None where it gives none clearly: "not sure" is no verdict."""
    found = _FOUND.search(text if check else _VERDICT + text)
    return _WORTH[found[1].lower()] if found else None


def useful_prompt(question: Question, prefix: Sequence[Step]) -> str:
    """Judged sub-questions, then the last one of a prefix to be judged: RAP's self-evaluation (Hao
    et al. 2023, arXiv:2305.14992, section 3.2). The sub-questions before it are shown without
    their answers, as in RAP's code. The prefix must have a step."""
    *before, last = (subquestion_of(step) for step in prefix)
    lines = [f"Problem: {question.text.strip()}", *(f"Question: {each}" for each in before)]
    lines += [f"New question: {last}", "Is the new question useful?"]
    return _text("useful.txt") + "\n".join(lines)


def parse_useful(text: str) -> bool | None:
    """Whether a text begins with yes; None where it begins with neither yes nor no."""
    match = _YES_NO.match(text)
    return match[1].lower() == "yes" if match else None


@cache
def _text(name: str) -> str:
    """The worked examples of a file, ended by an empty line."""
    return (files("rstar_math.prompts") / name).read_text(encoding="utf-8").rstrip("\n") + "\n\n"


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


def trained_prompt(question: Question) -> str:
    """The prompt of a model trained on the format; a solution's text follows it directly."""
    return PLAIN.before(question)


def few_shot_prompt(question: Question) -> str:
    """Worked examples, then the question; a solution's text follows it directly."""
    return make_renderer(prompt="easy", step_format="tags").before(question)
