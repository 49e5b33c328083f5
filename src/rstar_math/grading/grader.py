"""The grading API: `Grader` for asyncio, `grade` and `grade_many` for synchronous code; the pool
of worker processes."""

import asyncio
import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rstar_math.config.sections import GradingConfig
from rstar_math.errors import GradingError
from rstar_math.grading.rules import Grade, canonical_key, could_be_equal, quick, unknown
from rstar_math.protocols import Verifier
from rstar_math.types import Verdict

_START_S = 60.0
_REPLY_BYTES = 4096
_SCRIPT = Path(__file__).with_name("worker.py")
_KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
TIMED_OUT = unknown("The time limit of the pair passed.")
DIED = unknown("The grader process ended on this pair.")


class _Hung(Exception):
    """No full line within the time given."""


class _Gone(Exception):
    """The process has ended, or does not speak the protocol."""


@dataclass(slots=True)
class _Worker:
    """One process and what has been read from it but not used."""

    process: subprocess.Popen[bytes]
    number: int = 0
    rest: bytes = b""

    def send(self, message: dict[str, object]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise _Gone from error

    def receive(self, seconds: float) -> dict[str, object]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        fd = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _Hung
            chunk = os.read(fd, _REPLY_BYTES)
            self.rest += chunk
            if not chunk or len(self.rest) > 4 * _REPLY_BYTES:
                raise _Gone
        line, _, self.rest = self.rest.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise _Gone from error
        if not isinstance(message, dict):
            raise _Gone
        return message

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue


class Pool:
    """Up to `config.workers` processes, started when first needed."""

    def __init__(self, config: GradingConfig) -> None:
        self.config = config
        self.size = config.workers or min(4, os.cpu_count() or 1)
        self.pairs = 0
        """Pairs that were given to a process so far."""
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._idle: list[_Worker] = []
        self._slots = threading.BoundedSemaphore(self.size)
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, pred: str, gold: str) -> Grade:
        """The engine's judgement; UNKNOWN past the time limit. A process that had died before is
        replaced and the pair asked again. Raises `GradingError` if no process can be started."""
        if os.getpid() != self._pid:
            self._reset()
        with self._slots:
            self.pairs += 1
            for _ in range(2):
                worker = self._take()
                try:
                    judgement = self._exchange(worker, pred, gold)
                except _Hung:
                    self._discard(worker)
                    return TIMED_OUT
                except _Gone:
                    self._discard(worker)
                    continue
                except BaseException:
                    self._discard(worker)
                    raise
                self._give_back(worker)
                return judgement
            return DIED

    def _exchange(self, worker: _Worker, pred: str, gold: str) -> Grade:
        worker.number += 1
        worker.send({"id": worker.number, "pred": pred, "gold": gold})
        reply = worker.receive(self.config.timeout_s)
        if reply.get("id") != worker.number:
            raise _Gone
        try:
            return Grade(Verdict(str(reply["verdict"])), str(reply["reason"]))
        except (KeyError, ValueError) as error:
            raise _Gone from error

    def _take(self) -> _Worker:
        while True:
            with self._lock:
                if self._closed:
                    raise GradingError("The grader is closed; make a new Grader to grade more.")
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._start()
            if worker.process.poll() is None:
                return worker
            self._discard(worker)

    def _start(self) -> _Worker:
        settings = {
            "path": sys.path,
            "memory_mb": self.config.memory_mb,
            "alarm_s": self.config.timeout_s + 1.0,
        }
        environment = {k: v for k in _KEPT_ENVIRONMENT if (v := os.environ.get(k)) is not None}
        environment |= {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SCRIPT), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise GradingError(
                f"A grader process could not be started ({error}); check that {sys.executable!r} is"
                " there and may be run."
            ) from error
        worker = _Worker(process)
        try:
            worker.receive(_START_S)
        except (_Gone, _Hung) as error:
            worker.end()
            raise GradingError(
                "A grader process ended or hung before it was ready"
                f" (exit status {process.returncode});"
                f" grading.memory_mb is {self.config.memory_mb}: try more, or check"
                " the installation with `python -c 'import sympy, math_verify'`."
            ) from error
        except BaseException:
            worker.end()
            raise
        return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(worker)
                return
        worker.end()

    def _discard(self, worker: _Worker) -> None:
        worker.end()

    def close(self) -> None:
        """End the idle processes; busy ones end with their pair. The pool takes no more pairs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        if os.getpid() == self._pid:
            for worker in idle:
                worker.end()


Compare = Callable[[str, str], Awaitable[Grade]]


async def group_answers(answers: Sequence[str], compare: Compare) -> list[int]:
    """Class numbers from 0 in order of first appearance; see `Grader.group`.

    Answers with one exact value or one normal form meet in a dictionary; the others are compared
    only with the first members of those classes that a rough value at fixed points does not rule
    out.
    """
    known: dict[str, int] = {}
    by_bucket: dict[object, int] = {}
    firsts: list[str] = []
    for answer in answers:
        if answer in known:
            continue
        key = canonical_key(answer)
        number = by_bucket.get(key) if key is not None else None
        if number is None:
            number = await _matching_class(answer, firsts, compare)
        if number is None:
            number = len(firsts)
            firsts.append(answer)
        known[answer] = number
        if key is not None:
            by_bucket.setdefault(key, number)
    return [known[answer] for answer in answers]


async def _matching_class(answer: str, firsts: Sequence[str], compare: Compare) -> int | None:
    for number, first in enumerate(firsts):
        if (
            could_be_equal(answer, first)
            and (await compare(answer, first)).verdict is Verdict.RIGHT
        ):
            return number
    return None


_CACHED_PAIRS = 50_000
_CACHED_CHARS = 400
_LONG_CHARS = 20_000
_BATCH = 64


class _Cache:
    """The last judgements of short pairs; safe from any thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Grade] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, pair: tuple[str, str]) -> Grade | None:
        with self._lock:
            return self._kept.get(pair)

    def put(self, pair: tuple[str, str], judgement: Grade) -> None:
        if len(pair[0]) + len(pair[1]) > _CACHED_CHARS or judgement in (TIMED_OUT, DIED):
            return
        with self._lock:
            self._kept[pair] = judgement
            if len(self._kept) > _CACHED_PAIRS:
                self._kept.popitem(last=False)


