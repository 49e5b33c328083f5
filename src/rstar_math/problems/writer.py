"""Problems to a JSONL file, whole or not at all."""

import gzip
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.types import Problem


def write_problems(
    path: Path,
    problems: Sequence[Problem],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write problems as `read_problems` reads them, gzipped where the name ends in .gz.

    `extra` holds, by problem id, keys to put beside the usual ones. The file appears under its
    name when it is complete and on the disk. Raises `InputError` where it cannot be written.
    """
    lines = [
        json.dumps(_entry(p) | {**(extra or {}).get(p.id, {})}, ensure_ascii=False)
        for p in problems
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror}); give another file."
        ) from error


def _entry(problem: Problem) -> dict[str, Any]:
    """A problem as an object, without what is not known."""
    found = {
        "id": problem.id,
        "problem": problem.question.text,
        "answer": problem.reference,
        "source": problem.source,
        "level": problem.level,
    }
    return {key: text for key, text in found.items() if text is not None}
