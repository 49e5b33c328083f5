"""New problems as text: what a model is asked, and what its answer holds; and when independent
solutions make a reference. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rstar_math.problems.difficulty import Success
from rstar_math.problems.similarity import words
from rstar_math.types import Problem

STOPS = ("\n\n", "\nProblem:", "\nAnswer", "\nSolution")
"""Stop strings of a new problem."""
FEWEST_WORDS = 6
MOST_CHARS = 2_000

_LEAD = re.compile(r"\A\W*(?:new\s+)?(?:problem|question)\s*\d*\s*[:.]\**\s*", re.IGNORECASE)
_SOLVED = re.compile(r"\b(?:answer|solution)\s*:|\\boxed|####|_____", re.IGNORECASE)
_ASKS = re.compile(
    r"\?|\b(?:find|compute|calculate|determine|evaluate|solve|simplify|how many|how much|what)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What independent solutions of one problem came to."""

    answer: str | None
    """The answer that most of them gave; None where none was given or two were as frequent."""
    agreeing: int
    """Solutions with this answer, or with one as frequent as any."""
    solutions: int
    """Solutions asked for, also those without an answer."""


def synthesis_prompt(seeds: Sequence[Problem]) -> str:
    """Seed problems as examples, then room for a new one."""
    shown = "".join(f"Problem: {seed.question.text.strip()}\n\n" for seed in seeds)
    return f"{_instruction()}{shown}Problem:"


def read_draft(text: str) -> str | None:
    """The problem that a sampled text holds, or None: too short or long, asking nothing, or told
    with its answer."""
    draft = _LEAD.sub("", text.strip()).split("\n\n")[0].strip()
    if len(draft) > MOST_CHARS or _SOLVED.search(draft) or not _ASKS.search(draft):
        return None
    return draft if len(words(draft).plain) >= FEWEST_WORDS else None


def agreement(answers: Sequence[str | None], classes: Sequence[int]) -> Agreement:
    """What some solutions agree on. `classes` numbers the classes of equal answers, in the order
    of those answers that are not None."""
    given = [answer for answer in answers if answer is not None]
    first: dict[int, str] = {}
    for answer, number in zip(given, classes, strict=True):
        first.setdefault(number, answer)
    ranked = Counter(classes).most_common(2)
    if not ranked:
        return Agreement(None, 0, len(answers))
    (leader, votes), *others = ranked
    tied = bool(others) and others[0][1] == votes
    return Agreement(None if tied else first[leader], votes, len(answers))


def drop_unreliable(
    problems: Iterable[Problem], successes: Mapping[str, Success], least: float = 0.5
) -> tuple[list[Problem], list[Problem]]:
    """Problems to keep and problems to drop: those whose own trajectories come to the reference in
    less than `least` of the cases, for then the reference is in doubt (rStar-Math,
    arXiv:2501.04519: synthetic problems below 50 %). Those without a figure are kept."""
    kept: list[Problem] = []
    dropped: list[Problem] = []
    for problem in problems:
        success = successes.get(problem.id)
        doubtful = success is not None and success.rate < least
        (dropped if doubtful else kept).append(problem)
    return kept, dropped


@cache
def _instruction() -> str:
    """The words before the seeds, ended by an empty line."""
    text = (files("rstar_math.problems") / "synthesis.txt").read_text(encoding="utf-8")
    return text.rstrip("\n") + "\n\n"
