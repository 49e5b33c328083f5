"""The journals of searches under way: what models, programs and scorers answered, on disk.

A search is deterministic, given these answers. A search that was killed therefore runs again from
its root, takes the recorded answers instead of asking, and reaches the state in which it was
killed within milliseconds. Only requests that were in flight are sent again. This holds for every
strategy, any number of rollouts in flight, budgets, costs and early stops, without code of its own
in any of them.

Beside a run file RUN, the folder RUN-growing holds two files per search under way, which are
deleted once the result is in the run file:

- NAME.jsonl, the journal: one line per answer, appended when it arrives. A kill at any moment
  leaves whole lines and at most one incomplete line, which is cut off. Lines are not synced to
  the disk: they survive the death of the process, but a power failure may lose the last seconds.
- NAME.tree, a copy of the tree for the viewer, at most a few times a second.
"""

import asyncio
import json
import os
import time
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rstar_math.costs import add_cost
from rstar_math.errors import StoreError
from rstar_math.files import inflate
from rstar_math.rejected import RejectedSample, add_rejected
from rstar_math.search.records import from_record, preview, rejected_of
from rstar_math.search.tree import Tree
from rstar_math.text import replace_surrogates
from rstar_math.types import Cost

FORMAT = 2
"""Version of the journal's format. A journal of another version is discarded."""
MAX_JOURNAL_BYTES = 1 << 30
"""Maximum size of a journal that is read."""
PREVIEW_PAUSE_S = 0.25
"""Minimum time between two rounds of previews."""
PREVIEW_SHARE = 0.02
"""Maximum share of the event loop's time that previews take, over all trees of a run."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One recorded answer: a JSON value and what it cost."""

    value: Any
    cost: dict[str, Any]
    rejected: list[dict[str, Any]]
    """Samples that the policy rejected while it answered."""


class Journal:
    """The journal of one search. Use it for one search at a time, and close it afterwards."""

    def __init__(self, growing: "GrowingTrees", problem: str, strategy: str) -> None:
        self._growing = growing
        self.problem, self.strategy = problem, strategy
        self._path = growing.file(problem, strategy, "jsonl")
        self._answers: dict[str, _Answer] = {}
        self._asked: Counter[str] = Counter()
        self._started = time.monotonic()
        self.seconds_before = 0.0
        """Seconds that earlier, killed attempts at this search took, up to their last answer."""
        self.replayed = 0
        """Number of recorded answers that this attempt has used."""
        self.recorded = 0
        """Number of answers that this attempt has recorded."""
        self.tree: Tree | None = None
        """The tree that previews show."""
        self._file = self._open()

    def key(self, kind: str, *parts: object) -> str:
        """Return the key of the next request with these arguments.

        Equal requests of one search are numbered in the order in which they are made.
        """
        text = json.dumps([kind, *parts], default=str)
        digest = blake2b(text.encode(), digest_size=12).hexdigest()
        self._asked[digest] += 1
        return f"{digest}.{self._asked[digest]}"

    def find(self, key: str) -> Any | None:
        """Return the recorded answer to a request, charge its cost and report its rejected samples;
        None if there is none."""
        answer = self._answers.pop(key, None)
        if answer is None:
            return None
        self.replayed += 1
        with suppress(TypeError):
            add_cost(Cost(**answer.cost))
        with suppress(TypeError):
            for sample in answer.rejected:
                add_rejected(rejected_of(sample))
        return answer.value

    def record(
        self, key: str, value: Any, cost: Cost, rejected: Sequence[RejectedSample] = ()
    ) -> None:
        """Append an answer. It survives a kill once this method returns. Raises `StoreError`."""
        spent = {name: amount for name, amount in asdict(cost).items() if amount}
        seconds = round(self.seconds_before + time.monotonic() - self._started, 3)
        samples = [asdict(each) for each in rejected]
        line = json.dumps([key, value, spent, seconds, samples], separators=(",", ":")) + "\n"
        self._write(line.encode())
        self.recorded += 1
        self._growing.changed(self)

    def close(self) -> None:
        """Close the file. A later search of the same problem continues with it."""
        self._growing.unchanged(self)
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> int:
        """Read the complete lines, cut off the rest, and return a descriptor for appending."""
        header = {"format": FORMAT, "problem": self.problem, "strategy": self.strategy}
        header["conditions"] = self._growing.conditions
        first = json.dumps(header).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            size = self._read(first)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(self._path, flags, 0o644)
            os.ftruncate(file, size)
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        if not size:
            self._file = file
            self._write(first)
        return file

    def _read(self, header: bytes) -> int:
        """Load the recorded answers; return the number of bytes that are complete and valid."""
        try:
            if self._path.stat().st_size > MAX_JOURNAL_BYTES:
                return 0
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        if not data.startswith(header):
            return 0
        size = len(header)
        for line in data[size:].splitlines(keepends=True):
            try:
                key, value, cost, seconds, rejected = json.loads(line)
                answer = _Answer(value, dict(cost), list(rejected))
                self.seconds_before = float(seconds)
            except (ValueError, TypeError, RecursionError):
                break
            if not line.endswith(b"\n"):
                break
            self._answers[str(key)] = answer
            size += len(line)
        return size

    def _write(self, data: bytes) -> None:
        """Append bytes. Raises `StoreError`."""
        try:
            written = os.write(self._file, data)
            if written != len(data):
                raise OSError(0, "the disk is full")
        except OSError as error:
            raise _cannot_write(self._path, error) from error


