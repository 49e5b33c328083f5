"""Atomic writes, file locks, and reading of files from elsewhere within limits."""

import fcntl
import gzip
import json
import os
import re
import tomllib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

from rstar_math.errors import InputError, StoreError


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield the path of an empty temporary file that replaces `target` at the end of the block.

    The file is flushed to disk before it replaces `target`. If the block fails or is cancelled,
    the temporary file is removed and an existing `target` is unchanged. Missing parent folders are
    created. Raises `OSError`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{token_hex(4)}.part")
    part.touch(exist_ok=False)  # unlike tempfile, touch gives the usual permissions (umask)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def open_own(path: Path) -> BinaryIO:
    """Return a file opened for appending; it is created if there is none.

    A symbolic link is refused with `OSError`: in a folder that others can write to, it could name
    one of the user's files.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o644), "ab")


def lock_file(descriptor: int, message: str) -> None:
    """Take an exclusive lock (flock) on an open file.

    The kernel releases the lock when the process dies. Raises `StoreError(message)` if another
    process holds the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StoreError(message) from error


def write_text(target: Path, chunks: Iterable[str]) -> None:
    """Write a UTF-8 text file atomically. Raises `InputError` if it cannot be written."""
    try:
        with (
            atomic_write(target) as part,
            part.open("w", encoding="utf-8", errors="replace") as file,
        ):
            file.writelines(chunks)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror}); give another path."
        ) from error


def unique_names(
    paths: Sequence[Path], names: Sequence[str], *, folder_end: str = "/", number_end: str = ": "
) -> list[str]:
    """Return distinct display names for files whose short names are `names`.

    If two names are equal, every name gets its folder as a prefix; if two are still equal, also a
    number, counted from 1. `folder_end` and `number_end` are the separators after these prefixes.
    """
    with_folder = [
        f"{path.parent.name}{folder_end}{name}" for path, name in zip(paths, names, strict=True)
    ]
    numbered = [f"{number}{number_end}{name}" for number, name in enumerate(with_folder, 1)]
    options = (list(names), with_folder, numbered)
    return next(option for option in options if len({*option}) == len(option))


def file_name(text: str) -> str:
    """Return a file name made from data, such as a strategy's name.

    Letters, digits, "." and "-" stay, everything else becomes "-"; it never names a folder, a
    hidden file or a path, and is at most 100 characters long.
    """
    name = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")
    if len(name) > 100:
        digest = sha256(text.encode("utf-8", "replace")).hexdigest()
        name = f"{name[:80].rstrip('-.')}-{digest[:16]}"
    return name or "unnamed"


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically. Raises `StoreError` if it cannot be written."""
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    try:
        with atomic_write(path) as part:
            part.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}); free disk space, then run the same "
            "command again."
        ) from error


MAX_LINE_BYTES = 4_000_000
"""Maximum length of a line of a JSONL file."""
_MIN_UNPACKED_BYTES = 64 << 20
_MAX_RATIO = 100
"""A gzip file may unpack to 64 MiB, or to 100 times its size. JSON lines reach about 10 times."""


def iter_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text file, plain or gzipped (.gz), with their numbers from 1.

    Raises `InputError` for a line of more than `MAX_LINE_BYTES`, and for a gzip file that unpacks
    to far more than text does; and `OSError`, `EOFError` or `zlib.error` if reading fails.
    """
    is_packed = path.suffix == ".gz"
    limit = max(_MIN_UNPACKED_BYTES, _MAX_RATIO * path.stat().st_size) if is_packed else None
    total = number = 0
    with gzip.open(path) if is_packed else path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            total += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise InputError(
                    f"{path}, line {number} is longer than {MAX_LINE_BYTES} bytes; "
                    "write one JSON object per line, not a JSON array."
                )
            if limit is not None and total > limit:
                raise InputError(
                    f"{path} unpacks to more than {limit >> 20} MiB, which no text of its size "
                    "does; unpack it yourself if you trust it."
                )
            yield number, line


def inflate(data: bytes, limit: int) -> bytes:
    """Return zlib-compressed data unpacked. Raises `ValueError` above `limit` bytes."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, limit + 1)
    if len(content) > limit:
        raise ValueError(f"it unpacks to more than {limit >> 20} MiB")
    if not unpacker.eof:
        raise ValueError("its compressed data is cut off")
    return content


_MAX_TOML_CHARS = 4_000_000
_MAX_TOML_DEPTH = 32


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises `ValueError` if it is not valid, too long, or nested too deeply to be data of a person.
    """
    if len(text) > _MAX_TOML_CHARS:
        raise ValueError(f"it has more than {_MAX_TOML_CHARS} characters")
    if any(line.partition("=")[0].count(".") > _MAX_TOML_DEPTH for line in text.splitlines()):
        raise ValueError("it is nested too deeply")
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level: list[Any] = [tables]
    for _ in range(_MAX_TOML_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise ValueError("it is nested too deeply")
    return tables
