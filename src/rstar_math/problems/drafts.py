"""New problems as text: what a model is asked, and what its answer holds; and when independent
solutions make a reference. Pure."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rstar_math.problems.similarity import words
from rstar_math.types import Problem

STOPS = ("\n\n", "\nProblem:", "\nAnswer", "\nSolution", "\nQuestion:")
"""Stop strings of a new problem."""
FEWEST_WORDS = 6
MOST_CHARS = 2_000
MOST_ANSWER_CHARS = 200
"""Longest answer that becomes a reference."""

_LEAD = re.compile(r"\A\W*(?:new\s+)?(?:problem|question)\s*\d*\s*[:.]\**\s*", re.IGNORECASE)
_SOLVED = re.compile(r"\b(?:answer|solution)\s*:|\\boxed|####|_____", re.IGNORECASE)
_MARKED = re.compile(r"</?\s*(?:step|code|output|answer)\b|<\||^\s*Question:", re.I | re.M)
"""Marks of a solution's or a chat's own text: with them a draft could bring the beginning of its
solution along, on which all solutions would agree."""
_ASKS = re.compile(
    r"\?|\b(?:find|compute|calculate|determine|evaluate|solve|simplify|how many|how much|what)\b",
    re.IGNORECASE,
)
_BLANK = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What independent solutions of one problem came to."""

    answer: str | None
    """The answer that most of them gave; None where none was given or two were as frequent."""
    agreeing: int
    """Solutions with this answer, or with one as frequent as any."""
    solutions: int
    """Solutions asked for, also those without an answer."""

    def reference(self, least: int) -> str | None:
        """The answer as a reference; None where fewer than `least` agree on it, or it is nothing
        that a file of problems can hold."""
        found = self.answer
        if found is None or self.agreeing < least:
            return None
        return found if len(found) <= MOST_ANSWER_CHARS and is_clean(found) else None


def synthesis_prompt(seeds: Sequence[Problem]) -> str:
    """Seed problems as examples, each one paragraph, then room for a new one."""
    texts = (_BLANK.sub("\n", seed.question.text.strip()) for seed in seeds)
    shown = "".join(f"Problem: {text}\n\n" for text in texts)
    return f"{_instruction()}{shown}Problem:"


def read_draft(text: str) -> str | None:
    """The problem that a sampled text holds, or None: too short or long, asking nothing, told with
    its answer, or with characters or marks that are no text of a problem."""
    start = text.strip()[: 2 * MOST_CHARS]
    draft = _LEAD.sub("", start).split("\n\n")[0].strip()
    if len(draft) > MOST_CHARS or not is_clean(draft):
        return None
    if _SOLVED.search(draft) or _MARKED.search(draft) or not _ASKS.search(draft):
        return None
    return draft if len(words(draft).plain) >= FEWEST_WORDS else None


def is_clean(text: str) -> bool:
    """Whether all of a text can be seen and written: no control characters but line ends and tabs,
    no invisible ones, no halves of characters."""
    return not any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") for c in text if c not in "\n\t"
    )


def agreement(votes: Mapping[str, float], solutions: int) -> Agreement:
    """What some solutions agree on. `votes` are those of a majority over them (a `Choice`'s): one
    for each solution with an answer, by classes of equal answers; `solutions` is how many were
    asked for."""
    ranked = sorted(votes.items(), key=lambda item: -item[1])[:2]
    if not ranked:
        return Agreement(None, 0, solutions)
    (leader, most), *others = ranked
    tied = bool(others) and others[0][1] == most
    return Agreement(None if tied else leader, round(most), solutions)


@cache
def _instruction() -> str:
    """The words before the seeds, ended by an empty line."""
    text = (files("rstar_math.problems") / "synthesis.txt").read_text(encoding="utf-8")
    return text.rstrip("\n") + "\n\n"
