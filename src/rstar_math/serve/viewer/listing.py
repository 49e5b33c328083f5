"""The list of problems as the page gets it: what to show of each, to filter and to sort by."""

from collections.abc import Sequence
from html import escape
from typing import Any

from rstar_math.foreign import plain
from rstar_math.serve.viewer.columns import Column, cell, flags, mark, state
from rstar_math.serve.viewer.steps import short
from rstar_math.types import Problem

FILTERS: dict[str, tuple[str, str]] = {
    "solved": ("solved", "at least one answer is right"),
    "unsolved": ("unsolved", "searched, and no answer is right"),
    "disagreed": ("disagreed", "strategies or runs came to different answers"),
    "split": ("split vote", "the answer had less than half of the votes"),
    "slow": ("slow", "took more than twice the median time of its strategy"),
    "failures": ("code failures", "a program failed in the search"),
    "silent": ("no answer", "a search came to no answer"),
    "waiting": ("waiting", "not yet searched by every strategy"),
    "gained": ("gained", "right in the second of the two that are compared, not in the first"),
    "lost": ("lost", "right in the first of the two that are compared, not in the second"),
}
"""Words and explanation of each filter, in their order. The page works out the last two itself."""
_WORDS = 160
_SEARCHED = 400
"""Characters of a question that a search looks through."""


def row(number: int, problem: Problem, columns: Sequence[Column]) -> dict[str, Any]:
    """A problem's row: its HTML, the words to search, flags, figures and cells by column."""
    held = [c.results[problem.id] for c in columns if problem.id in c.results]
    text = f"{problem.id} {problem.question.text[:_SEARCHED]}"
    return {
        "i": number,
        "html": _html(problem, columns),
        "text": " ".join(plain(text).lower().split()),
        "flags": flags(columns, problem),
        "seconds": round(max((r.cost.seconds for r in held), default=0.0), 3),
        "failed": max((r.cost.code_failures for r in held), default=0),
        "share": round(min((r.choice.share for r in held), default=0.0), 4),
        "cells": {c.key: cell(c, problem) for c in columns},
    }


def _html(problem: Problem, columns: Sequence[Column]) -> str:
    """Two lines: the id with a mark for each column, and the beginning of the question."""
    return (
        f'<span class="line"><bdi class="id">{short(problem.id, 60)}</bdi>'
        f'<span class="marks">{_marks(problem, columns)}</span></span>'
        f'<bdi class="question">{short(problem.question.text, _WORDS)}</bdi>'
    )


def _marks(problem: Problem, columns: Sequence[Column]) -> str:
    """A sign for each column."""
    found = []
    for column in columns:
        result = column.results.get(problem.id)
        sign, words = mark(result)
        said = escape(f"{plain(column.label)}: {words}")
        found.append(
            f'<span class="mark {state(result)}" role="img" aria-label="{said}" title="{said}">'
            f"{sign}</span>"
        )
    return "".join(found)
