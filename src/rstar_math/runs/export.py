"""Exports trees and trajectories as JSONL or Parquet."""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
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
from rstar_math.search.tree import Tree, to_record
from rstar_math.types import Step

Format = Literal["jsonl", "parquet"]
M = TypeVar("M", bound=BaseModel)
_BLOCK = 1000
"""Rows in memory at once while Parquet is written."""


def write_rows(path: Path, model: type[BaseModel], rows: Iterable[BaseModel]) -> int:
    """Write a file of rows and return their number; the ending, .jsonl or .parquet, says how.

    Raises `OSError` where the disk will not have it, and `MissingDependencyError`.
    """
    if path.suffix == ".parquet":
        return _write_parquet(path, model, iter(rows))
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(row.model_dump_json() + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def read_file(path: Path, model: type[M]) -> list[M]:
    """The rows of a file that `write_rows` wrote, with all columns. Raises `InputError` naming the
    first line that is at fault and what is wrong with it, and `MissingDependencyError`."""
    number = 0
    found: list[M] = []
    try:
        for checked in _checked(path, model):
            if lost := model.model_fields.keys() - checked.model_fields_set:
                raise InputError(
                    f"Line {number + 1} of {path} lacks the column {min(lost)}; make the data "
                    "again with rstar curate."
                )
            found.append(checked)
            number += 1
    except ValidationError as error:
        raise InputError(
            f"Line {number + 1} of {path}: {explain(error).message}; make the data again with "
            "rstar curate."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    return found


def _checked(path: Path, model: type[M]) -> Iterator[M]:
    """The rows of a file, each checked when it is asked for."""
    if path.suffix == ".parquet":
        yield from map(model.model_validate, _parquet_entries(path))
        return
    with path.open("rb") as file:
        yield from map(model.model_validate_json, file)


@contextmanager
def check_complete(target: Path) -> Iterator[Path]:
    """A path to write to that becomes `target` at the end, and nothing if anything fails before.

    Raises `StoreError` where the disk will not have it.
    """
    try:
        with atomic_write(target) as part:
            yield part
    except OSError as error:
        raise cannot_write(target, error) from error


def cannot_write(target: Path, error: OSError) -> StoreError:
    """An error of the disk as a sentence."""
    return StoreError(
        f"{target} cannot be written ({error.strerror or error}); free disk space if it is full, "
        "else give another --out."
    )


def require_parquet() -> Any:
    """The module pyarrow. Raises `MissingDependencyError` where it is not installed."""
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet needs pyarrow; type: pip install 'rstar-math[train]', or take --format jsonl."
        ) from error


def _write_parquet(path: Path, model: type[BaseModel], rows: Iterator[BaseModel]) -> int:
    arrow = require_parquet()
    fields = model.model_fields.items()
    schema = arrow.schema([(name, _column(arrow, info.annotation)) for name, info in fields])
    count = 0
    with path.open("wb") as file:
        with arrow.parquet.ParquetWriter(file, schema) as writer:
            while block := [row.model_dump() for row in islice(rows, _BLOCK)]:
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
        raise InputError(f"{path} is no Parquet file; make it again with rstar curate.") from error
    return entries


def _column(arrow: Any, kind: Any) -> Any:
    """The Arrow type of a field's annotation."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _column(arrow, inner[0])
    if origin is Literal:
        return arrow.string()
    if origin in (list, tuple):
        return arrow.list_(_column(arrow, inner[0]))
    if origin is UnionType or NoneType in inner:
        return _column(arrow, next(one for one in inner if one is not NoneType))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields.items()
        return arrow.struct([(name, _column(arrow, info.annotation)) for name, info in fields])
    types = {str: arrow.string, int: arrow.int64, float: arrow.float64, bool: arrow.bool_}
    return types[kind]()


def _replace_surrogates(text: object) -> object:
    """Text with lone surrogates, which no file can hold, as question marks: as long as before."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_replace_surrogates)]


class TreeRow(BaseModel):
    """A tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: Text
    question: Text
    reference: Text | None
    source: Text | None
    strategy: Text
    nodes: int
    """Number of nodes, the root among them."""
    tree: Text
    """The tree's record (`rstar_math.search.from_record` reads it), as JSON."""


class StepColumns(BaseModel):
    """A step of a path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Text
    prose: Text
    code: Text
    printed: Text | None
    """What its code printed; None where none was run."""
    status: Text | None
    """How its code ended; None where none was run."""
    q: float | None
    """Mean backed-up value, in [-1, 1]."""
    score: float | None
    """The scorer's value, in [-1, 1]."""


class TrajectoryRow(BaseModel):
    """A path that came to an end, with or without an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: Text
    question: Text
    reference: Text | None
    source: Text | None
    strategy: Text
    node: int
    """The path's last node in its tree."""
    run: int
    """The independent search within the tree."""
    answer: Text | None
    verdict: Text | None
    """right, wrong or unknown; None where no Verifier was asked."""
    failure: Text | None
    """Why it ended without an answer."""
    steps: list[StepColumns]


def tree_rows(searched: Iterable[SearchedProblem]) -> Iterator[TreeRow]:
    """A row for each tree."""
    for one in searched:
        for strategy, tree in one.trees:
            record = json.dumps(to_record(tree), ensure_ascii=False)
            yield TreeRow(**_head(one, strategy), nodes=len(tree), tree=record)


def trajectory_rows(searched: Iterable[SearchedProblem]) -> Iterator[TrajectoryRow]:
    """A row for each path that ended, in order of creation."""
    for one in searched:
        for strategy, tree in one.trees:
            for index, node in enumerate(tree.nodes):
                if index and (node.answered or node.failure is not None):
                    yield TrajectoryRow(
                        **_head(one, strategy),
                        node=index,
                        run=node.run,
                        answer=node.step.answer if node.step and node.answered else None,
                        verdict=node.verdict,
                        failure=node.failure,
                        steps=_steps(tree, index),
                    )


def _head(one: SearchedProblem, strategy: str) -> dict[str, Any]:
    problem = one.problem
    return {
        "problem": problem.id,
        "question": problem.question.text,
        "reference": problem.reference,
        "source": problem.source,
        "strategy": strategy,
    }


def _steps(tree: Tree, index: int) -> list[StepColumns]:
    path = tree.trajectory(index)
    rows = zip(path.steps, path.q, path.scores, strict=True)
    return [_step(step, q, score) for step, q, score in rows]


def _step(step: Step, q: float | None, score: float | None) -> StepColumns:
    run = step.execution
    return StepColumns(
        kind=step.kind,
        prose=step.prose,
        code=step.code,
        printed=None if run is None else run.stdout,
        status=None if run is None else run.status.value,
        q=q,
        score=score,
    )


class SearchedProblems:
    """The searched problems of a run, read one by one; iterate as often as needed.

    Trees of rStar's actions and of sub-questions have no training text: unless `any_grammar`, they
    are left out and counted. Raises `InputError` where there is nothing to read.
    """

    def __init__(
        self,
        store: RunStore,
        strategies: Collection[str] | None = None,
        *,
        any_grammar: bool = False,
    ) -> None:
        there = store.strategies()
        if not there:
            raise InputError(
                f"{store.path} has no trees yet; search first: rstar search FILE --run {store.path}"
            )
        for name in strategies or ():
            if name not in there:
                raise InputError(
                    f"{store.path} has no results of {name!r}; it has those of {', '.join(there)}."
                )
        self.store = store
        self.any_grammar = any_grammar
        self.strategies = [name for name in there if strategies is None or name in strategies]
        done = {name: store.done(name) for name in self.strategies}
        self._places = [
            (problem, names)
            for problem in store.problems()
            if (names := [name for name in self.strategies if problem.id in done[name]])
        ]
        self.left_out = 0
        """Trees of the last iteration that were left out."""

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[SearchedProblem]:
        self.left_out = 0
        for problem, names in self._places:
            trees: list[tuple[str, Tree]] = []
            for name in names:
                tree = self.store.tree(problem.id, name)
                if self.any_grammar or _has_text(tree):
                    trees.append((name, tree))
                else:
                    self.left_out += 1
            if trees:
                yield SearchedProblem(problem, tuple(trees))

    def require_verdicts(self) -> None:
        """Raise `InputError` where no path of the run can have been judged."""
        path = self.store.path
        if all(problem.reference is None for problem, _ in self._places):
            raise InputError(
                f"No problem of {path} has a reference answer, so nothing says which paths are "
                'right; search a file with "answer" in its lines.'
            )
        if not self.store.conditions().get("guided"):
            raise InputError(
                f"{path} was searched without the reference answers, so its paths have no verdicts "
                "and its values no ground; search again with --guided and a new --run."
            )


def _has_text(tree: Tree) -> bool:
    """Whether all steps of a tree are of the code grammar."""
    return all(
        node.step is not None and node.step.kind in CODE_STEP_KINDS for node in tree.nodes[1:]
    )
