"""Problems to a JSONL file, whole or not at all."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.types import Problem
from rstar_math.whole_files import replacing


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
    try:
        with replacing(path) as part:
            part.write_bytes(content)
    except OSError as error:
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
