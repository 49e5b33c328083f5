"""Exports trees and trajectories as JSONL or Parquet."""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from rstar_math.config.loading import explain
from rstar_math.errors import InputError, MissingDependencyError, StoreError
from rstar_math.files import atomic_write
from rstar_math.prompts.grammar import CODE_STEP_KINDS
from rstar_math.runs.results import SearchedProblem
from rstar_math.runs.store import RunStore
from rstar_math.search.records import to_record
from rstar_math.search.tree import Tree
from rstar_math.types import Step

Format = Literal["jsonl", "parquet"]
Row = TypeVar("Row", bound=BaseModel)
_ROWS_PER_BLOCK = 1000
"""Maximum number of rows in memory while Parquet is written."""


def write_rows(
    path: Path, model: type[BaseModel], rows: Iterable[BaseModel], format: Format | None = None
) -> int:
    """Write rows to a file and return their number.

    Without `format`, the suffix of the file decides: Parquet for .parquet, else JSONL. Raises
    `OSError` if the file cannot be written, and `MissingDependencyError` without pyarrow.
    """
    if (format or path.suffix.removeprefix(".")) == "parquet":
        return _write_parquet(path, model, iter(rows))
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(row.model_dump_json() + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def read_file(path: Path, model: type[Row]) -> list[Row]:
    """Return the rows of a file written by `write_rows`; each row must have all columns.

    Raises `InputError` that names the first invalid line, and `MissingDependencyError` without
    pyarrow.
    """
    rows: list[Row] = []
    try:
        for row in _iter_rows(path, model):
            if missing := model.model_fields.keys() - row.model_fields_set:
                raise InputError(
                    f"Line {len(rows) + 1} of {path} lacks the column {min(missing)}; make the "
                    "data again with rstar curate."
                )
            rows.append(row)
    except ValidationError as error:
        raise InputError(
            f"Line {len(rows) + 1} of {path}: {explain(error).message}; make the data again with "
            "rstar curate."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    return rows


def _iter_rows(path: Path, model: type[Row]) -> Iterator[Row]:
    """Yield the validated rows of a file. Raises `ValidationError`."""
    if path.suffix == ".parquet":
        yield from map(model.model_validate, _parquet_entries(path))
        return
    with path.open("rb") as file:
        yield from map(model.model_validate_json, file)


@contextmanager
def atomic_output(target: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `target` at the end of the block.

    If the block fails, `target` is unchanged. Raises `StoreError` if the file cannot be written.
    """
    try:
        with atomic_write(target) as part:
            yield part
    except OSError as error:
        raise cannot_write(target, error) from error


def cannot_write(target: Path, error: OSError) -> StoreError:
    """Return the error for a file that cannot be written."""
    return StoreError(
        f"{target} cannot be written ({error.strerror or error}); free disk space if the disk is "
        "full, else give another --out."
    )


def require_parquet() -> Any:
    """Return the module pyarrow. Raises `MissingDependencyError` if it is not installed."""
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet needs pyarrow; type: pip install 'rstar-math[train]', or use --format jsonl."
        ) from error


def _write_parquet(path: Path, model: type[BaseModel], rows: Iterator[BaseModel]) -> int:
    arrow = require_parquet()
    fields = model.model_fields.items()
    schema = arrow.schema([(name, _arrow_type(arrow, info.annotation)) for name, info in fields])
    count = 0
    with path.open("wb") as file:
        with arrow.parquet.ParquetWriter(file, schema) as writer:
            while block := [row.model_dump() for row in islice(rows, _ROWS_PER_BLOCK)]:
                writer.write_table(arrow.Table.from_pylist(block, schema=schema))
                count += len(block)
        file.flush()
        os.fsync(file.fileno())
    return count


def _parquet_entries(path: Path) -> Sequence[dict[str, Any]]:
    arrow = require_parquet()
    try:
        entries: list[dict[str, Any]] = arrow.parquet.read_table(path).to_pylist()
    except arrow.ArrowInvalid as error:
        raise InputError(
            f"{path} is not a Parquet file; make it again with rstar curate."
        ) from error
    return entries


def _arrow_type(arrow: Any, annotation: Any) -> Any:
    """Return the Arrow type of a pydantic field's annotation."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _arrow_type(arrow, inner[0])
    if origin is Literal:
        return arrow.string()
    if origin in (list, tuple):
        return arrow.list_(_arrow_type(arrow, inner[0]))
    if origin is UnionType or NoneType in inner:
        return _arrow_type(arrow, next(part for part in inner if part is not NoneType))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return arrow.struct([(name, _arrow_type(arrow, info.annotation)) for name, info in fields])
    types = {str: arrow.string, int: arrow.int64, float: arrow.float64, bool: arrow.bool_}
    return types[annotation]()


def _replace_surrogates(text: object) -> object:
    """Replace each lone surrogate by "?", because UTF-8 cannot encode it. The length is kept."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_replace_surrogates)]


class TreeRow(BaseModel):
    """One tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: Text
    question: Text
    reference: Text | None
    source: Text | None
    strategy: Text
    nodes: int
    """Number of nodes, including the root."""
    tree: Text
    """The tree's record as JSON; read it with `rstar_math.search.from_record`."""


class ScorerValue(BaseModel):
    """The value that a further scorer gave to a step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scorer: Text
    value: float
    """In [-1, 1]."""


class StepColumns(BaseModel):
    """One step of a path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Text
    prose: Text
    code: Text
    printed: Text | None
    """Output of the step's code; None if no code ran."""
    status: Text | None
    """Execution status of the step's code; None if no code ran."""
    q: float | None
    """Mean backed-up value, in [-1, 1]."""
    score: float | None
    """The scorer's value, in [-1, 1]."""
    other_scores: list[ScorerValue]
    """Values of further scorers of `search.scorer`, by name."""


class TrajectoryRow(BaseModel):
    """One finished path, with or without an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: Text
    question: Text
    reference: Text | None
    source: Text | None
    strategy: Text
    node: int
    """Index of the path's last node in its tree."""
    run: int
    """Number of the independent search within the tree."""
    answer: Text | None
    verdict: Text | None
    """right, wrong or unknown; None if no Verifier was used."""
    failure: Text | None
    """Why the path ended without an answer; None if it has one."""
    steps: list[StepColumns]


def tree_rows(searched: Iterable[SearchedProblem]) -> Iterator[TreeRow]:
    """Yield one row per tree."""
    for item in searched:
        for strategy, tree in item.trees:
            record = json.dumps(to_record(tree), ensure_ascii=False)
            yield TreeRow(**_problem_columns(item, strategy), nodes=len(tree), tree=record)


def trajectory_rows(searched: Iterable[SearchedProblem]) -> Iterator[TrajectoryRow]:
    """Yield one row per finished path, in order of creation."""
    for item in searched:
        for strategy, tree in item.trees:
            for index, node in enumerate(tree.nodes):
                if index and (node.answered or node.failure is not None):
                    yield TrajectoryRow(
                        **_problem_columns(item, strategy),
                        node=index,
                        run=node.run,
                        answer=node.step.answer if node.step and node.answered else None,
                        verdict=node.verdict,
                        failure=node.failure,
                        steps=_steps(tree, index),
                    )


def _problem_columns(item: SearchedProblem, strategy: str) -> dict[str, Any]:
    """Return the columns that all rows of a tree share."""
    problem = item.problem
    return {
        "problem": problem.id,
        "question": problem.question.shown,
        "reference": problem.reference_text,
        "source": problem.source,
        "strategy": strategy,
    }


def _steps(tree: Tree, index: int) -> list[StepColumns]:
    """Return the columns of each step on the path to a node."""
    path = tree.trajectory(index)
    others = [tree.nodes[node].other_scores for node in tree.path(index)]
    rows = zip(path.steps, path.q, path.scores, others, strict=True)
    return [_step(step, (q, score), other_scores) for step, q, score, other_scores in rows]


def _step(
    step: Step, values: tuple[float | None, float | None], others: Mapping[str, float]
) -> StepColumns:
    """Return the columns of a step with its Q and score, and the values of further scorers."""
    execution = step.execution
    return StepColumns(
        kind=step.kind,
        prose=step.prose,
        code=step.code,
        printed=None if execution is None else execution.stdout,
        status=None if execution is None else execution.status.value,
        q=values[0],
        score=values[1],
        other_scores=[ScorerValue(scorer=name, value=v) for name, v in sorted(others.items())],
    )


class SearchedProblems:
    """Iterates over the searched problems of a run, loading one problem at a time.

    Trees of rStar's actions and of sub-questions have no training text. They are skipped and
    counted, unless `any_grammar` is true. Raises `InputError` if the run has no trees, or none of a
    requested strategy.
    """

    def __init__(
        self,
        store: RunStore,
        strategies: Collection[str] | None = None,
        *,
        any_grammar: bool = False,
    ) -> None:
        stored = store.strategies()
        if not stored:
            raise InputError(
                f"{store.path} has no trees yet; search first: rstar search FILE --run {store.path}"
            )
        for name in strategies or ():
            if name not in stored:
                raise InputError(
                    f"{store.path} has no results of {name!r}; use one of {', '.join(stored)}."
                )
        self.store = store
        self.any_grammar = any_grammar
        self.strategies = [name for name in stored if strategies is None or name in strategies]
        done = {name: store.done(name) for name in self.strategies}
        self._problems = [
            (problem, names)
            for problem in store.problems()
            if (names := [name for name in self.strategies if problem.id in done[name]])
        ]
        self.left_out = 0
        """Number of trees skipped by the last iteration."""

    def __len__(self) -> int:
        return len(self._problems)

    def __iter__(self) -> Iterator[SearchedProblem]:
        self.left_out = 0
        for problem, names in self._problems:
            trees: list[tuple[str, Tree]] = []
            for name in names:
                tree = self.store.tree(problem.id, name)
                if self.any_grammar or _is_code_grammar(tree):
                    trees.append((name, tree))
                else:
                    self.left_out += 1
            if trees:
                yield SearchedProblem(problem, tuple(trees))

    def require_verdicts(self) -> None:
        """Raise `InputError` if the run cannot contain verdicts."""
        path = self.store.path
        if all(problem.reference is None for problem, _ in self._problems):
            raise InputError(
                f"No problem of {path} has a reference answer, so its paths have no verdicts; "
                'search a file with "answer" in its lines.'
            )
        if not self.store.conditions().get("guided"):
            raise InputError(
                f"{path} was searched without the reference answers, so its paths have no "
                "verdicts; search again with --guided and a new --run."
            )


def _is_code_grammar(tree: Tree) -> bool:
    """Return whether all steps of a tree use the code grammar."""
    return all(
        node.step is not None and node.step.kind in CODE_STEP_KINDS for node in tree.nodes[1:]
    )
