"""A file of rows: JSONL with the standard library, Parquet where pyarrow is installed."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from rstar_math.errors import InputError, MissingExtra, StoreError
from rstar_math.whole_files import replacing

Format = Literal["jsonl", "parquet"]
M = TypeVar("M", bound=BaseModel)

_BLOCK = 1000
"""Rows in memory at once while Parquet is written."""


def write_rows(path: Path, model: type[BaseModel], rows: Iterable[BaseModel]) -> int:
    """Write a file of rows and return their number; the ending, .jsonl or .parquet, says how.

    Raises `OSError` where the disk will not have it, and `MissingExtra`.
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
    """The rows of a file. Raises `InputError` naming the first line that is at fault and what is
    wrong with it, and `MissingExtra`."""
    number = 0
    found: list[M] = []
    try:
        for checked in _checked(path, model):
            found.append(checked)
            number += 1
    except ValidationError as error:
        fault = error.errors()[0]
        where = "".join(f"{part}: " for part in fault["loc"])
        raise InputError(
            f"Line {number + 1} of {path} is at fault ({where}{fault['msg']}); make "
            "the data again with rstar curate."
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
def whole(target: Path) -> Iterator[Path]:
    """A path to write to that becomes `target` at the end, and nothing if anything fails before.

    Raises `StoreError` where the disk will not have it.
    """
    try:
        with replacing(target) as part:
            yield part
    except OSError as error:
        raise unwritable(target, error) from error


def unwritable(target: Path, error: OSError) -> StoreError:
    """An error of the disk as a sentence."""
    return StoreError(
        f"{target} cannot be written ({error.strerror or error}); free disk space if it is full, "
        "else give another --out."
    )


def require_parquet() -> Any:
    """The module pyarrow. Raises `MissingExtra` where it is not installed."""
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingExtra(
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
