"""Opens the SQLite database of a run: one writer, and readers that change nothing."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from rstar_math.errors import StoreError
from rstar_math.files import lock_file

FORMAT = 2
"""Version of the file format, stored as SQLite's user_version."""
APPLICATION_ID = 0x72537461
"""SQLite's application id of run files."""
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
TASKS_SCHEMA = "CREATE TABLE tasks (problem TEXT PRIMARY KEY, task TEXT NOT NULL) STRICT"
"""The table of tasks and images. Runs of mathematical problems without images do not have it."""


def _objects(schema: str) -> set[tuple[str, str, str]]:
    """Type, name and definition of the tables of a schema."""
    statements = (" ".join(statement.split()) for statement in schema.split(";"))
    return {("table", text.split()[2], text) for text in statements if text}


_OBJECTS, _TASKS = _objects(SCHEMA), _objects(TASKS_SCHEMA)
"""Everything that a run must have, and what it may have."""
MAX_VALUE_BYTES = 512 << 20
"""Maximum size of one stored value, such as a compressed tree."""
_NOT_A_RUN = (
    "{} is not a run of rstar-math; give a run written by rstar search or rstar eval, or a new "
    "file."
)


def acquire_writer_lock(path: Path) -> int:
    """Return a file descriptor that holds the writer's lock of a run.

    The kernel releases the lock when the process dies. Raises `StoreError` if another process holds
    it, or if the lock file cannot be created.
    """
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{target}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"The run {path} cannot be written ({error.strerror}).") from error
    try:
        lock_file(
            lock, f"Another process is writing the run {path}; wait for it, or give a new --run."
        )
    except StoreError:
        os.close(lock)
        raise
    return lock


def open_database(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Return a connection to an existing run or to a new, empty file.

    Raises `StoreError` for any other file, which is left unchanged.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder, but a run is a file; give a file in it.")
    with convert_sqlite_errors(path):
        if read_only:
            db = sqlite3.connect(_read_only_uri(path), uri=True, timeout=30.0)
        else:
            _refuse_rollback_journal(path)
            db = sqlite3.connect(path, timeout=30.0)
        # A run may come from somebody else: nothing that its schema contains is run.
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        if not is_empty(db):
            _check_format(path, db)
        return db


def file_state(path: Path) -> tuple[bool, int, int]:
    """Return whether the run is being written, and, if not, what changes when it is written."""
    if _has_log(path):
        return True, 0, 0
    try:
        stat = path.stat()
    except OSError:
        return False, 0, 0
    return False, stat.st_mtime_ns, stat.st_size


def _has_log(path: Path) -> bool:
    """Return whether the run has a write-ahead log with content."""
    log = Path(f"{path}-wal")
    return log.is_file() and log.stat().st_size > 0


def _read_only_uri(path: Path) -> str:
    """Return the URI with which SQLite reads a run and changes no file.

    A run that is being written has a write-ahead log, which readers share with the writer. Any
    other run is opened as immutable: SQLite then neither looks for a journal nor locks the file.
    """
    mode = "mode=ro" if _has_log(path) else "mode=ro&immutable=1"
    return f"{_file_uri(path)}?{mode}"


def _file_uri(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}"


def _refuse_rollback_journal(path: Path) -> None:
    """Raise `StoreError` if there is a rollback journal beside the run.

    Runs have a write-ahead log instead. SQLite would apply the journal and delete the files that
    it names. A run has a journal only in the instant in which SQLite gives a new, empty file its
    write-ahead log; a process that is killed then leaves it behind.
    """
    journal = Path(f"{path}-journal")
    if journal.exists() and _has_no_tables(path):
        raise StoreError(
            f"{journal} is left of a run that was killed before it wrote anything; nothing is "
            f"lost: delete it and the empty {path}, then run the same command again."
        )
    if journal.exists():
        raise StoreError(
            f"{journal} was not written by rstar-math; delete it if you do not know it, then run "
            "the same command again."
        )


def _has_no_tables(path: Path) -> bool:
    """Return whether a file is absent or an empty database. Its journal is not applied."""
    if not path.exists() or path.stat().st_size == 0:
        return True
    try:
        with closing(sqlite3.connect(f"{_file_uri(path)}?mode=ro&immutable=1", uri=True)) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            return is_empty(db)
    except sqlite3.Error:
        return False


def make_durable(db: sqlite3.Connection) -> None:
    """Sync every commit to disk, and allow readers while the writer works."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")


def is_empty(db: sqlite3.Connection) -> bool:
    """Return whether the file has no tables yet."""
    return not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _check_format(path: Path, db: sqlite3.Connection) -> None:
    """Raise `StoreError` if the file is not a run, or a run of another format."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError(_NOT_A_RUN.format(path))
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        raise StoreError(
            f"The run {path} has format {version}, but this version reads format {FORMAT}; "
            "read it with the version that wrote it (format 1: 0.1), or give a new --run."
        )
    objects = {
        (kind, name, " ".join((sql or "").split()))
        for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master")
        if not name.startswith("sqlite_autoindex_")
    }
    if objects - _TASKS != _OBJECTS:
        raise StoreError(f"The run {path} has other tables than rstar-math writes; do not use it.")


@contextmanager
def convert_sqlite_errors(path: Path) -> Iterator[None]:
    """Convert errors of SQLite, and of decoding the file's content, into `StoreError`."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise StoreError(
            f"The run {path} already has this result ({error}); check that no other process "
            "writes it."
        ) from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", None) == "SQLITE_NOTADB":
            raise StoreError(_NOT_A_RUN.format(path)) from error
        raise StoreError(
            f"The run {path} cannot be used ({error}); free disk space if the disk is full, "
            "else give another --run."
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise StoreError(
            f"The run {path} is damaged ({type(error).__name__}: {error}); give another --run."
        ) from error
