"""The doors: `Grader` for asyncio, `grade` and `grade_many` for everything else."""

import asyncio
import atexit
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rstar_math.config import GradingConfig
from rstar_math.grading.grouping import group_answers
from rstar_math.grading.judgement import Judgement
from rstar_math.grading.pool import DIED, TIMED_OUT, Pool
from rstar_math.grading.rules import quick
from rstar_math.protocols import Verifier
from rstar_math.types import Verdict

_CACHED_PAIRS = 50_000
_CACHED_CHARS = 400
_LONG_CHARS = 20_000
_BATCH = 64


class _Cache:
    """The last judgements of short pairs; safe from any thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Judgement] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, pair: tuple[str, str]) -> Judgement | None:
        with self._lock:
            return self._kept.get(pair)

    def put(self, pair: tuple[str, str], judgement: Judgement) -> None:
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

    def compare_now(self, pred: str, gold: str) -> Judgement:
        """`compare` for threads: blocks for at most the pair's time limit (and a process's
        start)."""
        pair = (pred, gold)
        judgement = self._cache.get(pair) or quick(pred, gold) or self._pool.ask(pred, gold)
        self._cache.put(pair, judgement)
        return judgement

    async def compare(self, pred: str, gold: str) -> Judgement:
        """Whether `pred` answers as `gold` does. Either may be bare, in `$...$`, in `\\boxed{}`,
        or a sentence with the answer in it. Raises `GradingError` if no worker can be started."""
        pair = (pred, gold)
        judgement = self._cache.get(pair)
        if judgement is None and len(pred) + len(gold) <= _LONG_CHARS:
            judgement = quick(pred, gold)
        if judgement is None:
            loop = asyncio.get_running_loop()
            judgement = await loop.run_in_executor(self._threads, self.compare_now, pred, gold)
        self._cache.put(pair, judgement)
        return judgement

    async def compare_many(self, pairs: Iterable[tuple[str, str]]) -> list[Judgement]:
        """`compare` for each (pred, gold), in order; equal pairs are judged once."""
        listed = list(pairs)
        judged: dict[tuple[str, str], Judgement] = {}
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


def grade(pred: str, gold: str) -> Judgement:
    """Whether `pred` answers as `gold` does; blocks. For any thread, also inside a running event
    loop (where `Grader.compare` would not block it). Uses one pool of workers a process."""
    return _shared_grader().compare_now(pred, gold)


def grade_many(pairs: Iterable[tuple[str, str]]) -> list[Judgement]:
    """`grade` for each (pred, gold), in order, spread over the workers."""
    grader = _shared_grader()
    listed = list(pairs)
    unique = list(dict.fromkeys(listed))
    with ThreadPoolExecutor(grader.config.workers or 4) as threads:
        judged = dict(
            zip(unique, threads.map(lambda pair: grader.compare_now(*pair), unique), strict=True)
        )
    return [judged[pair] for pair in listed]
