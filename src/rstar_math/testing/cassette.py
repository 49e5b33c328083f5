"""Recorded model answers: a real model's answers once, then the same search again without it.

    cassette = Cassette(Path("answers.jsonl"))
    policy = StepPolicy(cassette.recording(completer), config)    # with the model, once
    policy = StepPolicy(cassette.replaying(), config)             # from the file, ever after

One JSON object a line, appended as each answer comes. A request's key is a hash over all arguments
of `Completer.complete`; of the prompt only the end is kept, for a person to see what was asked:
prompts repeat the worked examples and the whole prefix, and would be nine tenths of the file. A
key does not name the model: use one cassette a model. Not for several threads or processes at once.
"""

import asyncio
import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rstar_math.costs import add_cost, track_cost
from rstar_math.errors import ContextLengthError, InputError, ModelRejectedError, StoreError
from rstar_math.protocols import Completer, Completion
from rstar_math.types import Cost

FORMAT = 1
_START = b'{"format": '
_TAIL_CHARS = 120


@dataclass(frozen=True, slots=True)
class _Request:
    """All arguments of `Completer.complete`."""

    prompt: str
    n: int
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float
    seed: int

    @property
    def key(self) -> str:
        """The same for equal requests only."""
        return blake2b(json.dumps(asdict(self)).encode(), digest_size=16).hexdigest()

    def shown(self) -> dict[str, Any]:
        """The request for a person: of the prompt only the end."""
        return {**asdict(self), "prompt": self.prompt[-_TAIL_CHARS:]}


@dataclass(frozen=True, slots=True)
class _Entry:
    """What came of a request: completions, or word that the context is exceeded."""

    completions: tuple[Completion, ...]
    cost: Cost
    """Without the time it took: that is measured anew."""
    exceeded: str | None = None

    def give(self) -> list[Completion]:
        """Charge the cost, and answer or raise as the model did."""
        add_cost(self.cost)
        if self.exceeded is not None:
            raise ContextLengthError(self.exceeded)
        return list(self.completions)


class Cassette:
    """A file of recorded answers.

    A last line that is cut off or damaged (the recording was killed) does not count: replay goes
    without it, and a recording that goes on takes it out of the file. Damage anywhere else, and a
    file that is no cassette, raise `StoreError` and are left as they are.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def recording(self, completer: Completer) -> Completer:
        """A Completer that asks `completer` and writes down what it said and what it cost.

        A request that the file already holds is answered from it, so that what was recorded is
        what replays, and a recording that was interrupted goes on where it was. A full context is
        recorded too, since a search goes on after it; all other errors pass through unrecorded.
        A cancelled call leaves no line.
        """
        try:
            self.path.touch()
            entries, whole = _read(self.path)
            os.truncate(self.path, whole)
        except OSError as error:
            raise InputError(
                f"The cassette {self.path} cannot be written ({error.strerror}); give a file in "
                "a folder that is there and yours."
            ) from error
        return _Recorder(self.path, completer, entries)

    def replaying(self, *, jitter_s: float = 0.0, seed: int = 0) -> Completer:
        """A Completer that answers from the file and charges what was charged then.

        Each answer waits for a random time of up to `jitter_s` seconds, to shake the order of
        arrival; `seed` shakes it otherwise. Raises `ModelRejectedError` for a request that was not
        recorded, and `InputError` right away if the file cannot be read.
        """
        try:
            entries, _ = _read(self.path)
        except OSError as error:
            raise InputError(
                f"The cassette {self.path} cannot be read ({error.strerror}); record one with "
                "Cassette(path).recording(completer)."
            ) from error
        return _Player(self.path, entries, jitter_s, random.Random(seed))


class _Recorder:
    """The Completer of `Cassette.recording`."""

    def __init__(self, path: Path, inner: Completer, entries: dict[str, _Entry]) -> None:
        self._path = path
        self._inner = inner
        self._entries = entries
        self._asking: dict[str, asyncio.Event] = {}

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """See `protocols.Completer`."""
        request = _Request(prompt, n, tuple(stop), max_tokens, float(temperature), seed)
        key = request.key
        while key in self._asking:
            await self._asking[key].wait()
        if key in self._entries:
            return self._entries[key].give()
        self._asking[key] = asyncio.Event()
        try:
            return await self._ask(request)
        finally:
            self._asking.pop(key).set()

    async def _ask(self, request: _Request) -> list[Completion]:
        """The model's answer, written down."""
        completions: list[Completion] = []
        exceeded: ContextLengthError | None = None
        with track_cost() as cost:
            try:
                completions = await self._inner.complete(**asdict(request))
            except ContextLengthError as error:
                exceeded = error
        cost.seconds = 0.0
        self._write(request, _Entry(tuple(completions), cost, str(exceeded) if exceeded else None))
        if exceeded is not None:
            raise exceeded
        return completions

    def _write(self, request: _Request, entry: _Entry) -> None:
        """Add a line to the file."""
        record = {"format": FORMAT, "key": request.key, "request": request.shown()}
        record |= _entry_record(entry)
        with self._path.open("a", encoding="ascii", newline="\n") as file:
            file.write(json.dumps(record) + "\n")
        self._entries[request.key] = entry


