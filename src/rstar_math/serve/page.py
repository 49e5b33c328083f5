"""What pages have in common: names of places on them, the policy of those without a script (whose
plain style is page.css), and how they are written to a file."""

import os
import tempfile
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from rstar_math.errors import InputError

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The content security policy of a page without any script."""


def anchor(strategy: str, problem: str) -> str:
    """The id of a result's place on the page of its run."""
    name = f"{strategy}\x1f{problem}".encode("utf-8", "surrogatepass")
    return "r" + blake2b(name, digest_size=8).hexdigest()


def write_whole(target: Path, parts: Iterable[str]) -> None:
    """Write a text file whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".rstar-")
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}).") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.writelines(parts)
        Path(name).chmod(0o644)
        os.replace(name, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}).") from error
    finally:
        Path(name).unlink(missing_ok=True)
