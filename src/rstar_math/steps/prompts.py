"""Prompts: the few-shot one teaches the format to a model that has never seen it; the short one
is for a model that was trained on it. Inference and training data both come from here, so they
cannot differ."""

from functools import cache
from importlib.resources import files

from rstar_math.steps.grammar import GRAMMAR
from rstar_math.types import Question


def trained_prompt(question: Question) -> str:
    """The prompt of a model trained on the grammar; a solution's text follows it directly."""
    return f"Question: {question.text.strip()}\n"


def few_shot_prompt(question: Question) -> str:
    """Worked examples, then the question; a solution's text follows it directly.

    The examples come first and never change, so that a server's prefix cache holds them once.
    """
    return _examples() + trained_prompt(question)


@cache
def _examples() -> str:
    """The examples' text, checked against the grammar when first read."""
    text = (files("rstar_math.steps") / "few_shot.txt").read_text(encoding="utf-8")
    for example in text.split("\n\nQuestion: "):
        solution = example.partition("\n<code>")[2]
        GRAMMAR.parse("<code>" + solution.rstrip("\n") + "\n")
    return text.rstrip("\n") + "\n\n"
