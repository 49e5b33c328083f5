"""Atomic writes and file locks."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from rstar_math.errors import InputError, StoreError


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """An empty file beside `target` to write to, which takes its place at the end of the block.

    By then it is on the disk. Where the block fails or is cancelled nothing is left of it, and an
    older `target` stays. Folders on the way are made. Raises `OSError`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{token_hex(4)}.part")
    part.touch(exist_ok=False)  # with the permissions of any new file
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def lock_file(descriptor: int, held: str) -> None:
    """Take the lock of an open file; the kernel lets go of it when the process dies. Raises
    `StoreError` with the sentence `held` where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StoreError(held) from error


def write_text(target: Path, parts: Iterable[str]) -> None:
    """Write a text file whole or not at all."""
    try:
        with (
            atomic_write(target) as part,
            part.open("w", encoding="utf-8", errors="replace") as file,
        ):
            file.writelines(parts)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror}); give another place."
        ) from error


def unique_names(
    paths: Sequence[Path], files: Sequence[str], *, folder: str = "/", number: str = ": "
) -> list[str]:
    """The names of some files, with the folder, or else the number, where two are the same;
    `folder` and `number` stand after these."""
    longer = [f"{path.parent.name}{folder}{name}" for path, name in zip(paths, files, strict=True)]
    numbered = [f"{at}{number}{name}" for at, name in enumerate(longer, 1)]
    return next(found for found in (list(files), longer, numbered) if len({*found}) == len(found))


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, whole or not at all. Raises `StoreError`."""
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    try:
        with atomic_write(path) as part:
            part.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}); make room, then type the same again."
        ) from error
