"""A model's judgement of its own steps as text: the prompts that ask for it, and what the answers
say. Both prompts begin with worked examples that never change, for a server's prefix cache."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from rstar_math.steps.grammar import GRAMMAR
from rstar_math.steps.prompts import trained_prompt
from rstar_math.steps.subquestions import asked
from rstar_math.types import Question, Step

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


def read_verdict(text: str, *, check: bool = True) -> float | None:
    """1 for "sure", 0 for "likely", -1 for "impossible", of the first verdict that a text sampled
    after `verdict_prompt` gives; None where it gives none clearly: "not sure" is no verdict."""
    found = _FOUND.search(text if check else _VERDICT + text)
    return _WORTH[found[1].lower()] if found else None


def useful_prompt(question: Question, prefix: Sequence[Step]) -> str:
    """Judged sub-questions, then the last one of a prefix to be judged: RAP's self-evaluation (Hao
    et al. 2023, arXiv:2305.14992, section 3.2). The sub-questions before it are shown without
    their answers, as in RAP's code. The prefix must have a step."""
    *before, last = (asked(step) for step in prefix)
    lines = [f"Problem: {question.text.strip()}", *(f"Question: {each}" for each in before)]
    lines += [f"New question: {last}", "Is the new question useful?"]
    return _text("useful.txt") + "\n".join(lines)


def read_useful(text: str) -> bool | None:
    """Whether a text begins with yes; None where it begins with neither yes nor no."""
    match = _YES_NO.match(text)
    return match[1].lower() == "yes" if match else None


@cache
def _text(name: str) -> str:
    """The worked examples of a file, ended by an empty line."""
    return (files("rstar_math.steps") / name).read_text(encoding="utf-8").rstrip("\n") + "\n\n"
