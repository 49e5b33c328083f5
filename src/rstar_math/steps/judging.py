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

STOPS = ("\n",)
"""Stop strings of both prompts: a judgement is one line."""

_WORTH = {"sure": 1.0, "likely": 0.0, "impossible": -1.0}
_LABELLED = re.compile(r"\bverdict\W{1,4}(sure|likely|impossible)\b", re.IGNORECASE)
_BARE = re.compile(r"\W*(sure|likely|impossible)\W*", re.IGNORECASE)
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def verdict_prompt(question: Question, prefix: Sequence[Step]) -> str:
    """Judged solutions, then a prefix of code-augmented steps to be judged: the value prompt of
    Tree of Thoughts (Yao et al. 2023, arXiv:2305.10601, section 3), which has the model look at
    the state in a few words before its verdict."""
    return f"{_text('judged.txt')}{trained_prompt(question)}{GRAMMAR.render(prefix)}Check:"


def read_verdict(text: str) -> float | None:
    """1 for "sure", 0 for "likely", -1 for "impossible"; None where the text says none clearly.

    The word must follow "Verdict:" (the last one counts) or be all of the text: "not sure" and
    "impossible to say" are no verdicts.
    """
    found: list[str] = _LABELLED.findall(text)
    if not found and (bare := _BARE.fullmatch(text)):
        found = [bare[1]]
    return _WORTH[found[-1].lower()] if found else None


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