class _Player:
    """The Completer of `Cassette.replaying`."""

    def __init__(
        self, path: Path, entries: dict[str, _Entry], jitter_s: float, rng: random.Random
    ) -> None:
        self._path = path
        self._entries = entries
        self._jitter_s = jitter_s
        self._rng = rng

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """See `protocols.Completer`."""
        request = _Request(prompt, n, tuple(stop), max_tokens, float(temperature), seed)
        await asyncio.sleep(self._rng.uniform(0, self._jitter_s))
        entry = self._entries.get(request.key)
        if entry is None:
            raise ModelRejectedError(
                f"The cassette {self._path} has no answer to this request (n={n}, seed={seed}, "
                f"temperature={temperature}, max_tokens={max_tokens}, prompt ends with "
                f"{prompt[-40:]!r}); replay with the settings it was recorded with, or record it "
                "with Cassette.recording."
            )
        return entry.give()


def _read(path: Path) -> tuple[dict[str, _Entry], int]:
    """The entries of a file by key, and the length in bytes of its lines that count."""
    entries: dict[str, _Entry] = {}
    whole = 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("cut off")
            record = json.loads(line)
            if record["format"] != FORMAT:
                raise StoreError(
                    f"Line {number} of the cassette {path} is of format {record['format']!r}, and "
                    f"this version of rstar-math reads format {FORMAT}; record it again."
                )
            entries[record["key"]] = _entry(record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines) and (entries or line[: len(_START)] == _START[: len(line)]):
                break
            raise StoreError(
                f"Line {number} of the cassette {path} is damaged, or the file is no cassette; "
                "delete the line and record again what it held, or give another file."
            ) from error
        whole += len(line)
    return entries, whole


def _entry_record(entry: _Entry) -> dict[str, Any]:
    """An entry as JSON: what it cost, and the completions or the error."""
    record: dict[str, Any] = {"cost": {k: v for k, v in asdict(entry.cost).items() if v}}
    if entry.exceeded is not None:
        return {**record, "context_exceeded": entry.exceeded}
    texts = [{k: v for k, v in asdict(c).items() if v is not None} for c in entry.completions]
    return {**record, "completions": texts}


def _entry(record: dict[str, Any]) -> _Entry:
    """The entry of a line. Raises one of Python's own errors for one that is no entry."""
    completions = tuple(Completion(**c) for c in record.get("completions", ()))
    exceeded = record.get("context_exceeded")
    if exceeded is None:
        record["completions"]
    return _Entry(completions, Cost(**record["cost"]), exceeded)
