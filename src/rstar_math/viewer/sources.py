"""Reads run files, also while they are being written, and single trees."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from math import inf
from pathlib import Path
from statistics import median
from typing import Any, Protocol
from zlib import crc32

from rstar_math.errors import ConfigError, InputError
from rstar_math.evaluation.document import result_anchor
from rstar_math.files import unique_names
from rstar_math.runs.journal import GrowingTrees
from rstar_math.runs.results import Result, disagree
from rstar_math.runs.store import RunStore
from rstar_math.search.records import from_record
from rstar_math.search.strategies import parse_strategies
from rstar_math.search.tree import Tree
from rstar_math.search.voting import NO_CHOICE, Choice, votes_of
from rstar_math.text import sanitize
from rstar_math.types import Problem
from rstar_math.viewer.steps import shorten_html

_SLOW_FACTOR = 2.0
"""A search is slow above this multiple of its column's median time."""
_MARKS = {"right": "✓", "wrong": "✗", "unknown": "?", "none": "∅", "done": "•", "waiting": "…"}
_MARKS |= {"growing": "◌"}
_STATES = {
    "right": "right",
    "wrong": "wrong",
    "unknown": "could not be graded",
    "none": "no answer",
    "done": "no reference answer",
    "waiting": "not yet searched",
    "growing": "search not finished",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One strategy of one run."""

    key: str
    """RUN.STRATEGY, both indices from 0. New strategies do not change existing keys."""
    run: int
    strategy: str
    label: str
    results: Mapping[str, Result]
    """Results by problem id."""
    slow_s: float = inf
    """Seconds above which a search counts as slow."""
    growing: Mapping[str, int] = field(default_factory=dict)
    """Versions of the trees of unfinished searches, by problem id."""


class Source(Protocol):
    """One run or tree file. Use it in the thread that open_source it."""

    path: Path
    growing: GrowingTrees
    """The unfinished searches."""

    def version(self) -> int:
        """A number that changes when the run changes."""
        ...

    def problems(self) -> list[Problem]:
        """All problems, in order."""
        ...

    def strategies(self) -> list[str]:
        """The strategies with results; new ones are appended."""
        ...

    def results(self, strategy: str) -> Iterable[Result]:
        """A strategy's results, in the order of the problems."""
        ...

    def tree(self, problem: str, strategy: str) -> Tree:
        """The tree of a result. Raises `RstarError`."""
        ...

    def conditions(self) -> Mapping[str, Any]:
        """The options of the run."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def columns_of(sources: Sequence[Source]) -> list[Column]:
    """The columns of all runs, in the order of the runs."""
    columns: list[Column] = []
    names = source_names(sources)
    for run, source in enumerate(sources):
        for index, strategy in enumerate(source.strategies()):
            label = strategy if len(sources) == 1 else f"{names[run]}: {strategy}"
            results = {result.problem: result for result in source.results(strategy)}
            slow_s = _SLOW_FACTOR * median([r.cost.seconds for r in results.values()] or [0.0])
            columns.append(Column(f"{run}.{index}", run, strategy, label, results, slow_s))
    return columns


def with_growing(columns: Sequence[Column], sources: Sequence[Source]) -> list[Column]:
    """The columns with the trees of unfinished searches; strategies without results are added."""
    found = list(columns)
    for run, source in enumerate(sources):
        growing: dict[str, dict[str, int]] = {}
        for problem, strategy, version in source.growing.previews():
            growing.setdefault(strategy, {})[problem] = version
        of_run = [index for index, column in enumerate(found) if column.run == run]
        for index in of_run:
            trees = growing.pop(found[index].strategy, {})
            results = found[index].results
            trees = {problem: v for problem, v in trees.items() if problem not in results}
            found[index] = replace(found[index], growing=trees)
        at = of_run[-1] + 1 if of_run else sum(column.run < run for column in found)
        for number, (strategy, trees) in enumerate(sorted(growing.items()), start=len(of_run)):
            name = source_names(sources)[run]
            label = strategy if len(sources) == 1 else f"{name}: {strategy}"
            new = Column(f"{run}.{number}", run, strategy, label, {}, growing=trees)
            found.insert(at + number - len(of_run), new)
    return found


def source_names(sources: Sequence[Source]) -> list[str]:
    """Unique names of the runs: the file name, with folder or number if two are equal."""
    return unique_names([source.path for source in sources], [s.path.name for s in sources])


def problems_of(sources: Sequence[Source]) -> list[Problem]:
    """The problems of all runs without duplicates, in the order of the runs."""
    problems: dict[str, Problem] = {}
    for source in sources:
        for problem in source.problems():
            problems.setdefault(problem.id, problem)
    return list(problems.values())


def result_state(result: Result | None) -> str:
    """The state of a result, a key of `_MARKS` and `_STATES`."""
    if result is None:
        return "waiting"
    if result.choice.answer is None:
        return "none"
    return "done" if result.verdict is None else result.verdict.value


def state_mark(state: str) -> tuple[str, str]:
    """The symbol and the description of a state."""
    return _MARKS[state], _STATES[state]


def cell(column: Column, problem: Problem) -> tuple[str, int, str]:
    """A result for the page: its state, a number that changes with it, and its anchor."""
    result, anchor = column.results.get(problem.id), result_anchor(column.strategy, problem.id)
    if result is None and problem.id in column.growing:
        return "growing", column.growing[problem.id] % 2**48 + 1, anchor
    version = 0 if result is None else crc32(repr(result).encode("utf-8", "surrogatepass"))
    return result_state(result), version, anchor


def matching_filters(columns: Sequence[Column], problem: Problem) -> list[str]:
    """The filters that match a problem; see `FILTERS`."""
    pairs = [(c, c.results[problem.id]) for c in columns if problem.id in c.results]
    states = {result_state(result) for _, result in pairs}
    found = []
    if "right" in states:
        found.append("solved")
    elif states & {"wrong", "none", "unknown"}:
        found.append("unsolved")
    if disagree((r.verdict, r.choice.answer) for _, r in pairs):
        found.append("disagreed")
    if any(r.choice.answer is not None and r.choice.share < 0.5 for _, r in pairs):
        found.append("split")
    if any(r.cost.seconds > c.slow_s for c, r in pairs):
        found.append("slow")
    if any(r.cost.code_failures for _, r in pairs):
        found.append("failures")
    if "none" in states:
        found.append("silent")
    if len(pairs) < len(columns) or not pairs:
        found.append("waiting")
    if any(problem.id in column.growing for column in columns):
        found.append("growing")
    return found


FILTERS: dict[str, tuple[str, str]] = {
    "solved": ("solved", "at least one answer is right"),
    "unsolved": ("unsolved", "searched, and no answer is right"),
    "disagreed": (
        "disagreed",
        "some results are right and others are not; without a reference, answers differ",
    ),
    "split": ("split vote", "the chosen answer has less than half of the votes"),
    "slow": ("slow", "took more than twice the median time of its strategy"),
    "failures": ("code failures", "a program failed in the search"),
    "silent": ("no answer", "a search found no answer"),
    "waiting": ("waiting", "not yet searched with every strategy"),
    "growing": ("under way", "a search is under way, or was interrupted"),
    "gained": ("gained", "right in the second of the two compared columns, but not in the first"),
    "lost": ("lost", "right in the first of the two compared columns, but not in the second"),
}
"""Label and description of each filter, in display order. The page computes the last two."""
_QUESTION_CHARS = 160
"""Maximum number of characters of a question in the list."""
_SEARCHABLE_CHARS = 400
"""Number of characters of a question that the search box covers."""


def problem_row(number: int, problem: Problem, columns: Sequence[Column]) -> dict[str, Any]:
    """The JSON of a problem's row: HTML, searchable text, filters, figures, cells by column."""
    results = [c.results[problem.id] for c in columns if problem.id in c.results]
    text = f"{problem.id} {problem.question.text[:_SEARCHABLE_CHARS]}"
    return {
        "i": number,
        "html": _html(problem, columns),
        "text": " ".join(sanitize(text).lower().split()),
        "flags": matching_filters(columns, problem),
        "seconds": round(max((r.cost.seconds for r in results), default=0.0), 3),
        "failed": max((r.cost.code_failures for r in results), default=0),
        "share": round(min((r.choice.share for r in results), default=0.0), 4),
        "cells": {c.key: cell(c, problem) for c in columns},
    }


def instructive(problems: Sequence[Problem], columns: Sequence[Column]) -> tuple[int, str] | None:
    """The problem (its index) and the column whose finished tree shows most; None if no search is
    finished.

    A problem that more columns have searched shows more, a tree more than chains, several answers
    more than one, a right answer more than a wrong one, and programs more than words. Among equals
    the first wins.
    """
    best, found = 0, None
    for index, problem in enumerate(problems):
        searched = sum(problem.id in column.results for column in columns)
        for column in columns:
            result = column.results.get(problem.id)
            if result is None:
                continue
            score = 1 + 16 * searched + 8 * (not _is_chains(column.strategy))
            score += 4 * (1 < len(result.choice.votes) < 6) + 2 * (result_state(result) == "right")
            score += bool(result.cost.code_runs)
            if score > best:
                best, found = score, (index, column.key)
    return found


def _is_chains(strategy: str) -> bool:
    """Whether a strategy samples independent chains, which have no branches."""
    try:
        return all(each.spec.is_chain for each in parse_strategies(strategy))
    except ConfigError:
        return False


def _html(problem: Problem, columns: Sequence[Column]) -> str:
    """The beginning of the question; below it the id and a mark for each column."""
    return (
        f'<bdi class="question">{shorten_html(problem.question.text, _QUESTION_CHARS)}</bdi>'
        f'<span class="line"><bdi class="id">{shorten_html(problem.id, 60)}</bdi>'
        f'<span class="marks">{_marks(problem, columns)}</span></span>'
    )


def _marks(problem: Problem, columns: Sequence[Column]) -> str:
    """A symbol for each column."""
    found = []
    for column in columns:
        state = cell(column, problem)[0]
        symbol, description = state_mark(state)
        label = escape(f"{sanitize(column.label)}: {description}")
        found.append(
            f'<span class="mark {state}" role="img" aria-label="{label}" '
            f'title="{label}">'
            f"{symbol}</span>"
        )
    return "".join(found)


_DEFAULT_STRATEGY = "tree"
"""The strategy of a tree if its file does not name one."""
_NOT_A_TREE = (
    "is neither a run nor the JSON of a tree; write one with rstar solve --json or rstar export "
    "RUN --trees."
)
_JSON_STARTS = (b"{", b"[")


def open_source(path: Path) -> Source:
    """The source of a run file, or of trees from `rstar solve --json` or `rstar export --trees`.

    Raises `InputError` or `StoreError`. Use the source in the thread that called.
    """
    if path.is_file() and _is_json(path):
        return TreeFile(path)
    return RunStore.read(path)


def run_files(paths: Sequence[Path]) -> list[Path]:
    """The run files of some paths. A folder stands for its run files; the folder of an evolution
    stands for the searches of its rounds. Raises `InputError` for a folder without run files."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        runs = sorted(path.glob("round-*/search.rstar"), key=_round_order) or sorted(
            path.glob("*.rstar")
        )
        if not runs:
            raise InputError(f"The folder {path} contains no run; give a run file.")
        found += runs
    return found


def is_being_written(path: Path) -> bool:
    """Whether a process is writing a run file now.

    Reads the kernel's list of locks: taking the lock could disturb a writer. Returns False if the
    list is not available.
    """
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
    """A tree with its problem, strategy and choice."""

    problem: Problem
    strategy: str
    tree: Tree
    choice: Choice


@dataclass
class TreeFile:
    """The trees of a JSON or JSONL file. The file is read again when it changes."""

    path: Path
    growing: GrowingTrees = field(init=False)
    _version: int = 0
    _entries: dict[tuple[str, str], _Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.growing = GrowingTrees(self.path.with_name(f"{self.path.name}-growing"))
        self.version()

    def version(self) -> int:
        """See `Source`."""
        try:
            version = self.path.stat().st_mtime_ns
        except OSError as error:
            raise InputError(f"Cannot read {self.path} ({error.strerror}).") from error
        if version != self._version:
            self._entries = {(e.problem.id, e.strategy): e for e in _read(self.path)}
            self._version = version
        return self._version

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
            raise InputError(
                f"{self.path} has no tree of the problem {problem!r} with the strategy {strategy}."
            )
        return entry.tree

    def conditions(self) -> Mapping[str, Any]:
        """See `Source`. Empty: a tree does not store them."""
        return {}

    def close(self) -> None:
        """See `Source`. Does nothing: the file is not kept open."""


def _round_order(path: Path) -> tuple[int, str]:
    """The sort key of a round's run: its number, then its path."""
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0, str(path)


def _is_json(path: Path) -> bool:
    """Whether a file starts with a JSON object or list."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(_JSON_STARTS)
    except OSError as error:
        raise InputError(f"Cannot read {path} ({error.strerror}).") from error


def _read(path: Path) -> list[_Entry]:
    """The trees of a file. Raises `InputError`."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"Cannot read {path} ({error.strerror}).") from error
    try:
        return [_entry(path, row) for row in _rows(text)]
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} {_NOT_A_TREE}") from error


