"""The results of a run as a table: one row per problem and strategy."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rstar_math.errors import MissingDependencyError
from rstar_math.runs.export import Text
from rstar_math.runs.store import RunStore
from rstar_math.text import sanitize

_HTML_ROWS = 20
"""Maximum number of rows that a notebook shows."""


class ResultRow(BaseModel):
    """The result of one strategy on one problem."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: Text
    """Id of the problem."""
    question: Text
    reference: Text | None
    source: Text | None
    level: Text | None
    strategy: Text
    answer: Text | None
    """The chosen answer; None if no path has one."""
    verdict: Text | None
    """right, wrong or unknown; None without a reference."""
    share: float
    """Share of the votes for the answer, in [0, 1]."""
    sampled_tokens: int
    prompt_tokens: int
    scorer_tokens: int
    calls: int
    """Requests to model servers."""
    samples: int
    """Sampled completions."""
    code_runs: int
    code_failures: int
    seconds: float
    """Wall time of the search."""
    paths_without_answer: int


def result_rows(store: RunStore) -> Iterator[ResultRow]:
    """Yield one row per problem and strategy, by strategy and then in the order of the problems."""
    problems = {problem.id: problem for problem in store.problems()}
    for strategy in store.strategies():
        for result in store.results(strategy):
            problem, cost = problems[result.problem], result.cost
            yield ResultRow(
                problem=problem.id,
                question=problem.question.text,
                reference=problem.reference,
                source=problem.source,
                level=problem.level,
                strategy=strategy,
                answer=result.choice.answer,
                verdict=None if result.verdict is None else result.verdict.value,
                share=result.choice.share,
                sampled_tokens=cost.sampled_tokens,
                prompt_tokens=cost.prompt_tokens,
                scorer_tokens=cost.scorer_tokens,
                calls=cost.calls,
                samples=cost.samples,
                code_runs=cost.code_runs,
                code_failures=cost.code_failures,
                seconds=cost.seconds,
                paths_without_answer=sum(result.failures.values()),
            )


@dataclass(frozen=True, slots=True)
class RunTable:
    """The results of a run. In a notebook it shows its first rows."""

    path: Path
    rows: tuple[ResultRow, ...]

    def __repr__(self) -> str:
        strategies = ", ".join(dict.fromkeys(row.strategy for row in self.rows)) or "none"
        return f"RunTable({str(self.path)!r}, {len(self.rows)} results, strategies: {strategies})"

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ResultRow]:
        return iter(self.rows)

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one row per problem and strategy.

        Raises `MissingDependencyError` without pandas.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise MissingDependencyError(
                "to_pandas needs pandas; type: pip install pandas"
            ) from error
        columns = list(ResultRow.model_fields)
        return pandas.DataFrame([row.model_dump() for row in self.rows], columns=columns)

    def _repr_html_(self) -> str:
        """The first rows as an HTML table."""
        names = ("problem", "strategy", "answer", "verdict", "share", "sampled_tokens", "seconds")
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{_cell(getattr(row, name))}</td>' for name in names)}</tr>"
            for row in self.rows[:_HTML_ROWS]
        )
        more = len(self.rows) - _HTML_ROWS
        note = f"<p>and {more} more</p>" if more > 0 else ""
        return f"<p>{escape(repr(self))}</p><table><tr>{head}</tr>{body}</table>{note}"


def _cell(value: object) -> str:
    """A value of a row as HTML."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return escape(sanitize("" if value is None else str(value))[:200])


def read_run(path: str | Path) -> RunTable:
    """Return the results of a run file.

    Raises `InputError` if there is no such file, and `StoreError` if it is damaged.
    """
    with RunStore.read(Path(path)) as store:
        return RunTable(store.path, tuple(result_rows(store)))
