"""The run file: one SQLite database per run, with one writer.

A run holds the problems, one tree per problem and strategy, and the conditions of the search. Each
result is on disk before it is reported. A run can be resumed only under the same conditions, so
that results of different configurations are never mixed.
"""

import json
import os
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rstar_math import __version__
from rstar_math.errors import ConfigError, InputError, StoreError
from rstar_math.files import inflate
from rstar_math.runs.database import (
    APPLICATION_ID,
    FORMAT,
    SCHEMA,
    TASKS_SCHEMA,
    acquire_writer_lock,
    convert_sqlite_errors,
    file_state,
    is_empty,
    make_durable,
    open_database,
)
from rstar_math.runs.journal import GrowingTrees
from rstar_math.runs.results import PackedResult, Result, pack_result, read_result
from rstar_math.search.records import from_record
from rstar_math.search.tree import Tree
from rstar_math.search.voting import Choice
from rstar_math.task_records import (
    dump_reference,
    image_uri,
    load_reference,
    parse_image,
    parse_task,
    task_entry,
)
from rstar_math.tasks import Task
from rstar_math.types import Image, Problem, Question, Verdict

__all__ = ["Result", "RunStore"]

MAX_TREE_BYTES = 1 << 30
"""Maximum size of a tree's JSON: 1,000 times the trees of the papers."""
_INSERT_RESULT = "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT_TASKS = "SELECT problem, task FROM tasks ORDER BY problem"
_SELECT_TREE = "SELECT tree FROM results WHERE problem = ? AND strategy = ?"


def _how_to_revert(key: str, value: Any) -> str:
    """Return the instruction that sets an option back to the run's value."""
    if key == "guided":
        return "add --guided" if value else "remove --guided"
    if "." not in key:
        return "change it back"
    if key.startswith("sandbox."):
        return "remove your own setting, if there is one"
    if value is None:
        return f"remove {key}"
    return f"set it back with --set {key}={value if isinstance(value, str) else json.dumps(value)}"


def _describe_changes(
    changed: Collection[str], before: Mapping[str, Any], now: Mapping[str, Any]
) -> str:
    """Return the end of an error message: the first changed option and how to revert it."""
    key, others = min(changed), len(changed) - 1
    fix = _how_to_revert(key, before.get(key))
    if others > 1:
        fix = f"{others} more options differ, so use the run's own --config"
    return (
        f"{key} = {before.get(key)!r}, but it is now {now.get(key)!r}; {fix}, or give a new --run."
    )


def _dump_task(question: Question) -> str | None:
    """Return a question's task and images as text; None if it has neither."""
    if question.task is None and not question.images:
        return None
    images = [image_uri(image) for image in question.images]
    return json.dumps({"task": task_entry(question.task), "images": images}, ensure_ascii=False)


def _load_task(text: str, path: Path) -> tuple[Task | None, tuple[Image, ...]]:
    """Return the task and the images in a text of `_dump_task`. Raises `StoreError`."""
    with convert_sqlite_errors(path):
        stored = json.loads(text)
        return parse_task(stored["task"]), tuple(map(parse_image, stored["images"]))


def _problem(row: tuple[Any, ...], stored: str | None) -> Problem:
    """Return the problem of a row: id, question, reference, source, level; and its task."""
    name, text, reference, source, level = row
    if stored is None:
        return Problem(Question(name, text), reference, source, level)
    entry = json.loads(stored)
    task, images = parse_task(entry["task"]), tuple(map(parse_image, entry["images"]))
    question = Question(name, text, task, images)
    return Problem(question, load_reference(reference, task), source, level)


