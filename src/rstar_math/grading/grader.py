"""Grades pairs of answers, groups equal ones: `Grader` for asyncio, `grade` for other code."""

import asyncio
import atexit
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rstar_math.config.sections import GradingConfig
from rstar_math.grading.pool import DIED, TIMED_OUT, Pool
from rstar_math.grading.rules import Grade, canonical_key, could_be_equal, grade_exactly
from rstar_math.protocols import Verifier
from rstar_math.types import Verdict

Compare = Callable[[str, str], Awaitable[Grade]]


async def group_answers(answers: Sequence[str], compare: Compare) -> list[int]:
    """The group of each answer, numbered from 0 in order of first appearance.

    See `Grader.group`. Answers with the same value or canonical form are found in a dictionary.
    Others are compared with the first answer of each group, unless their approximate values
    differ.
    """
    group_of: dict[str, int] = {}
    group_by_key: dict[object, int] = {}
    representatives: list[str] = []
    for answer in answers:
        if answer in group_of:
            continue
        key = canonical_key(answer)
        group = group_by_key.get(key) if key is not None else None
        if group is None:
            group = await _matching_group(answer, representatives, compare)
        if group is None:
            group = len(representatives)
            representatives.append(answer)
        group_of[answer] = group
        if key is not None:
            group_by_key.setdefault(key, group)
    return [group_of[answer] for answer in answers]


async def _matching_group(
    answer: str, representatives: Sequence[str], compare: Compare
) -> int | None:
    for group, other in enumerate(representatives):
        if (
            could_be_equal(answer, other)
            and (await compare(answer, other)).verdict is Verdict.RIGHT
        ):
            return group
    return None


_MAX_CACHED_PAIRS = 10_000
_MAX_CACHED_CHARS = 400
"""Longer pairs are not cached."""
_MAX_LOOP_CHARS = 20_000
"""Longer pairs are never graded in the thread of the event loop."""
_PAIRS_PER_YIELD = 64
"""Pairs after which a batch gives way to other tasks of the event loop."""


class _GradeCache:
    """The grades of the short pairs that were added last. Safe from any thread."""

    def __init__(self) -> None:
        self._grades: OrderedDict[tuple[str, str], Grade] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, pair: tuple[str, str]) -> Grade | None:
        with self._lock:
            return self._grades.get(pair)

    def put(self, pair: tuple[str, str], grade: Grade) -> None:
        if len(pair[0]) + len(pair[1]) > _MAX_CACHED_CHARS or grade in (TIMED_OUT, DIED):
            return
        with self._lock:
            self._grades[pair] = grade
            if len(self._grades) > _MAX_CACHED_PAIRS:
                self._grades.popitem(last=False)


class Grader:
    """Decides whether answers are equal.

    Exact arithmetic decides most pairs. Worker processes decide the others; they start with the
    first pair that needs one. Safe from any thread and from several event loops, also at once.
    Cancelling a call leaves the grader usable: the pair is finished in the background and its
    grade discarded.
    """

    def __init__(self, config: GradingConfig | None = None) -> None:
        self.config = config or GradingConfig()
        self._pool = Pool(self.config)
        self._cache = _GradeCache()
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
        """Number of pairs given to a worker process so far."""
        return self._pool.pair_count

    def compare_sync(self, pred: str, gold: str) -> Grade:
        """Like `compare`, for synchronous code.

        Blocks for at most `grading.timeout_s`, or twice that and the start of a process if one
        fails.
        """
        pair = (pred, gold)
        result = self._cache.get(pair) or grade_exactly(pred, gold) or self._pool.grade(pred, gold)
        self._cache.put(pair, result)
        return result

    async def compare(self, pred: str, gold: str) -> Grade:
        """The grade of `pred` against the reference `gold`.

        Each may be a bare answer, in `$...$`, in `\\boxed{}`, or a sentence that contains the
        answer. Raises `GradingError` if no worker can be started.
        """
        pair = (pred, gold)
        result = self._cache.get(pair)
        if result is None and len(pred) + len(gold) <= _MAX_LOOP_CHARS:
            result = grade_exactly(pred, gold)
        if result is None:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._threads, self.compare_sync, pred, gold)
        self._cache.put(pair, result)
        return result

    async def compare_many(self, pairs: Iterable[tuple[str, str]]) -> list[Grade]:
        """The grade of each (pred, gold), in order. Equal pairs are graded once."""
        pairs = list(pairs)
        grades: dict[tuple[str, str], Grade] = {}
        remaining = iter(dict.fromkeys(pairs))

        async def work() -> None:
            for count, pair in enumerate(remaining):
                grades[pair] = await self.compare(*pair)
                if count % _PAIRS_PER_YIELD == 0:
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(2 * self._pool.size):
                tasks.create_task(work())
        return [grades[pair] for pair in pairs]

    async def group(self, answers: Sequence[str]) -> list[int]:
        """The group of each answer, numbered from 0 in order of first appearance.

        An answer joins the first group whose first answer it equals. Answers that cannot be
        compared share a group only if they are identical strings.
        """
        return await group_answers(answers, self.compare)

    def verifier(self, reference: str) -> Verifier:
        """A Verifier for one problem. No other object of a search holds the reference."""
        return _ReferenceVerifier(self, reference)

    def close(self) -> None:
        """End the workers after the running calls have their grades."""
        self._threads.shutdown(wait=True)
        self._pool.close()

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)


@dataclass(frozen=True, slots=True)
class _ReferenceVerifier:
    """Grades answers against one reference."""

    grader: Grader
    reference: str

    async def judge(self, answer: str) -> Verdict:
        """The verdict on whether the answer equals the reference."""
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
    """The grade of `pred` against the reference `gold`. Blocks.

    Any thread may call it. In a running event loop, use `Grader.compare`, which does not block it.
    All calls share one pool of workers per process.
    """
    return _shared_grader().compare_sync(pred, gold)


def grade_many(pairs: Iterable[tuple[str, str]]) -> list[Grade]:
    """The grade of each (pred, gold), in order. The workers share the pairs. Blocks."""
    grader = _shared_grader()
    pairs = list(pairs)
    unique = list(dict.fromkeys(pairs))
    with ThreadPoolExecutor(grader.config.workers or 4) as threads:
        results = threads.map(lambda pair: grader.compare_sync(*pair), unique)
        grades = dict(zip(unique, results, strict=True))
    return [grades[pair] for pair in pairs]
