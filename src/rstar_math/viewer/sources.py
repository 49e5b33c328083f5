"""What the viewer shows: run files, also while they are written, and single trees."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import inf
from pathlib import Path
from statistics import median
from typing import Any, Protocol
from zlib import crc32

from rstar_math.errors import InputError
from rstar_math.evaluation.document import result_anchor
from rstar_math.files import unique_names
from rstar_math.runs.results import Result
from rstar_math.runs.store import RunStore
from rstar_math.search.tree import Tree, from_record
from rstar_math.search.voting import NO_CHOICE, Choice, votes_of
from rstar_math.text import sanitize
from rstar_math.types import Problem
from rstar_math.viewer.steps import short

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


class Source(Protocol):
    """One run to look at."""

    path: Path

    def version(self) -> int:
        """A number that changes when the run does."""
        ...

    def problems(self) -> list[Problem]:
        """All problems, in order."""
        ...

    def strategies(self) -> list[str]:
        """The strategies that have results; later ones are put behind."""
        ...

    def results(self, strategy: str) -> Iterable[Result]:
        """A strategy's results, in the order of the problems."""
        ...

    def tree(self, problem: str, strategy: str) -> Tree:
        """The tree of a result. Raises `RstarError`."""
        ...

    def conditions(self) -> Mapping[str, Any]:
        """What the run was made with."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


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
    return unique_names([source.path for source in sources], [s.path.name for s in sources])


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
    return state(result), stamp, result_anchor(column.strategy, problem.id)


def flags(columns: Sequence[Column], problem: Problem) -> list[str]:
    """The filters that a problem passes; see `FILTERS`."""
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
        "text": " ".join(sanitize(text).lower().split()),
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
        said = escape(f"{sanitize(column.label)}: {words}")
        found.append(
            f'<span class="mark {state(result)}" role="img" aria-label="{said}" title="{said}">'
            f"{sign}</span>"
        )
    return "".join(found)


_PLAIN = "tree"
"""The strategy of a tree whose file does not name one."""
_NO_TREE = (
    "is neither a run nor the JSON of a tree; make one with: rstar solve --json, or rstar export "
    "RUN --trees."
)
_OPENINGS = (b"{", b"[")


def opened(path: Path) -> Source:
    """A run file, or the tree that `rstar solve --json` or `rstar export --trees` wrote. Raises
    `InputError` or `StoreError`. Belongs to the thread that calls."""
    if path.is_file() and _is_text(path):
        return TreeFile(path)
    return RunStore.read(path)


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The runs that are meant: files as they are; of a folder its runs, or for an evolution the
    searches of its rounds. Raises `InputError` for a folder without any."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        held = sorted(path.glob("round-*/search.rstar"), key=_round) or sorted(path.glob("*.rstar"))
        if not held:
            raise InputError(f"There is no run in the folder {path}; give a run's file.")
        found += held
    return found


def is_written(path: Path) -> bool:
    """Whether a process is writing a run file now. Asks for no lock, which could be in a writer's
    way, but reads the kernel's list of them; where there is none it is not known and False."""
    try:
        inode = os.stat(f"{path.resolve()}-lock").st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    return any(
        "FLOCK" in line and "->" not in line and f":{inode} " in line for line in locks.splitlines()
    )


@dataclass(slots=True)
class _Entry:
    """A tree of a file."""

    problem: Problem
    strategy: str
    tree: Tree
    choice: Choice


@dataclass
class TreeFile:
    """Trees of a JSON or JSONL file, read again when the file changes."""

    path: Path
    _stamp: int = 0
    _entries: dict[tuple[str, str], _Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.version()

    def version(self) -> int:
        """See `Source`."""
        try:
            stamp = self.path.stat().st_mtime_ns
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}).") from error
        if stamp != self._stamp:
            self._entries = {(e.problem.id, e.strategy): e for e in _read(self.path)}
            self._stamp = stamp
        return self._stamp

    def problems(self) -> list[Problem]:
        """See `Source`."""
        return list({e.problem.id: e.problem for e in self._entries.values()}.values())

    def strategies(self) -> list[str]:
        """See `Source`."""
        return list(dict.fromkeys(e.strategy for e in self._entries.values()))

    def results(self, strategy: str) -> list[Result]:
        """See `Source`."""
        return [
            Result(e.problem.id, strategy, e.choice, None, e.tree.cost, e.tree.failures())
            for e in self._entries.values()
            if e.strategy == strategy
        ]

    def tree(self, problem: str, strategy: str) -> Tree:
        """See `Source`."""
        entry = self._entries.get((problem, strategy))
        if entry is None:
            raise InputError(f"{self.path} has no tree of {strategy} on the problem {problem!r}.")
        return entry.tree

    def conditions(self) -> Mapping[str, Any]:
        """See `Source`: a tree does not say."""
        return {}

    def close(self) -> None:
        """See `Source`: the file is not held."""


def _round(path: Path) -> tuple[int, str]:
    """The number of a round's folder, for putting them in order."""
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0, str(path)


def _is_text(path: Path) -> bool:
    """Whether a file begins as JSON does."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(_OPENINGS)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def _read(path: Path) -> list[_Entry]:
    """The trees of a file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    try:
        return [_entry(path, row) for row in _rows(text)]
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} {_NO_TREE}") from error


def _rows(text: str) -> list[Any]:
    """The values of a JSON or JSONL text."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]


def _entry(path: Path, row: Any) -> _Entry:
    """One tree: a record, or what `solve --json` and `export --trees` put around it."""
    held = row.get("tree", row) if isinstance(row, dict) else None
    record = json.loads(held) if isinstance(held, str) else held
    if not isinstance(record, dict) or "nodes" not in record:
        raise InputError(f"{path} {_NO_TREE}")
    tree = from_record(record)
    choice = _plurality(tree)
    if row is not held and "votes" in row:
        choice = _recorded_choice(row, len(tree))
    texts = [row.get(key) for key in ("reference", "source")]
    if not all(isinstance(text, str | None) for text in texts):
        raise TypeError("a reference and a source are texts")
    problem = Problem(tree.question, *texts)
    return _Entry(problem, str(row.get("strategy") or _PLAIN), tree, choice)


def _recorded_choice(row: dict[str, Any], nodes: int) -> Choice:
    """The choice that a file tells of. Raises `ValueError` or `TypeError` for one that is none."""
    answer, node, share = row.get("answer"), row.get("node"), row.get("share") or 0.0
    votes = {str(key): float(value) for key, value in dict(row["votes"]).items()}
    if not isinstance(answer, str | None) or not (node is None or node in range(nodes)):
        raise TypeError("an answer is a text, and its node one of the tree")
    return Choice(answer, node, float(share), votes)


def _plurality(tree: Tree) -> Choice:
    """The answer with the most votes, of a tree whose file says nothing of a choice; answers are
    equal here where their text is."""
    votes: dict[str, float] = {}
    best: dict[str, tuple[float, int]] = {}
    cast: Sequence[Any] = votes_of(tree)
    for vote in cast:
        votes[vote.answer] = votes.get(vote.answer, 0.0) + vote.weight
        if vote.answer not in best or vote.rank > best[vote.answer][0]:
            best[vote.answer] = (vote.rank, vote.node)
    if not votes:
        return NO_CHOICE
    ranked = sorted(votes.items(), key=lambda item: -item[1])
    answer, most = ranked[0]
    return Choice(answer, best[answer][1], most / sum(votes.values()), dict(ranked))
