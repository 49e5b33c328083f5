"""Records the answers of a real model, so that a search can be repeated without the model.

    cassette = Cassette(Path("answers.jsonl"))
    policy = StepPolicy(cassette.recording(completer), config)    # once, with the model
    policy = StepPolicy(cassette.replaying(), config)             # afterwards, from the file

The file holds one JSON object per line, appended when an answer arrives. The key of a request is a
hash of all arguments of `Completer.complete`. Only the end of the prompt is stored, for
information: whole prompts would be nine tenths of the file. The key does not include the model, so
use one cassette per model. A cassette must not be used by several threads or processes at once.
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
        """A hash of all fields."""
        return blake2b(json.dumps(asdict(self)).encode(), digest_size=16).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The request as stored for information, with only the end of the prompt."""
        return {**asdict(self), "prompt": self.prompt[-_TAIL_CHARS:]}


@dataclass(frozen=True, slots=True)
class _Entry:
    """The recorded result of a request: completions or a context error."""

    completions: tuple[Completion, ...]
    cost: Cost
    """The cost without the time, which is measured again at replay."""
    exceeded: str | None = None
    """The message of a `ContextLengthError`; None for completions."""

    def replay(self) -> list[Completion]:
        """Charge the cost, and return the completions or raise the error."""
        add_cost(self.cost)
        if self.exceeded is not None:
            raise ContextLengthError(self.exceeded)
        return list(self.completions)


class Cassette:
    """A file of recorded answers.

    An incomplete or damaged last line, left by a killed recording, is ignored at replay and removed
    when the recording continues. Damage in any other line, or a file of another kind, raises
    `StoreError`; the file is not changed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def recording(self, completer: Completer) -> Completer:
        """A Completer that calls `completer` and records its completions and costs.

        A request that is already in the file is answered from it, so an interrupted recording can
        continue. A `ContextLengthError` is recorded too, because a search continues after it. All
        other errors are raised and not recorded. A cancelled call records nothing. Raises
        `InputError` if the file cannot be written.
        """
        try:
            self.path.touch()
            entries, valid_bytes = _read(self.path)
            os.truncate(self.path, valid_bytes)
        except OSError as error:
            raise InputError(
                f"The cassette {self.path} cannot be written ({error.strerror}); choose a file in "
                "an existing, writable folder."
            ) from error
        return _Recorder(self.path, completer, entries)

    def replaying(self, *, jitter_s: float = 0.0, seed: int = 0) -> Completer:
        """A Completer that answers from the file and charges the recorded costs.

        Each answer is delayed by a random time of up to `jitter_s` seconds, which changes the order
        of arrival. `seed` determines the delays. The Completer raises `ModelRejectedError` for an
        unknown request. This method raises `InputError` if the file cannot be read.
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
        self._in_flight: dict[str, asyncio.Event] = {}

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
        while key in self._in_flight:
            await self._in_flight[key].wait()
        if key in self._entries:
            return self._entries[key].replay()
        self._in_flight[key] = asyncio.Event()
        try:
            return await self._record(request)
        finally:
            self._in_flight.pop(key).set()

    async def _record(self, request: _Request) -> list[Completion]:
        """Call the model and record its answer."""
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
        """Append a line to the file."""
        record = {"format": FORMAT, "key": request.key, "request": request.as_json()}
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
                f"{prompt[-40:]!r}); use the settings of the recording, or record the request with "
                "Cassette.recording."
            )
        return entry.replay()


def _read(path: Path) -> tuple[dict[str, _Entry], int]:
    """The entries of a file by key, and the total length of its valid lines in bytes."""
    entries: dict[str, _Entry] = {}
    valid_bytes = 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("incomplete")
            record = json.loads(line)
            if record["format"] != FORMAT:
                raise StoreError(
                    f"Line {number} of the cassette {path} has format {record['format']!r}, but "
                    f"this version of rstar-math reads format {FORMAT}; record it again."
                )
            entries[record["key"]] = _parse_entry(record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines) and (entries or line[: len(_START)] == _START[: len(line)]):
                break
            raise StoreError(
                f"Line {number} of the cassette {path} is damaged, or the file is not a cassette; "
                "delete the line and record its request again, or choose another file."
            ) from error
        valid_bytes += len(line)
    return entries, valid_bytes


def _entry_record(entry: _Entry) -> dict[str, Any]:
    """An entry as JSON: the cost, and the completions or the error."""
    record: dict[str, Any] = {"cost": {k: v for k, v in asdict(entry.cost).items() if v}}
    if entry.exceeded is not None:
        return {**record, "context_exceeded": entry.exceeded}
    texts = [{k: v for k, v in asdict(c).items() if v is not None} for c in entry.completions]
    return {**record, "completions": texts}


def _parse_entry(record: dict[str, Any]) -> _Entry:
    """The entry of a line. Raises `KeyError` or `TypeError` if it is invalid."""
    exceeded = record.get("context_exceeded")
    texts = record["completions"] if exceeded is None else ()
    return _Entry(tuple(Completion(**text) for text in texts), Cost(**record["cost"]), exceeded)
