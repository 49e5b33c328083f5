"""The run file as a file: its tables, its one writer, its version, and its errors as sentences."""

import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rstar_math.errors import StoreError
from rstar_math.whole_files import hold

FORMAT = 1
APPLICATION = 0x72537461
"""SQLite's application id of a run."""
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE problems (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, question TEXT NOT NULL,
    reference TEXT, source TEXT, level TEXT) STRICT;
CREATE TABLE results (
    problem TEXT NOT NULL, strategy TEXT NOT NULL, answer TEXT, share REAL NOT NULL, node INTEGER,
    votes TEXT NOT NULL, verdict TEXT, cost TEXT NOT NULL, failures TEXT NOT NULL,
    tree BLOB NOT NULL,
    PRIMARY KEY (problem, strategy)) STRICT;
"""
_FOREIGN = (
    "{} is not a run of rstar-math; name a file that rstar search or rstar eval made with --run, "
    "or a new one."
)


def locked(path: Path) -> int:
    """A descriptor that holds the writer's lock; the kernel lets go of it when the process dies."""
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{target}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"The run {path} cannot be written ({error.strerror}).") from error
    try:
        hold(lock, f"Another process is writing the run {path}; wait for it, or give a new --run.")
    except StoreError:
        os.close(lock)
        raise
    return lock


def opened(path: Path) -> sqlite3.Connection:
    """A connection to a run or to a new file; a file of something else is refused untouched."""
    if path.is_dir():
        raise StoreError(f"{path} is a folder, and a run is a file; name a file in it.")
    with plain_errors(path):
        db = sqlite3.connect(path, timeout=30.0)
        if not is_empty(db):
            _check(path, db)
        return db


def make_durable(db: sqlite3.Connection) -> None:
    """Let readers in beside the writer, and reach the disk at every commit."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether the file has no tables yet."""
    return not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _check(path: Path, db: sqlite3.Connection) -> None:
    """Refuse a file that is not a run, or a run of another format."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise StoreError(_FOREIGN.format(path))
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        raise StoreError(
            f"The run {path} is of format {version} and this version reads format {FORMAT}; "
            "use the version of rstar-math that wrote it, or a new --run."
        )


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """SQLite's errors, and those of reading what is in the file, as a sentence."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise StoreError(
            f"The run {path} has this result already ({error}); is another process writing it?"
        ) from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", None) == "SQLITE_NOTADB":
            raise StoreError(_FOREIGN.format(path)) from error
        raise StoreError(
            f"The run {path} cannot be used ({error}); free disk space if it is full, "
            "else give another --run."
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise StoreError(
            f"The run {path} is damaged ({type(error).__name__}: {error}); give another --run."
        ) from error


def way_back(key: str, value: Any) -> str:
    """How an option gets the value again that a run was made with."""
    if key == "guided":
        return "add --guided" if value else "leave --guided out"
    if "." not in key:
        return "change it back"
    if value is None:
        return f"leave {key} out"
    return f"set it back with --set {key}={value if isinstance(value, str) else json.dumps(value)}"


def change(differing: Collection[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What to say of options that are others now: the first one, and how to go back."""
    key, others = min(differing), len(differing) - 1
    back = way_back(key, before.get(key))
    if others > 1:
        back = f"{others} more options differ: go back to the --config it was made with"
    return (
        f"{key} = {before.get(key)!r} and now it is {now.get(key)!r}; {back}, or give a new --run."
    )
