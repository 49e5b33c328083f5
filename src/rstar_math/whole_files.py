"""Files that appear under their names whole or not at all, and files that one process holds."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from rstar_math.errors import StoreError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
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


def hold(descriptor: int, held: str) -> None:
    """Take the lock of an open file; the kernel lets go of it when the process dies. Raises
    `StoreError` with the sentence `held` where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StoreError(held) from error
