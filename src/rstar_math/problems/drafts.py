"""The file of problem drafts written by a model: one line per request, stored before it is used.

The first line holds the conditions of the run. If the process was killed while writing, the
incomplete last line is removed and its request is sent again.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from errno import ENOSPC
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rstar_math.errors import ConfigError, StoreError
from rstar_math.files import lock_file

FORMAT = 1
_PREFIX = b'{"format": '
"""The first bytes of every draft file."""


@dataclass(frozen=True, slots=True)
class DraftResponse:
    """The response to one request for drafts."""

    request: int
    """Number of the request, from 0."""
    seeds: tuple[str, ...]
    """Ids of the seed problems in the prompt."""
    texts: tuple[str | None, ...]
    """The sampled texts, unchanged; None for a text that was truncated."""
    model: str
    """The model's name as its server states it."""
    failure: str | None
    """The reason for a failed request; None if it succeeded."""
    cost: dict[str, float]
    """The non-zero fields of its `Cost`, without fields that depend on the environment."""


class DraftFile:
    """The responses received so far, as an append-only file.

    A context manager. Only one process can open the file at a time.
    """

    def __init__(self, path: Path, file: FileIO, responses: dict[int, DraftResponse]) -> None:
        self.path = path
        self.responses = responses
        """Responses by request number."""
        self._file = file

    @classmethod
    def open(cls, path: Path, conditions: Mapping[str, Any]) -> Self:
        """Create a file, or continue one that was created with the same conditions.

        Conditions are JSON values. Raises `ConfigError` if they differ, and `StoreError` if the
        file is damaged, in use or not writable.
        """
        conditions = json.loads(json.dumps(conditions))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            file = FileIO(path, "r+")
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            lock_file(
                file.fileno(),
                f"Another process is writing {path}; wait for it, or pass a new --run.",
            )
            stored, responses, end = _read(path, file.readall())
            if stored is not None:
                _require_equal_conditions(path, stored, conditions)
            drafts = cls(path, file, responses)
            file.seek(end)
            file.truncate()
            if stored is None:
                drafts._write({"format": FORMAT, "conditions": conditions})
            return drafts
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, response: DraftResponse) -> None:
        """Store a response. It is on disk when this method returns."""
        self._write(asdict(response))
        self.responses[response.request] = response

    def first(self, requests: int) -> list[DraftResponse]:
        """The available responses to the first `requests` requests, in order."""
        return [self.responses[number] for number in range(requests) if number in self.responses]

    def require_model(self, name: str) -> None:
        """Raise `ConfigError` if the stored responses come from another model."""
        first = next(iter(self.responses.values()), None)
        if first is not None and first.model != name:
            raise ConfigError(
                f"{self.path} was created with the model {first.model!r}, not with {name!r}; use "
                "the first model, or pass a new --run."
            )

    def _write(self, entry: Mapping[str, Any]) -> None:
        try:
            line = json.dumps(entry).encode("ascii") + b"\n"
            if self._file.write(line) != len(line):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error


def _read(path: Path, data: bytes) -> tuple[dict[str, Any] | None, dict[int, DraftResponse], int]:
    """The conditions (None for an empty file), the responses and the last line's end."""
    if not _PREFIX.startswith(data[: len(_PREFIX)].rstrip(b"\0")):
        raise StoreError(f"{path} is not a file of drafts; pass a new --run.")
    conditions: dict[str, Any] | None = None
    responses: dict[int, DraftResponse] = {}
    end = 0
    for number, (line, after) in enumerate(_lines(data), 1):
        try:
            entry = json.loads(line)
            if conditions is None:
                if entry["format"] != FORMAT:
                    raise StoreError(
                        f"{path} has format {entry['format']!r}, but this version reads {FORMAT}; "
                        "use the version of rstar-math that wrote it."
                    )
                conditions = dict(entry["conditions"])
            else:
                response = _parse_response(entry)
                responses.setdefault(response.request, response)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if after >= len(data) and conditions is not None:
                break
            raise StoreError(
                f"{path}, line {number} is damaged ({type(error).__name__}); pass a new --run."
            ) from error
        end = after
    return conditions, responses, end


def _lines(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Pairs of a complete line and the offset after it."""
    start = 0
    while (at := data.find(b"\n", start)) >= 0:
        yield data[start:at], at + 1
        start = at + 1


def _parse_response(entry: Mapping[str, Any]) -> DraftResponse:
    """The response of one line. Raises `TypeError`, `KeyError` or `ValueError` if it is invalid."""
    texts = tuple(entry["texts"])
    if not all(text is None or isinstance(text, str) for text in texts):
        raise TypeError("texts")
    return DraftResponse(
        request=int(entry["request"]),
        seeds=tuple(map(str, entry["seeds"])),
        texts=texts,
        model=str(entry["model"]),
        failure=None if entry["failure"] is None else str(entry["failure"]),
        cost=_parse_cost(entry["cost"]),
    )


def _parse_cost(entry: Mapping[str, Any]) -> dict[str, float]:
    if not all(isinstance(value, int | float) for value in entry.values()):
        raise TypeError("cost")
    return dict(entry)


def _require_equal_conditions(
    path: Path, stored: Mapping[str, Any], current: Mapping[str, Any]
) -> None:
    """Raise `ConfigError` if the conditions differ."""
    for key in sorted(stored.keys() | current.keys()):
        if stored.get(key) != current.get(key):
            raise ConfigError(
                f"{path} was created with {key} = {stored.get(key)!r}, not {current.get(key)!r}; "
                "restore the old value, or pass a new --run."
            )


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be written ({error.strerror}); free disk space or fix the permissions, "
        "then run the command again."
    )
