"""The run file: one SQLite database per run, one writer, durable before a result is reported.

Holds the problems, one tree per problem and strategy, and the conditions they were made under. A
run goes on only under the same conditions, so that results of two configurations never mix in
silence.
"""

import json
import os
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rstar_math import __version__
from rstar_math.errors import ConfigError, InputError, StoreError
from rstar_math.files import lock_file
from rstar_math.runs.results import PackedResult, Result, pack_result, read_result
from rstar_math.search.tree import Tree, from_record
from rstar_math.search.voting import Choice
from rstar_math.types import Problem, Question, Verdict

FORMAT = 2
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
        lock_file(
            lock, f"Another process is writing the run {path}; wait for it, or give a new --run."
        )
    except StoreError:
        os.close(lock)
        raise
    return lock


def opened(path: Path) -> sqlite3.Connection:
    """A connection to a run or to a new file; a file of something else is refused untouched."""
    if path.is_dir():
        raise StoreError(f"{path} is a folder, and a run is a file; name a file in it.")
    with convert_sqlite_errors(path):
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
            "read it with the version that wrote it (format 1: 0.1), or give a new --run."
        )


@contextmanager
def convert_sqlite_errors(path: Path) -> Iterator[None]:
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


def how_to_revert(key: str, value: Any) -> str:
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
    back = how_to_revert(key, before.get(key))
    if others > 1:
        back = f"{others} more options differ: go back to the --config it was made with"
    return (
        f"{key} = {before.get(key)!r} and now it is {now.get(key)!r}; {back}, or give a new --run."
    )


__all__ = ["Result", "RunStore"]
INSERT = "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TREE = "SELECT tree FROM results WHERE problem = ? AND strategy = ?"