class Grader:
    """Decides whether answers are equal, in worker processes where exact arithmetic is not enough.

    Safe from any thread and from several event loops, one after another or at once. The processes
    start with the first pair that needs one. Cancelling a call leaves the grader whole: the pair is
    finished in the background and its verdict dropped.
    """

    def __init__(self, config: GradingConfig | None = None) -> None:
        self.config = config or GradingConfig()
        self._pool = Pool(self.config)
        self._cache = _Cache()
        self._threads = ThreadPoolExecutor(self._pool.size, thread_name_prefix="grader")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def engine_calls(self) -> int:
        """Pairs that were given to a worker process so far."""
        return self._pool.pairs

    def compare_sync(self, pred: str, gold: str) -> Grade:
        """`compare` for threads: blocks for at most the pair's time limit (and a process's
        start)."""
        pair = (pred, gold)
        judgement = self._cache.get(pair) or quick(pred, gold) or self._pool.ask(pred, gold)
        self._cache.put(pair, judgement)
        return judgement

    async def compare(self, pred: str, gold: str) -> Grade:
        """Whether `pred` answers as `gold` does. Either may be bare, in `$...$`, in `\\boxed{}`,
        or a sentence with the answer in it. Raises `GradingError` if no worker can be started."""
        pair = (pred, gold)
        judgement = self._cache.get(pair)
        if judgement is None and len(pred) + len(gold) <= _LONG_CHARS:
            judgement = quick(pred, gold)
        if judgement is None:
            loop = asyncio.get_running_loop()
            judgement = await loop.run_in_executor(self._threads, self.compare_sync, pred, gold)
        self._cache.put(pair, judgement)
        return judgement

    async def compare_many(self, pairs: Iterable[tuple[str, str]]) -> list[Grade]:
        """`compare` for each (pred, gold), in order; equal pairs are judged once."""
        listed = list(pairs)
        judged: dict[tuple[str, str], Grade] = {}
        waiting = iter(dict.fromkeys(listed))

        async def work() -> None:
            for number, pair in enumerate(waiting):
                judged[pair] = await self.compare(*pair)
                if number % _BATCH == 0:
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(2 * self._pool.size):
                tasks.create_task(work())
        return [judged[pair] for pair in listed]

    async def group(self, answers: Sequence[str]) -> list[int]:
        """The class number of each answer, from 0 in order of first appearance. An answer joins the
        first class whose first member it equals; one that cannot be judged is a class of its own,
        with the identical strings."""
        return await group_answers(answers, self.compare)

    def verifier(self, reference: str) -> Verifier:
        """A Verifier for one problem: the only object that holds its reference."""
        return _ReferenceVerifier(self, reference)

    def close(self) -> None:
        """End the workers; calls still in flight get their verdict first."""
        self._threads.shutdown(wait=True)
        self._pool.close()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)


@dataclass(frozen=True, slots=True)
class _ReferenceVerifier:
    """Judges answers against one reference."""

    grader: Grader
    reference: str

    async def judge(self, answer: str) -> Verdict:
        """Whether the answer equals the reference."""
        return (await self.grader.compare(answer, self.reference)).verdict


_shared: Grader | None = None
_shared_lock = threading.Lock()


def _shared_grader() -> Grader:
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Grader()
            atexit.register(_shared.close)
        return _shared


def grade(pred: str, gold: str) -> Grade:
    """Whether `pred` answers as `gold` does; blocks. For any thread, also inside a running event
    loop (where `Grader.compare` would not block it). Uses one pool of workers a process."""
    return _shared_grader().compare_sync(pred, gold)


def grade_many(pairs: Iterable[tuple[str, str]]) -> list[Grade]:
    """`grade` for each (pred, gold), in order, spread over the workers."""
    grader = _shared_grader()
    listed = list(pairs)
    unique = list(dict.fromkeys(listed))
    with ThreadPoolExecutor(grader.config.workers or 4) as threads:
        judged = dict(
            zip(unique, threads.map(lambda pair: grader.compare_sync(*pair), unique), strict=True)
        )
    return [judged[pair] for pair in listed]