class RunStore:
    """A run file, opened for reading (`read`) or for writing (`open`). A context manager."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._db = db
        self._lock = lock
        self.file_state = file_state(path)
        self._reopened = 0
        self.growing = GrowingTrees(Path(f"{path}-growing"))
        """The searches under way, which a kill does not lose."""

    @classmethod
    def open(
        cls, path: Path, conditions: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> Self:
        """Create a run, or open an existing one that was made under the same conditions.

        A run without results (for example because its model did not answer) is reset to the new
        conditions. `defaults` holds the values of conditions that an older run did not record.
        Raises `StoreError` if the run is damaged, of another format or in use, and `ConfigError` if
        its conditions differ.
        """
        lock = acquire_writer_lock(path)
        try:
            db = open_database(path, read_only=False)
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
        """Open a run for reading; another process may write it at the same time."""
        if not path.exists():
            raise InputError(
                f"There is no run {path}; make one with: rstar search FILE --run {path}."
            )
        db = open_database(path, read_only=True)
        if is_empty(db):
            raise StoreError(f"{path} is empty, not a run of rstar-math; give another --run.")
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
        """Close the file and release the writer's lock. A writer's results are in the one file."""
        if self._lock is not None:
            with suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def add_problems(
        self, problems: Iterable[Problem], positions: Iterable[int] | None = None
    ) -> None:
        """Add problems to the run; problems that it already has are left unchanged.

        `positions` are the problems' positions in the whole list if the run holds only a part of
        it, counted from 1. By default, problems are appended. Raises `InputError` if an id already
        has another question or reference, or if a position is taken by another problem.
        """
        with convert_sqlite_errors(self.path), self._db:
            numbers: Iterable[int | None] = repeat(None) if positions is None else positions
            for problem, position in zip(problems, numbers, strict=False):
                row = (problem.question.text, dump_reference(problem.reference))
                sql = "SELECT question, reference FROM problems WHERE id = ?"
                stored = self._db.execute(sql, (problem.id,)).fetchone()
                task = _dump_task(problem.question)
                if stored == row and task == self._task_texts().get(problem.id):
                    continue
                if stored is not None:
                    raise InputError(
                        f"The problem {problem.id!r} of {self.path} now has another text or "
                        "answer; give a new --run, or use unique ids."
                    )
                inserted = self._db.execute(
                    "INSERT INTO problems VALUES (?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (position) DO NOTHING",
                    (position, problem.id, *row, problem.source, problem.level),
                )
                if not inserted.rowcount:
                    raise InputError(
                        f"Position {position} of {self.path} holds another problem than "
                        f"{problem.id!r}; use shards of one list of problems."
                    )
                if task is not None:
                    self._db.execute(
                        TASKS_SCHEMA.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
                    )
                    self._db.execute("INSERT INTO tasks VALUES (?, ?)", (problem.id, task))

    def problems(self) -> list[Problem]:
        """Return all problems, in the order of their positions."""
        rows = self._rows(
            "SELECT id, question, reference, source, level FROM problems ORDER BY position"
        )
        tasks = self._task_texts()
        with convert_sqlite_errors(self.path):
            return [_problem(row, tasks.get(row[0])) for row in rows]

    def _task_texts(self) -> dict[str, str]:
        """Return the stored tasks and images by problem id."""
        if not self._rows("SELECT 1 FROM sqlite_master WHERE name = 'tasks'"):
            return {}
        return dict(self._rows("SELECT problem, task FROM tasks"))

    def done(self, strategy: str) -> set[str]:
        """Return the ids of the problems that a strategy has finished."""
        rows = self._rows("SELECT problem FROM results WHERE strategy = ?", strategy)
        return {row[0] for row in rows}

    def save(
        self, strategy: str, tree: Tree, choice: Choice, verdict: Verdict | None = None
    ) -> None:
        """Store the result of a search. It is on disk when this method returns."""
        self.save_packed(pack_result(strategy, tree, choice, verdict))

    def save_packed(self, packed: PackedResult) -> None:
        """Store a packed result, as `save` does."""
        with convert_sqlite_errors(self.path), self._db:
            self._db.execute(_INSERT_RESULT, packed.row())
        self.growing.discard(packed.result.problem, packed.result.strategy)

    def import_rows(self, rows: Iterable[tuple[Any, ...]]) -> tuple[int, int]:
        """Add result rows of another run, all or none; results that this run has are skipped.

        Returns the number of added rows, and the number of skipped rows whose tree differs.
        """
        added = differing = 0
        with convert_sqlite_errors(self.path), self._db:
            for row in rows:
                stored = self._db.execute(_SELECT_TREE, row[:2]).fetchone()
                if stored is None:
                    self._db.execute(_INSERT_RESULT, row)
                    added += 1
                else:
                    differing += stored[0] != row[-1]
        return added, differing

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the raw rows of all results, in the order in which they were stored."""
        with convert_sqlite_errors(self.path):
            yield from self._db.execute("SELECT * FROM results ORDER BY rowid")

    def positions(self) -> list[int]:
        """Return the positions of all problems, in ascending order (see `add_problems`)."""
        return [row[0] for row in self._rows("SELECT position FROM problems ORDER BY position")]

    def strategies(self) -> list[str]:
        """Return the names of the strategies with results, in order of their first result."""
        rows = self._rows("SELECT strategy FROM results GROUP BY strategy ORDER BY min(rowid)")
        return [row[0] for row in rows]

    def results(self, strategy: str) -> Iterator[Result]:
        """Yield a strategy's results, in the order of the problems."""
        sql = (
            "SELECT r.problem, r.answer, r.share, r.node, r.votes, r.verdict, r.cost, r.failures "
            "FROM results r JOIN problems p ON p.id = r.problem WHERE strategy = ? "
            "ORDER BY position"
        )
        with convert_sqlite_errors(self.path):
            for row in self._db.execute(sql, (strategy,)):
                yield read_result(strategy, row)

    def tree(self, problem: str, strategy: str) -> Tree:
        """Return the tree of one result.

        Raises `InputError` if there is no such result, and `StoreError` if the tree is damaged.
        """
        rows = self._rows(_SELECT_TREE, problem, strategy)
        if not rows:
            raise InputError(f"{self.path} has no result of {strategy} for problem {problem!r}.")
        try:
            record = json.loads(inflate(rows[0][0], MAX_TREE_BYTES))
        except (zlib.error, ValueError, RecursionError) as error:
            raise StoreError(
                f"The tree of {problem!r} in {self.path} is damaged ({error})."
            ) from error
        tree = from_record(record)
        stored = self._task_texts().get(problem)
        if stored is not None:
            task, images = _load_task(stored, self.path)
            tree.question = replace(tree.question, task=task, images=images)
        return tree

    def version(self) -> int:
        """Return a number that changes when another connection or process writes the run.

        For a reader this also makes the changes visible, if the run was not being written before.
        """
        state = file_state(self.path)
        if self._lock is None and state != self.file_state:
            db = open_database(self.path, read_only=True)
            self._db.close()
            self._db, self.file_state = db, state
            self._reopened += 1
        number: int = self._rows("PRAGMA data_version")[0][0]
        return (self._reopened << 32) + number

    def conditions(self) -> dict[str, Any]:
        """Return the conditions that were passed to `open` when the run was created."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'conditions'")
        with convert_sqlite_errors(self.path):
            conditions: dict[str, Any] = json.loads(rows[0][0])
        return conditions

    def digest(self) -> str:
        """Return the SHA-256 of the run's problems and trees, in hexadecimal."""
        digest = sha256()
        with convert_sqlite_errors(self.path):
            for sql in (
                "SELECT id, question, reference FROM problems ORDER BY position",
                "SELECT problem, strategy, tree FROM results ORDER BY problem, strategy",
                *(
                    ["SELECT problem, task FROM tasks ORDER BY problem"]
                    if self._task_texts()
                    else []
                ),
            ):
                for row in self._db.execute(sql):
                    for value in row:
                        data = value if isinstance(value, bytes) else str(value).encode()
                        digest.update(b"%d:" % len(data) + data)
        return digest.hexdigest()

    def metadata(self) -> dict[str, str]:
        """Return all recorded facts except the conditions: `version`, `model`, `libraries`, ..."""
        return dict(self._rows("SELECT key, value FROM meta WHERE key != 'conditions'"))

    def set_default_fact(self, key: str, value: str) -> None:
        """Record a fact about the run, unless it is already recorded."""
        with convert_sqlite_errors(self.path), self._db:
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))

    def require_fact(self, key: str, value: str) -> None:
        """Record a fact that is known only when the search starts, such as the model's name.

        Raises `ConfigError` if another value is already recorded.
        """
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        if not rows:
            with convert_sqlite_errors(self.path), self._db:
                self._db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
        elif rows[0][0] != value:
            raise ConfigError(
                f"{self.path} was started with the {key} {rows[0][0]!r}, but it is now {value!r}; "
                "change it back, or give a new --run."
            )

    def growing_trees(self) -> GrowingTrees:
        """Return the searches under way, for writing, once all facts are recorded.

        Answers recorded under other conditions, or with another model, are not used.
        """
        facts = {key: value for key, value in self.metadata().items() if key != "libraries"}
        text = json.dumps([self.conditions(), facts], sort_keys=True)
        self.growing.conditions = sha256(text.encode()).hexdigest()[:24]
        return self.growing

    def _rows(self, sql: str, *values: str) -> list[Any]:
        """Return all rows of a query."""
        with convert_sqlite_errors(self.path):
            return self._db.execute(sql, values).fetchall()

    def _create(self, conditions: Mapping[str, Any]) -> None:
        """Create the tables of an empty run, in one transaction."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
            self._write_metadata(conditions)

    def _reset(self, conditions: Mapping[str, Any]) -> None:
        """Remove all problems and facts of a run without results, and record new conditions."""
        with self._db:
            self._db.execute("DELETE FROM problems")
            if self._task_texts():
                self._db.execute("DELETE FROM tasks")
            self._db.execute("DELETE FROM meta")
            self._write_metadata(conditions)

    def _write_metadata(self, conditions: Mapping[str, Any]) -> None:
        """Record the conditions and this package's version, within the caller's transaction."""
        rows = [("conditions", json.dumps(conditions)), ("version", __version__)]
        self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows)

    def _check_conditions(self, now: dict[str, Any], defaults: dict[str, Any]) -> None:
        """Raise `ConfigError` if the run was made under other conditions."""
        before = defaults | self.conditions()
        changed = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
        if changed:
            changes = _describe_changes(changed, before, now)
            raise ConfigError(f"{self.path} was made with {changes}")
