"""The file of drafts that a model wrote: one line per request, stored before it is used.

The first line says what they were asked with. A last line that is torn, for the process was killed
while it wrote, is cut off and its request asked again.
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
_BEGINNING = b'{"format": '


@dataclass(frozen=True, slots=True)
class DraftResponse:
    """What one request came to."""

    request: int
    """Its number, counted from 0."""
    seeds: tuple[str, ...]
    """Ids of the problems that the model was shown."""
    texts: tuple[str | None, ...]
    """What it wrote, as it wrote it; None for what was cut off."""
    model: str
    """Its name as its server gives it."""
    failure: str | None
    """Why the request came to nothing; None where it did not."""
    cost: dict[str, float]
    """As of a `Cost`, without the clock."""


class DraftFile:
    """The requests that were answered so far. A context manager; held by one process."""

    def __init__(self, path: Path, file: FileIO, done: dict[int, DraftResponse]) -> None:
        self.path = path
        self.done = done
        """By request."""
        self._file = file

    @classmethod
    def open(cls, path: Path, conditions: Mapping[str, Any]) -> Self:
        """Begin a file, or go on with one that was made under the same conditions (JSON).

        Raises `ConfigError` (other conditions) or `StoreError` (damaged, in use, cannot be
        written).
        """
        wanted = json.loads(json.dumps(conditions))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            file = FileIO(path, "r+")
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            lock_file(
                file.fileno(),
                f"Another process is writing {path}; wait for it, or give a new --run.",
            )
            told, done, end = _read(path, file.readall())
            if told is not None:
                _agree(path, told, wanted)
            found = cls(path, file, done)
            file.seek(end)
            file.truncate()
            if told is None:
                found._write({"format": FORMAT, "conditions": wanted})
            return found
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

    def keep(self, written: DraftResponse) -> None:
        """Keep what a request came to. When this returns it is on the disk."""
        self._write(asdict(written))
        self.done[written.request] = written

    def first(self, requests: int) -> list[DraftResponse]:
        """Those of the first `requests` that were answered, in their order."""
        return [self.done[number] for number in range(requests) if number in self.done]

    def require_model(self, name: str) -> None:
        """Raise `ConfigError` where the file was begun with another model."""
        for written in self.done.values():
            if written.model != name:
                raise ConfigError(
                    f"{self.path} was begun with the model {written.model!r} and now it is "
                    f"{name!r}; go back to the first, or give a new --run."
                )
            return

    def _write(self, entry: Mapping[str, Any]) -> None:
        try:
            line = json.dumps(entry).encode("ascii") + b"\n"
            if self._file.write(line) != len(line):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error


def _read(path: Path, data: bytes) -> tuple[dict[str, Any] | None, dict[int, DraftResponse], int]:
    """The conditions (None of a file that was not begun), the requests, and where the last whole
    line ends."""
    if not _BEGINNING.startswith(data[: len(_BEGINNING)].rstrip(b"\0")):
        raise StoreError(f"{path} holds something else; give a new --run.")
    told: dict[str, Any] | None = None
    done: dict[int, DraftResponse] = {}
    end = 0
    for number, (line, after) in enumerate(_lines(data), 1):
        try:
            entry = json.loads(line)
            if told is None:
                if entry["format"] != FORMAT:
                    raise StoreError(
                        f"{path} is of format {entry['format']!r} and this version reads {FORMAT}; "
                        "use the rstar-math that wrote it."
                    )
                told = dict(entry["conditions"])
            else:
                written = _written(entry)
                done.setdefault(written.request, written)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if after >= len(data) and told is not None:
                break
            raise StoreError(
                f"{path}, line {number} is damaged ({type(error).__name__}); give a new --run."
            ) from error
        end = after
    return told, done, end


def _lines(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Lines with the place after each; one without an end is no line."""
    start = 0
    while (at := data.find(b"\n", start)) >= 0:
        yield data[start:at], at + 1
        start = at + 1


def _written(entry: Mapping[str, Any]) -> DraftResponse:
    """A request's line, checked."""
    texts = tuple(entry["texts"])
    if not all(text is None or isinstance(text, str) for text in texts):
        raise TypeError("texts")
    return DraftResponse(
        request=int(entry["request"]),
        seeds=tuple(map(str, entry["seeds"])),
        texts=texts,
        model=str(entry["model"]),
        failure=None if entry["failure"] is None else str(entry["failure"]),
        cost=_numbers(entry["cost"]),
    )


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """A cost's parts, whole ones as whole numbers."""
    if not all(isinstance(value, int | float) for value in entry.values()):
        raise TypeError("cost")
    return dict(entry)


def _agree(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where the conditions differ."""
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{path} was made with {key} = {before.get(key)!r} and now it is "
                f"{now.get(key)!r}; set it back, or give a new --run."
            )


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be written ({error.strerror}); make room, then type the same again."
    )
