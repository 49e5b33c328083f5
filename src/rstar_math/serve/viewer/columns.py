"""A column is one strategy of one run; a cell what it came to on one problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from zlib import crc32

from rstar_math.evolution.store import Result
from rstar_math.serve.page import anchor
from rstar_math.serve.viewer.sources import Source
from rstar_math.types import Problem

_SLOW = 2.0
"""Times the median of its column that a slow search takes."""
_MARKS = {"right": "✓", "wrong": "✗", "unknown": "?", "none": "∅", "done": "•", "waiting": "…"}
_STATES = {
    "right": "right",
    "wrong": "wrong",
    "unknown": "not to be judged",
    "none": "no answer",
    "done": "no reference to judge by",
    "waiting": "not yet searched",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One strategy of one run."""

    key: str
    """RUN.STRATEGY, both counted from 0; a strategy that comes later changes no other's key."""
    run: int
    strategy: str
    label: str
    results: Mapping[str, Result]
    """By problem."""
    slow_s: float = inf
    """Seconds above which a search is slow here."""


def columns_of(sources: Sequence[Source]) -> list[Column]:
    """All columns, run by run."""
    found: list[Column] = []
    called = names(sources)
    for run, source in enumerate(sources):
        for at, strategy in enumerate(source.strategies()):
            label = strategy if len(sources) == 1 else f"{called[run]}: {strategy}"
            results = {result.problem: result for result in source.results(strategy)}
            slow_s = _SLOW * median([r.cost.seconds for r in results.values()] or [0.0])
            found.append(Column(f"{run}.{at}", run, strategy, label, results, slow_s))
    return found


def names(sources: Sequence[Source]) -> list[str]:
    """A name for each run: its file's, with the folder, or else its number, where two are the
    same."""
    return distinct([source.path for source in sources], [s.path.name for s in sources])


def distinct(
    paths: Sequence[Path], files: Sequence[str], *, folder: str = "/", number: str = ": "
) -> list[str]:
    """The names of some files, with the folder, or else the number, where two are the same;
    `folder` and `number` stand after these."""
    longer = [f"{path.parent.name}{folder}{name}" for path, name in zip(paths, files, strict=True)]
    numbered = [f"{at}{number}{name}" for at, name in enumerate(longer, 1)]
    return next(found for found in (list(files), longer, numbered) if len({*found}) == len(found))


def problems_of(sources: Sequence[Source]) -> list[Problem]:
    """The problems of all runs, each once, the first run's first."""
    found: dict[str, Problem] = {}
    for source in sources:
        for problem in source.problems():
            found.setdefault(problem.id, problem)
    return list(found.values())


def state(result: Result | None) -> str:
    """What a column came to: a key of the marks and words for it."""
    if result is None:
        return "waiting"
    if result.choice.answer is None:
        return "none"
    return "done" if result.verdict is None else result.verdict.value


def mark(result: Result | None) -> tuple[str, str]:
    """A sign for a state, and words."""
    return _MARKS[state(result)], _STATES[state(result)]


def cell(column: Column, problem: Problem) -> tuple[str, int, str]:
    """What the page must know of a result: its state, a number that changes with it, and the name
    of its place."""
    result = column.results.get(problem.id)
    stamp = 0 if result is None else crc32(repr(result).encode("utf-8", "surrogatepass"))
    return state(result), stamp, anchor(column.strategy, problem.id)


def flags(columns: Sequence[Column], problem: Problem) -> list[str]:
    """The filters that a problem passes; see `listing.FILTERS`."""
    held = [(c, c.results[problem.id]) for c in columns if problem.id in c.results]
    states = {state(result) for _, result in held}
    found = []
    if "right" in states:
        found.append("solved")
    elif states & {"wrong", "none", "unknown"}:
        found.append("unsolved")
    if _disagreed([result for _, result in held]):
        found.append("disagreed")
    if any(r.choice.answer is not None and r.choice.share < 0.5 for _, r in held):
        found.append("split")
    if any(r.cost.seconds > c.slow_s for c, r in held):
        found.append("slow")
    if any(r.cost.code_failures for _, r in held):
        found.append("failures")
    if "none" in states:
        found.append("silent")
    if len(held) < len(columns) or not held:
        found.append("waiting")
    return found


def _disagreed(results: Sequence[Result]) -> bool:
    """Whether columns came to different verdicts, or to answers of different words that were not
    both judged right."""
    if len({state(r) for r in results}) > 1:
        return True
    answers = {"".join((r.choice.answer or "").split()) for r in results}
    return len(answers) > 1 and state(results[0]) != "right"