def _rows(text: str) -> list[Any]:
    """The values of a JSON or JSONL text. Raises `ValueError`."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]


def _entry(path: Path, row: Any) -> _Entry:
    """One tree: a tree record, or an object of `solve --json` or `export --trees` around one."""
    value = row.get("tree", row) if isinstance(row, dict) else None
    record = json.loads(value) if isinstance(value, str) else value
    if not isinstance(record, dict) or "nodes" not in record:
        raise InputError(f"{path} {_NOT_A_TREE}")
    tree = from_record(record)
    choice = plurality(tree)
    if row is not value and "votes" in row:
        choice = _recorded_choice(row, len(tree))
    texts = [row.get(key) for key in ("reference", "source")]
    if not all(isinstance(text, str | None) for text in texts):
        raise TypeError("reference and source must be strings")
    if tree.question.task is not None:
        texts[0] = None  # a reference in words does not judge
    problem = Problem(tree.question, *texts)
    return _Entry(problem, str(row.get("strategy") or _DEFAULT_STRATEGY), tree, choice)


def _recorded_choice(row: dict[str, Any], nodes: int) -> Choice:
    """The choice that a file records. Raises `ValueError` or `TypeError` if it is invalid."""
    answer, node, share = row.get("answer"), row.get("node"), row.get("share") or 0.0
    votes = {str(key): float(value) for key, value in dict(row["votes"]).items()}
    if not isinstance(answer, str | None) or not (node is None or node in range(nodes)):
        raise TypeError("answer must be a string, and node a node of the tree")
    return Choice(answer, node, float(share), votes)


def plurality(tree: Tree) -> Choice:
    """The answer with the most votes, for a tree without a recorded choice.

    Answers count as equal only if their text is equal.
    """
    votes: dict[str, float] = {}
    best: dict[str, tuple[float, int]] = {}
    cast: Sequence[Any] = votes_of(tree)
    for vote in cast:
        votes[vote.answer] = votes.get(vote.answer, 0.0) + vote.weight
        if vote.answer not in best or vote.value_or_lowest > best[vote.answer][0]:
            best[vote.answer] = (vote.value_or_lowest, vote.node)
    if not votes:
        return NO_CHOICE
    ranked = sorted(votes.items(), key=lambda item: -item[1])
    answer, most = ranked[0]
    return Choice(answer, best[answer][1], most / sum(votes.values()), dict(ranked))
