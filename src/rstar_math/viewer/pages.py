"""Renders the viewer's fragments by name, for the server and for the exported page.

    overview            HTML     figures of the runs
    problem/P           HTML     a question
    result/P/C          HTML     an answer and why it won
    tree/P/C            JSON     the shape of its tree
    lines/P/C/B         JSON     a block of lines of the outline
    steps/P/C/B         JSON     a block of whole steps

P counts problems from 0, C is a column's key, B counts blocks.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rstar_math.errors import InputError
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
    is_written,
    names,
    problems_of,
    row,
)
from rstar_math.viewer.steps import LINES, STEPS, blocks, lines_json, shape_json, steps_json

_KEPT = 3
"""Trees in memory, the last that were looked at."""


@dataclass(frozen=True, slots=True)
class _TreePage:
    """A tree, and each node's share of its votes."""

    tree: Tree
    shares: list[float] | None


class ViewerPages:
    """Runs to look at. Belongs to one thread, as its sources do. `more` is asked for runs that were
    begun since."""

    def __init__(
        self,
        sources: Sequence[Source],
        edition: int = 0,
        more: Callable[[], Iterable[Source]] = lambda: (),
    ) -> None:
        self._sources = list(sources)
        self._more = more
        self._versions: list[int] = []
        self._edition = edition
        self._columns: list[Column] = []
        self._problems: list[Problem] = []
        self._rows: list[dict[str, Any]] = []
        self._since: list[int] = []
        self._leaves: OrderedDict[tuple[int, str, int], _TreePage] = OrderedDict()
        self._refresh()

    @property
    def title(self) -> str:
        """The runs' names."""
        return sanitize(" and ".join(names(self._sources)))

    @property
    def trees(self) -> int:
        """How many trees there are."""
        return sum(len(column.results) for column in self._columns)

    def index(self, since: int = 0) -> dict[str, Any]:
        """The list of problems, as far as it changed after the edition `since`, with the number of
        this one; only `edition` and `writing` where nothing did."""
        self._refresh()
        writing = any(is_written(source.path) for source in self._sources)
        news: dict[str, Any] = {"edition": self._edition, "writing": writing}
        if since == self._edition:
            return news
        since = since if since < self._edition else 0
        return news | {
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
            "filters": [[key, *words] for key, words in FILTERS.items()],
            "rows": [row for row, at in zip(self._rows, self._since, strict=True) if at > since],
        }

    def fragment(self, name: str) -> str:
        """A piece as text. Raises `InputError` for a name that is none, `RstarError` where the
        run cannot be read."""
        kind, *where = name.split("/")
        try:
            if kind == "overview" and not where:
                return overview_html(self._sources, self._columns, len(self._problems))
            problem = self._problem(where[0])
            if kind == "problem" and len(where) == 1:
                return problem_html(self._problems[problem])
            column = next(c for c in self._columns if c.key == where[1])
            return self._of_tree(kind, problem, column, [int(part) for part in where[2:]])
        except (ValueError, IndexError, StopIteration):
            raise InputError("There is no such part of the page; reload it.") from None

    def names(self) -> Iterator[str]:
        """The names of all pieces, those of one tree together."""
        yield "overview"
        for at, problem in enumerate(self._problems):
            yield f"problem/{at}"
            for column in self._columns:
                if problem.id not in column.results:
                    continue
                size = len(self._leaf(at, column).tree)
                yield f"result/{at}/{column.key}"
                yield f"tree/{at}/{column.key}"
                for kind, block in (("lines", LINES), ("steps", STEPS)):
                    for number in range(blocks(size, block)):
                        yield f"{kind}/{at}/{column.key}/{number}"

    def _of_tree(self, kind: str, problem: int, column: Column, rest: list[int]) -> str:
        """A piece of one result."""
        leaf = self._leaf(problem, column)
        result = column.results[self._problems[problem].id]
        if kind == "result" and not rest:
            return result_html(result, leaf.tree, self._sources[column.run].conditions())
        if kind == "tree" and not rest:
            return shape_json(leaf.tree, result.choice)
        (block,) = rest
        if kind == "lines" and 0 <= block < blocks(len(leaf.tree), LINES):
            return lines_json(leaf.tree, result.choice, leaf.shares, block)
        if kind == "steps" and 0 <= block < blocks(len(leaf.tree), STEPS):
            return steps_json(leaf.tree, block)
        raise IndexError(kind)

    def _problem(self, text: str) -> int:
        """The number of a problem."""
        number = int(text)
        if not 0 <= number < len(self._problems):
            raise IndexError(text)
        return number

    def _leaf(self, problem: int, column: Column) -> _TreePage:
        """A tree, from memory or from its run."""
        name = self._problems[problem].id
        if name not in column.results:
            raise IndexError(name)
        key = (problem, column.key, cell(column, self._problems[problem])[1])
        if key not in self._leaves:
            source = self._sources[column.run]
            tree, conditions = source.tree(name, column.strategy), source.conditions()
            rule = rule_of(column.results[name], tree, conditions)
            self._leaves[key] = _TreePage(tree, vote_shares(tree, rule, conditions))
            while len(self._leaves) > _KEPT:
                self._leaves.popitem(last=False)
        self._leaves.move_to_end(key)
        return self._leaves[key]

    def _refresh(self) -> None:
        """Take in what the runs have become; a row's edition is the last that changed it."""
        self._sources += self._more()
        versions = [source.version() for source in self._sources]
        versions += [file_version(path) for path in rounds_files(s.path for s in self._sources)]
        if versions == self._versions:
            return
        self._versions = versions
        self._columns = columns_of(self._sources)
        known = {problem.id for problem in self._problems}
        self._problems += [p for p in problems_of(self._sources) if p.id not in known]
        rows = [row(at, p, self._columns) for at, p in enumerate(self._problems)]
        self._edition += 1
        self._since = [
            self._since[at] if at < len(self._rows) and self._rows[at] == new else self._edition
            for at, new in enumerate(rows)
        ]
        self._rows = rows