class GrowingTrees:
    """The folder with the searches under way of one run: their journals and previews."""

    def __init__(self, folder: Path, conditions: str = "") -> None:
        self.folder = folder
        self.conditions = conditions
        """Identifies everything that the recorded answers depend on; see
        `RunStore.growing_trees`. A journal with other conditions is discarded."""
        self._changed: dict[tuple[str, str], Journal] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pause_s = PREVIEW_PAUSE_S
        self._names: dict[str, tuple[str, str]] = {}
        """Problem and strategy of the previews that were read, by file name."""

    def open(self, problem: str, strategy: str) -> Journal:
        """Return the journal of a search, new or with the answers recorded so far."""
        return Journal(self, problem, strategy)

    def discard(self, problem: str, strategy: str) -> None:
        """Delete the files of a search, and the folder if it is empty."""
        for suffix in ("jsonl", "tree"):
            with suppress(OSError):
                self.file(problem, strategy, suffix).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def discard_finished(self, problems: Collection[str], strategy: str) -> None:
        """Delete the files of searches whose result was stored just before a kill."""
        with suppress(OSError):
            present = {path.stem for path in self.folder.iterdir()}
            for problem in problems:
                if self.file(problem, strategy, "jsonl").stem in present:
                    self.discard(problem, strategy)

    def file(self, problem: str, strategy: str, suffix: str) -> Path:
        """Return the path of a search's file."""
        name = blake2b(f"{problem}\0{strategy}".encode("utf-8", "surrogatepass"), digest_size=12)
        return self.folder / f"{name.hexdigest()}.{suffix}"

    def changed(self, journal: Journal) -> None:
        """Write a preview of the journal's tree soon, after its search has used the answer."""
        if journal.tree is None:
            return
        self._changed[journal.problem, journal.strategy] = journal
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._pause_s, self._write_previews)

    def unchanged(self, journal: Journal) -> None:
        """Write no further preview of a journal's tree."""
        self._changed.pop((journal.problem, journal.strategy), None)
        if not self._changed and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write_previews(self) -> None:
        """Write the previews that are due. The next round waits in proportion to their time."""
        started = time.monotonic()
        journals, self._changed, self._timer = list(self._changed.values()), {}, None
        for journal in journals:
            with suppress(OSError):  # a preview is only for display
                self.write_preview(journal)
        spent_s = time.monotonic() - started
        self._pause_s = max(PREVIEW_PAUSE_S, spent_s / PREVIEW_SHARE)

    def write_preview(self, journal: Journal) -> None:
        """Write the tree of a search under way. Raises `OSError`."""
        assert journal.tree is not None
        content = {"problem": journal.problem, "strategy": journal.strategy}
        text = json.dumps(content | {"tree": preview(journal.tree)}, ensure_ascii=False)
        path = self.file(journal.problem, journal.strategy, "tree")
        draft = path.with_suffix(".tree-new")
        draft.write_bytes(zlib.compress(replace_surrogates(text).encode(), 1))
        draft.replace(path)

    def previews(self) -> Iterator[tuple[str, str, int]]:
        """Yield problem, strategy and version of every tree with a preview, oldest first.

        The version changes with the preview. Damaged files are skipped.
        """
        files = []
        with suppress(OSError):
            for path in self.folder.glob("*.tree"):
                with suppress(OSError):
                    files.append((path.stat().st_mtime_ns, path))
        for version, path in sorted(files):
            if path.name not in self._names:  # a name stands for one problem and strategy
                with suppress(StoreError):
                    content = _read_preview(path)
                    self._names[path.name] = str(content["problem"]), str(content["strategy"])
            if path.name in self._names:
                yield *self._names[path.name], version

    def preview(self, problem: str, strategy: str) -> Tree:
        """Return the tree of a search under way. Raises `StoreError` if it has none."""
        return from_record(_read_preview(self.file(problem, strategy, "tree"))["tree"])

    def stamp(self) -> int:
        """Return a number that changes when a preview is written, added or deleted."""
        names: list[tuple[str, int]] = []
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".tree"):
                    with suppress(OSError):
                        names.append((entry.name, entry.stat().st_mtime_ns))
        return hash(tuple(sorted(names)))


MAX_PREVIEW_BYTES = 1 << 28
"""Maximum size of a preview's JSON."""


def _read_preview(path: Path) -> Mapping[str, Any]:
    """Return the content of a preview. Raises `StoreError`."""
    try:
        content = json.loads(inflate(path.read_bytes(), MAX_PREVIEW_BYTES))
        if not {"problem", "strategy", "tree"} <= set(content):
            raise ValueError("a field is missing")
    except (OSError, zlib.error, ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"The tree under way in {path} cannot be read ({error}).") from error
    found: Mapping[str, Any] = content
    return found


def _cannot_write(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The journal {path} cannot be written ({error.strerror}); free disk space or give "
        "another --run."
    )
