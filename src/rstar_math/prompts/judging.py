r"""Prompts for judges: chat models that value steps or compare solutions, and their verdicts.

The style "rating" is ours. "genprm" and "thinkprm" are the inputs that the generative verifiers
were trained on, checked against RyanLiu112/GenPRM and mukhal/ThinkPRM. Departures: GenPRM gets all
paragraphs in one message instead of one message each, so that a step needs one request, and its
code is not run. Both take the probability of a verdict from logits; a judge's value is the mean of
its votes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from rstar_math.errors import ConfigError
from rstar_math.prompts.step_rewards import reward_steps
from rstar_math.types import Question, Step

Messages = list[tuple[str, str]]
"""(role, content) of a conversation, the last one the user's."""
_RATING = re.compile(r"rating\W{0,6}(10|[1-9])\b", re.IGNORECASE)
_BETTER = re.compile(r"better\W{0,6}(A|B|tie)\b", re.IGNORECASE)
_YES_NO = re.compile(r"\\boxed\{\s*(yes|no)\s*\}", re.IGNORECASE)
_FINAL = re.compile(r"is the solution correct\?\W*(yes|no)\b", re.IGNORECASE)
_LABEL = re.compile(r"\\boxed\{\s*(correct|incorrect)\s*\}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JudgementStyle:
    """A form of pointwise judgement."""

    messages: Callable[[Question, Sequence[str], str], Messages]
    """Returns the conversation for step texts, with a rubric."""
    partial: Callable[[int], str]
    """Returns the beginning of the judge's answer for a prefix of n steps."""
    parse: Callable[[str], float | None]
    """Returns the value in [-1, 1] of an answer; None without a verdict."""
    stop: tuple[str, ...] = ()


def parse_rating(text: str) -> float | None:
    """Return the last "Rating: N" as a value: 1 is -1, 10 is 1. None without one."""
    found = _RATING.findall(text)
    return (int(found[-1]) - 1) / 4.5 - 1.0 if found else None


def parse_genprm(text: str) -> float | None:
    r"""Return 1 for a last verdict \boxed{Yes} and -1 for \boxed{No}; None without one."""
    found = _YES_NO.findall(text)
    return (1.0 if found[-1].lower() == "yes" else -1.0) if found else None


def parse_thinkprm(text: str) -> float | None:
    r"""Return 1 or -1 for the last "Is the solution correct? Yes" or "No".

    Without it, -1 if a step is labelled \boxed{incorrect}, 1 if all are \boxed{correct}, else None.
    """
    if found := _FINAL.findall(text):
        return 1.0 if found[-1].lower() == "yes" else -1.0
    labels = [label.lower() for label in _LABEL.findall(text)]
    if not labels:
        return None
    return -1.0 if "incorrect" in labels else 1.0


def parse_preference(text: str) -> float | None:
    """Return the share of A in the last "Better: A", "B" or "tie": 1, 0 or 0.5. None without."""
    found = _BETTER.findall(text)
    return {"a": 1.0, "b": 0.0, "tie": 0.5}[found[-1].lower()] if found else None


def _rating_messages(question: Question, steps: Sequence[str], rubric: str) -> Messages:
    system = f"You judge partial solutions of problems.\n\n{rubric}"
    user = (
        f"Problem:\n{question.text.strip()}\n\nSolution so far:\n{_numbered(steps)}\n\n"
        f"Judge step {len(steps)}, the last one, given the steps before it. Reason briefly. Then "
        "write one last line: Rating: N, where N is from 1 (certainly wrong) to 10 (certainly "
        "right)."
    )
    return [("system", system), ("user", user)]


def _genprm_messages(question: Question, steps: Sequence[str], rubric: str) -> Messages:
    paragraphs = "\n\n".join(steps)
    return [
        (
            "system",
            "You are a math teacher. Your task is to review and critique the paragraphs in "
            "solution step by step.",
        ),
        ("user", f"Question: {question.text.strip()}\n\n{paragraphs}"),
    ]


def _thinkprm_messages(question: Question, steps: Sequence[str], rubric: str) -> Messages:
    user = (
        "You are given a math problem and a proposed step-by-step solution:\n\n[Math Problem]\n\n"
        f"{question.text.strip()}\n\n[Solution]\n\n{_numbered(steps)}\n\nReview and critique each "
        "step in the proposed solution to determine whether each step is correct. If the solution "
        "is incomplete, only verify the provided steps."
    )
    return [("user", user)]


JUDGEMENT_STYLES: Mapping[str, JudgementStyle] = {
    "rating": JudgementStyle(_rating_messages, lambda n: "", parse_rating),
    "genprm": JudgementStyle(
        _genprm_messages,
        lambda n: f"<analyze>\nLet's analyze the Paragraph {n} step by step: ",
        parse_genprm,
        stop=("</output>",),
    ),
    "thinkprm": JudgementStyle(_thinkprm_messages, lambda n: "", parse_thinkprm),
}
"""The styles by the value of `judge.style`."""


def pair_messages(
    question: Question, first: Sequence[Step], second: Sequence[Step], rubric: str
) -> Messages:
    """Return the conversation that compares two solutions, A and B."""
    system = f"You compare two solutions of a problem.\n\n{rubric}"
    user = (
        f"Problem:\n{question.text.strip()}\n\nSolution A:\n{_numbered(reward_steps(first))}\n\n"
        f"Solution B:\n{_numbered(reward_steps(second))}\n\nWhich solution is right, or closer to "
        "right? Their order means nothing. Reason briefly. Then write one last line: Better: A, "
        "Better: B or Better: tie."
    )
    return [("system", system), ("user", user)]


def plain_prompt(messages: Messages) -> str:
    """Return a conversation as plain text, for models without a chat template."""
    return "\n\n".join(content for _, content in messages) + "\n\nAnswer:"


def read_rubric(path: str | None) -> str:
    """Return the text of a rubric file, by default of this package's. Raises `ConfigError`."""
    if path is None:
        return _default_rubric()
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The rubric {path} cannot be read ({error}); correct judge.rubric."
        ) from error
    if not text:
        raise ConfigError(f"The rubric {path} is empty; write what the judge must look at.")
    return text


@cache
def _default_rubric() -> str:
    return (files("rstar_math.prompts") / "rubric.txt").read_text(encoding="utf-8").strip()


def _numbered(steps: Sequence[str]) -> str:
    return "\n\n".join(f"Step {n}: {text}" for n, text in enumerate(steps, start=1))
