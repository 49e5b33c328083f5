"""Renders training text and judging prompts with the functions that inference uses.

The text of a solution contains the output of its programs, because the model continues after it.
The model must not be trained on the output, since it does not write it (rStar-Math's code trains on
it).

Data files contain plain text and the question separately. A trainer renders the question for its
model (`rendered_prompt`); for chat it uses the model's own template.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise

from rstar_math.prompts.grammar import TAGS, StepFormat
from rstar_math.prompts.rendering import PLAIN, Renderer, make_renderer, require_code_steps
from rstar_math.prompts.subquestions import subquestion_of
from rstar_math.types import Question, Step, StepPair

ONE_LINE_STOPS = ("\n",)
"""Stop strings for a one-line verdict."""
VERDICT_STOPS = ("\n\n", "\nQuestion:")
"""Stop strings for a verdict after a line that checks the steps."""
_VERDICT_LEAD = "Verdict (sure, likely or impossible):"
_VERDICT_VALUES = {"sure": 1.0, "likely": 0.0, "impossible": -1.0}
_VERDICT_PATTERN = re.compile(
    r"\bverdict\b[^:\n]{0,40}:\W*(sure|likely|impossible)\b", re.IGNORECASE
)
_CHECK_LINE = re.compile(r"^Check: .*\n", re.MULTILINE)
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def verdict_prompt(question: Question, prefix: Sequence[Step], *, check: bool = True) -> str:
    """Return the value prompt of Tree of Thoughts (Yao et al. 2023, arXiv:2305.10601, section 3).

    It shows judged solutions, then a prefix of code steps to be judged. With `check`, the model
    first checks the steps in one line, as in the paper. Without, it writes only the verdict.
    """
    examples, lead = _examples("judged.txt"), "Check:"
    if not check:
        examples, lead = _CHECK_LINE.sub("", examples), _VERDICT_LEAD
    return f"{examples}{prompt_text(question)}{TAGS.render(prefix)}{lead}"


def parse_verdict(text: str, *, check: bool = True) -> float | None:
    """Return the value of the first verdict in a text: 1 "sure", 0 "likely", -1 "impossible".

    `text` was sampled after `verdict_prompt`. Returns None without a clear verdict; "not sure" is
    none.
    """
    found = _VERDICT_PATTERN.search(text if check else _VERDICT_LEAD + text)
    return _VERDICT_VALUES[found[1].lower()] if found else None


def useful_prompt(question: Question, prefix: Sequence[Step]) -> str:
    """Return RAP's self-evaluation prompt (Hao et al. 2023, arXiv:2305.14992, section 3.2).

    It shows judged sub-questions, then the last sub-question of a prefix to be judged. The earlier
    sub-questions have no answers, as in RAP's code. The prefix must not be empty.
    """
    *earlier, last = (subquestion_of(step) for step in prefix)
    lines = [f"Problem: {question.shown}", *(f"Question: {text}" for text in earlier)]
    lines += [f"New question: {last}", "Is the new question useful?"]
    return _examples("useful.txt") + "\n".join(lines)


def parse_useful(text: str) -> bool | None:
    """Return whether a text starts with yes; None if it starts with neither yes nor no."""
    match = _YES_NO.match(text)
    return match[1].lower() == "yes" if match else None


@cache
def _examples(name: str) -> str:
    """Return the worked examples of a file, followed by an empty line."""
    return (files("rstar_math.prompts") / name).read_text(encoding="utf-8").rstrip("\n") + "\n\n"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a solution's text."""

    text: str
    trained: bool
    """True for the model's text, which is trained on; False for program output."""


def prompt_text(question: Question) -> str:
    """Return the plain prompt of a question; a solution's text follows it directly."""
    return PLAIN.question_prompt(question)


def solution_text(steps: Sequence[Step], step_format: StepFormat = TAGS) -> str:
    """Return a solution's text: the model's text with its marks, and the program output.

    Raises `InputError` for steps that are not code steps, such as rStar's actions.
    """
    require_code_steps(steps)
    return step_format.render(steps)


def segments(steps: Sequence[Step], step_format: StepFormat = TAGS) -> list[Segment]:
    """Return a solution's text split by what is trained on; joined it is `solution_text`."""
    require_code_steps(steps)
    pieces: list[Segment] = []
    for block in _blocks(steps):
        text = step_format.render(block)
        output = ""
        if block[-1].kind == "code":
            executions = [step.execution for step in block if step.execution is not None]
            output = step_format.render_output(executions)
        pieces.append(Segment(text[: len(text) - len(output)], trained=True))
        if output:
            pieces.append(Segment(output, trained=False))
    return pieces


def step_texts(steps: Sequence[Step], step_format: StepFormat = TAGS) -> list[str]:
    """Return the text that each step adds to the solution; joined they are `solution_text`."""
    text = solution_text(steps, step_format)
    ends = [len(step_format.render(steps[:length])) for length in range(len(steps) + 1)]
    return [text[start:end] for start, end in pairwise(ends)]


def pair_texts(pair: StepPair, step_format: StepFormat = TAGS) -> tuple[str, str, str]:
    """Return a pair as (text of the prefix, chosen continuation, rejected continuation).

    The plain prompt, the prefix and a continuation, concatenated, are exactly the input of a
    scorer.
    """
    prefix = solution_text(pair.prefix, step_format)
    chosen = solution_text((*pair.prefix, *pair.chosen), step_format)
    rejected = solution_text((*pair.prefix, *pair.rejected), step_format)
    return prefix, chosen[len(prefix) :], rejected[len(prefix) :]


def rendered_prompt(renderer: Renderer, question: str, prefix: str = "") -> str:
    """Return the prompt of a data row: its question, rendered for a model, and its prefix."""
    return renderer.question_prompt(Question("", question)) + prefix


def _blocks(steps: Sequence[Step]) -> list[Sequence[Step]]:
    """Split steps after the end of each code block.

    Each part renders to the same text alone as within the whole solution.
    """
    ends = [index + 1 for index, step in enumerate(steps) if step.kind == "code"]
    cuts = [0, *ends] if ends and ends[-1] == len(steps) else [0, *ends, len(steps)]
    return [steps[start:end] for start, end in pairwise(cuts) if start < end]


def few_shot_prompt(question: Question) -> str:
    """Return worked examples and the question in `tags`; a solution's text follows directly."""
    return make_renderer(prompt="easy", step_format="tags").question_prompt(question)