class RunStore:
    """A run file, open for reading (`read`) or for going on with (`open`). A context manager."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._db = db
        self._lock = lock

    @classmethod
    def open(
        cls, path: Path, conditions: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> Self:
        """Start a run, or go on with one that was made under the same conditions; one that came to
        no result, because its model did not answer, say, starts anew.

        `defaults` holds the values of conditions that an older run did not record. Raises
        `StoreError` (damaged, of another version, in use) or `ConfigError` (other conditions).
        """
        lock = locked(path)
        try:
            db = opened(path)
            store = cls(path, db, lock)
            with convert_sqlite_errors(path):
                make_durable(db)
                if is_empty(db):
                    store._create(conditions)
                elif not store._rows("SELECT 1 FROM results LIMIT 1"):
                    store._reset(conditions)
                else:
                    store._check_conditions({**conditions}, {**(defaults or {})})
            return store
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open a run to look at, also while another process writes it."""
        if not path.exists():
            raise InputError(
                f"There is no run {path}; make one with: rstar search FILE --run {path}."
            )
        db = opened(path)
        if is_empty(db):
            raise StoreError(f"{path} is empty, and not a run of rstar-math; give another --run.")
        return cls(path, db, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others write it."""
        self._db.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def add_problems(
        self, problems: Iterable[Problem], positions: Iterable[int] | None = None
    ) -> None:
        """Put problems into the run; those it has are left as they are. `positions`, counted from
        1, are their places in a whole of which the run holds a part; by default the next ones.

        Raises `InputError` where an id of the run stands for another question or reference now, or
        a place is taken.
        """
        with convert_sqlite_errors(self.path), self._db:
            places: Iterable[int | None] = repeat(None) if positions is None else positions
            for problem, at in zip(problems, places, strict=False):
                row = (problem.question.text, problem.reference)
                sql = "SELECT question, reference FROM problems WHERE id = ?"
                there = self._db.execute(sql, (problem.id,)).fetchone()
                if there is not None and there != row:
                    raise InputError(
                        f"The problem {problem.id!r} of {self.path} has another text or answer "
                        "now; give a new --run, or ids that do not repeat."
                    )
                if there is None:
                    values = (at, problem.id, *row, problem.source, problem.level)
                    added = self._db.execute(
                        "INSERT INTO problems VALUES (?, ?, ?, ?, ?, ?) "
                        "ON CONFLICT (position) DO NOTHING",
                        values,
                    )
                    if not added.rowcount:
                        raise InputError(
                            f"Place {at} of {self.path} holds another problem than {problem.id!r}; "
                            "shards are parts of one list of problems."
                        )

    def problems(self) -> list[Problem]:
        """All problems, in the order they were added."""
        rows = self._rows(
            "SELECT id, question, reference, source, level FROM problems ORDER BY position"
        )
        return [Problem(Question(*row[:2]), *row[2:]) for row in rows]

    def done(self, strategy: str) -> set[str]:
        """Ids of the problems that a strategy has finished."""
        rows = self._rows("SELECT problem FROM results WHERE strategy = ?", strategy)
        return {row[0] for row in rows}

    def save(
        self, strategy: str, tree: Tree, choice: Choice, verdict: Verdict | None = None
    ) -> None:
        """Keep a finished search. When this returns it is on the disk."""
        self.save_packed(pack_result(strategy, tree, choice, verdict))

    def save_packed(self, done: PackedResult) -> None:
        """The same for one that was packed before, maybe on another machine."""
        with convert_sqlite_errors(self.path), self._db:
            self._db.execute(INSERT, done.row())

    def import_rows(self, rows: Iterable[tuple[Any, ...]]) -> tuple[int, int]:
        """Add rows of another run's results, all or none; those of a search that the run has are
        left out. How many were added, and how many of the others have another tree."""
        added = differing = 0
        with convert_sqlite_errors(self.path), self._db:
            for row in rows:
                there = self._db.execute(_TREE, row[:2]).fetchone()
                if there is None:
                    self._db.execute(INSERT, row)
                    added += 1
                else:
                    differing += there[0] != row[-1]
        return added, differing

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """All results as they lie in the file, in the order in which they were kept."""
        with convert_sqlite_errors(self.path):
            yield from self._db.execute("SELECT * FROM results ORDER BY rowid")

    def positions(self) -> list[int]:
        """The places of all problems, in their order; see `add_problems`."""
        return [row[0] for row in self._rows("SELECT position FROM problems ORDER BY position")]

    def strategies(self) -> list[str]:
        """Names of the strategies that have results, in order of their first one."""
        rows = self._rows("SELECT strategy FROM results GROUP BY strategy ORDER BY min(rowid)")
        return [row[0] for row in rows]

    def results(self, strategy: str) -> Iterator[Result]:
        """A strategy's results, in the order of the problems."""
        sql = (
            "SELECT r.problem, r.answer, r.share, r.node, r.votes, r.verdict, r.cost, r.failures "
            "FROM results r JOIN problems p ON p.id = r.problem WHERE strategy = ? "
            "ORDER BY position"
        )
        with convert_sqlite_errors(self.path):
            for row in self._db.execute(sql, (strategy,)):
                yield read_result(strategy, row)

    def tree(self, problem: str, strategy: str) -> Tree:
        """The tree of one result. Raises `StoreError` where it is damaged, `InputError` where there
        is none."""
        rows = self._rows(_TREE, problem, strategy)
        if not rows:
            raise InputError(f"{self.path} has no result of {strategy} on the problem {problem!r}.")
        try:
            record = json.loads(zlib.decompress(rows[0][0]))
        except (zlib.error, ValueError, RecursionError) as error:
            raise StoreError(
                f"The tree of {problem!r} in {self.path} is damaged ({error})."
            ) from error
        return from_record(record)

    def version(self) -> int:
        """A number that changes when another process, or connection, has written the run."""
        number: int = self._rows("PRAGMA data_version")[0][0]
        return number

    def conditions(self) -> dict[str, Any]:
        """What the run's results depend on, as it was given to `open`."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'conditions'")
        with convert_sqlite_errors(self.path):
            found: dict[str, Any] = json.loads(rows[0][0])
        return found

    def digest(self) -> str:
        """SHA-256 over the run's problems and trees, in hexadecimal; a copy of the run has the
        same, a run that went on another."""
        found = sha256()
        with convert_sqlite_errors(self.path):
            for sql in (
                "SELECT id, question, reference FROM problems ORDER BY position",
                "SELECT problem, strategy, tree FROM results ORDER BY problem, strategy",
            ):
                for row in self._db.execute(sql):
                    for value in row:
                        part = value if isinstance(value, bytes) else str(value).encode()
                        found.update(b"%d:" % len(part) + part)
        return found.hexdigest()

    def metadata(self) -> dict[str, str]:
        """What else is recorded of how the run was made: `version`, `model`, `libraries` (JSON)."""
        return dict(self._rows("SELECT key, value FROM meta WHERE key != 'conditions'"))

    def set_default_fact(self, key: str, value: str) -> None:
        """Record a fact about how the run was begun; a later one does not change it."""
        with convert_sqlite_errors(self.path), self._db:
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))

    def require_fact(self, key: str, value: str) -> None:
        """Record a fact that is known only once the work begins, such as the model's name.

        Raises `ConfigError` where the run was begun with another.
        """
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        if not rows:
            with convert_sqlite_errors(self.path), self._db:
                self._db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
        elif rows[0][0] != value:
            raise ConfigError(
                f"{self.path} was begun with the {key} {rows[0][0]!r} and now it is {value!r}; "
                "go back to the first, or give a new --run."
            )

    def _rows(self, sql: str, *values: str) -> list[Any]:
        """All rows of a question to the database."""
        with convert_sqlite_errors(self.path):
            return self._db.execute(sql, values).fetchall()

    def _create(self, conditions: Mapping[str, Any]) -> None:
        """Make an empty run, whole or not at all."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
            self._describe(conditions)

    def _reset(self, conditions: Mapping[str, Any]) -> None:
        with self._db:
            self._db.execute("DELETE FROM problems")
            self._db.execute("DELETE FROM meta")
            self._describe(conditions)

    def _describe(self, conditions: Mapping[str, Any]) -> None:
        about = [("conditions", json.dumps(conditions)), ("version", __version__)]
        self._db.executemany("INSERT INTO meta VALUES (?, ?)", about)

    def _check_conditions(self, wanted: dict[str, Any], defaults: dict[str, Any]) -> None:
        before = defaults | self.conditions()
        differing = [k for k in before.keys() | wanted.keys() if before.get(k) != wanted.get(k)]
        if differing:
            raise ConfigError(f"{self.path} was made with {change(differing, before, wanted)}")
