"""Records that files had an expected hash, so that a file is hashed again only when it changes.

A record is a JSON file in `models/` of the project's cache. It has the path, size and modification
time of each file beside its hash. It finds damage and files that were exchanged. It does not stop
somebody who can write to the cache folder, and so to the record.
"""

import json
from contextlib import suppress
from hashlib import file_digest, sha1
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import cache_dir
from rstar_math.files import atomic_write

_CHUNK_BYTES = 1 << 20


def models_dir() -> Path:
    """Return the folder of downloaded models in the project's cache."""
    return cache_dir() / "models"


def record_file(name: str) -> Path:
    """Return the record of a model."""
    return models_dir() / f"{name}.checked.json"


def file_state(path: Path, digest: str) -> dict[str, object]:
    """Return facts that change whenever the file changes. Raises `OSError`."""
    stat = path.stat()
    return {
        "path": str(path),
        "size_bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": digest,
    }


def read_record(record: Path) -> dict[str, Any]:
    """Return the content of a record; {} if there is none."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_record(record: Path, content: dict[str, Any]) -> None:
    """Write a record. Raises `OSError`."""
    with atomic_write(record) as part:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")


def try_write_record(record: Path, content: dict[str, Any]) -> None:
    """Write a record. If it cannot be written, the files are hashed at each use."""
    with suppress(OSError):
        write_record(record, content)


def has_sha256(path: Path, digest: str) -> bool:
    """Return whether a file has this SHA-256."""
    return sha256_of(path) == digest


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def has_git_sha1(path: Path, digest: str) -> bool:
    """Return whether git stores the content of a file under this name."""
    counted = sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            counted.update(chunk)
    return counted.hexdigest() == digest
