"""Renders the viewer's fragments by name, for the server and for the exported page.

    overview            HTML     figures of the runs
    problem/P           HTML     a question
    result/P/C          HTML     an answer and why it won
    tree/P/C            JSON     the shape of the result's tree
    lines/P/C/B         JSON     a block of outline lines
    steps/P/C/B         JSON     a block of complete steps

P is a problem's index, C a column's key, B a block's index. Indices start at 0.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rstar_math.errors import InputError
from rstar_math.runs.results import Result
from rstar_math.search.tree import Tree
from rstar_math.text import sanitize
from rstar_math.types import Problem
from rstar_math.viewer.overview import file_version, overview_html, rounds_files
from rstar_math.viewer.result import problem_html, result_html, rule_of, vote_shares
from rstar_math.viewer.sources import (
    FILTERS,
    Column,
    Source,
    cell,
    columns_of,
    instructive,
    is_being_written,
    plurality,
    problem_row,
    problems_of,
    source_names,
    with_growing,
)
from rstar_math.viewer.steps import LINES, STEPS, block_count, lines_json, shape_json, steps_json

_MAX_TREES = 3
"""Maximum number of trees in memory; the least recently used is dropped."""


@dataclass(frozen=True, slots=True)
class _TreePage:
    """A tree, its result (of an unfinished search: the votes so far), and each node's share of the
    votes in [0, 1]."""

    tree: Tree
    result: Result
    shares: list[float] | None


class ViewerPages:
    """The fragments of the pages of some runs.

    Use it in one thread, as its sources. `new_sources` returns runs that were created since the
    last call.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        edition: int = 0,
        new_sources: Callable[[], Iterable[Source]] = lambda: (),
    ) -> None:
        self._sources = list(sources)
        self._new_sources = new_sources
        self._versions: list[int] = []
        self._stamps: list[int] = []
        self._edition = edition
        self._finished_columns: list[Column] = []
        self._columns: list[Column] = []
        self._problems: list[Problem] = []
        self._rows: list[dict[str, Any]] = []
        self._row_editions: list[int] = []
        self._tree_pages: OrderedDict[tuple[int, str, int], _TreePage] = OrderedDict()
        self._refresh()

    @property
    def title(self) -> str:
        """The names of the runs."""
        return sanitize(" and ".join(source_names(self._sources)))

    @property
    def trees(self) -> int:
        """Number of trees."""
        return sum(len(c.results) + len(c.growing) for c in self._columns)

    def index(self, since: int = 0) -> dict[str, Any]:
        """The problem list, with only the rows that changed after the edition `since`.

        Contains only `edition` and `writing` if nothing changed. `edition` is a version number.
        """
        self._refresh()
        writing = any(is_being_written(source.path) for source in self._sources)
        status: dict[str, Any] = {"edition": self._edition, "writing": writing}
        if since == self._edition:
            return status
        since = since if since < self._edition else 0
        return status | {
            "title": self.title,
            "columns": [
                {
                    "key": c.key,
                    "run": c.run,
                    "strategy": sanitize(c.strategy),
                    "label": sanitize(c.label),
                    "done": len(c.results),
                }
                for c in self._columns
            ],
            "start": instructive(self._problems, self._columns),
            "filters": [[key, *texts] for key, texts in FILTERS.items()],
            "rows": [
                row
                for row, edition in zip(self._rows, self._row_editions, strict=True)
                if edition > since
            ],
        }

    def fragment(self, name: str) -> str:
        """A fragment as text. Raises `InputError` for an unknown name, and `RstarError` if the run
        cannot be read."""
        kind, *path = name.split("/")
        try:
            if kind == "overview" and not path:
                return overview_html(self._sources, self._columns, len(self._problems))
            problem = self._problem(path[0])
            if kind == "problem" and len(path) == 1:
                return problem_html(self._problems[problem])
            column = next(c for c in self._columns if c.key == path[1])
            return self._result_fragment(kind, problem, column, [int(part) for part in path[2:]])
        except (ValueError, IndexError, StopIteration):
            raise InputError("Unknown part of the page; reload the page.") from None

    def names(self) -> Iterator[str]:
        """Yields the names of all fragments; those of one tree are adjacent."""
        yield "overview"
        for index, problem in enumerate(self._problems):
            yield f"problem/{index}"
            for column in self._columns:
                if problem.id not in {**column.results, **column.growing}:
                    continue
                size = len(self._tree_page(index, column).tree)
                yield f"result/{index}/{column.key}"
                yield f"tree/{index}/{column.key}"
                for kind, block in (("lines", LINES), ("steps", STEPS)):
                    for number in range(block_count(size, block)):
                        yield f"{kind}/{index}/{column.key}/{number}"

    def _result_fragment(self, kind: str, problem: int, column: Column, rest: list[int]) -> str:
        """A fragment of one result. Raises `ValueError` or `IndexError` for an unknown name."""
        page = self._tree_page(problem, column)
        result = page.result
        if kind == "result" and not rest:
            conditions = self._sources[column.run].conditions()
            finished = self._problems[problem].id in column.results
            return result_html(result, page.tree, conditions, finished=finished)
        if kind == "tree" and not rest:
            return shape_json(page.tree, result.choice)
        (block,) = rest
        if kind == "lines" and 0 <= block < block_count(len(page.tree), LINES):
            return lines_json(page.tree, result.choice, page.shares, block, result.verdict)
        if kind == "steps" and 0 <= block < block_count(len(page.tree), STEPS):
            return steps_json(page.tree, block)
        raise IndexError(kind)

    def _problem(self, text: str) -> int:
        """The index of a problem. Raises `ValueError` or `IndexError` if it is invalid."""
        number = int(text)
        if not 0 <= number < len(self._problems):
            raise IndexError(text)
        return number

    def _tree_page(self, problem: int, column: Column) -> _TreePage:
        """The tree of a result, from memory or from its run."""
        problem_id = self._problems[problem].id
        result = column.results.get(problem_id)
        if result is None and problem_id not in column.growing:
            raise IndexError(problem_id)
        key = (problem, column.key, cell(column, self._problems[problem])[1])
        if key not in self._tree_pages:
            source = self._sources[column.run]
            conditions = source.conditions()
            if result is None:
                tree = source.growing.preview(problem_id, column.strategy)
                votes, failures = plurality(tree), tree.failures()
                result = Result(problem_id, column.strategy, votes, None, tree.cost, failures)
            else:
                tree = source.tree(problem_id, column.strategy)
            rule = rule_of(result, tree, conditions)
            self._tree_pages[key] = _TreePage(tree, result, vote_shares(tree, rule, conditions))
            while len(self._tree_pages) > _MAX_TREES:
                self._tree_pages.popitem(last=False)
        self._tree_pages.move_to_end(key)
        return self._tree_pages[key]

    def _refresh(self) -> None:
        """Reload what changed. A row's edition is the last one that changed the row."""
        self._sources += self._new_sources()
        versions = [source.version() for source in self._sources]
        versions += [file_version(path) for path in rounds_files(s.path for s in self._sources)]
        stamps = [source.growing.stamp() for source in self._sources]
        if (versions, stamps) == (self._versions, self._stamps):
            return
        before = self._columns
        if versions != self._versions:
            self._finished_columns = columns_of(self._sources)
            known = {problem.id for problem in self._problems}
            self._problems += [p for p in problems_of(self._sources) if p.id not in known]
        self._columns = with_growing(self._finished_columns, self._sources)
        changed = None
        if versions == self._versions and _keys(before) == _keys(self._columns):
            changed = {id_ for column in (*before, *self._columns) for id_ in column.growing}
        self._versions, self._stamps = versions, stamps
        self._edition += 1
        self._renew_rows(changed)

    def _renew_rows(self, changed: set[str] | None) -> None:
        """Render the rows of some problems again; None means all."""
        for index, problem in enumerate(self._problems):
            if index == len(self._rows):
                self._rows.append({})
                self._row_editions.append(0)
            elif changed is not None and problem.id not in changed:
                continue
            row = problem_row(index, problem, self._columns)
            if row != self._rows[index]:
                self._rows[index], self._row_editions[index] = row, self._edition


def _keys(columns: Sequence[Column]) -> list[str]:
    """The keys of columns."""
    return [column.key for column in columns]
