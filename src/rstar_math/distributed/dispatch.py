"""Assigns problems to workers that join and leave; each problem is finished exactly once.

A worker is a `WorkerHandle`; this module knows no transport. The problems of a lost worker are
requeued and searched by another worker. A result that a lost worker still sends is ignored. A
worker never gets more problems than its capacity. No new problem is assigned while the consumer of
the results is busy.
"""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from time import monotonic, process_time
from typing import Any, Protocol

from rstar_math.errors import ClusterError, ModelUnreachableError, RstarError
from rstar_math.runs.results import PackedResult
from rstar_math.search.strategies import Strategy
from rstar_math.types import Cost, Problem

STRAGGLER_FACTOR = 4.0
"""A running search is a straggler once it takes this many times the mean search time."""


@dataclass(slots=True)
class WorkerStats:
    """Statistics of one worker. Times are `time.monotonic` seconds."""

    name: str
    node: str
    joined_at: float = field(default_factory=monotonic)
    left_at: float | None = None
    left_reason: str = ""
    done: int = 0
    """Finished searches."""
    requeued: int = 0
    """Searches that it did not finish and that another worker started again."""
    busy_s: float = 0.0
    """Sum of the seconds of its finished searches, which overlap."""
    cost: Cost = field(default_factory=Cost)
    running: dict[str, float] = field(default_factory=dict)
    """Start time of each running search, by problem id."""

    def start(self, problem: str) -> None:
        """Record that a search started."""
        self.running[problem] = monotonic()

    def end(self, problem: str) -> None:
        """Record that a search ended, with a result or an error."""
        self.busy_s += monotonic() - self.running.pop(problem)

    def add(self, cost: Cost) -> None:
        """Record the result of a finished search."""
        self.done += 1
        self.cost.add(cost)

    def requeue(self, problem: str) -> None:
        """Record that a search did not finish here."""
        if self.running.pop(problem, None) is not None:
            self.requeued += 1

    @property
    def seconds(self) -> float:
        """Seconds since the worker joined, or until it left."""
        return max((self.left_at or monotonic()) - self.joined_at, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """The statistics as JSON; rates are averages over `seconds`."""
        return {
            "name": self.name,
            "node": self.node,
            "seconds": round(self.seconds, 3),
            "problems": self.done,
            "problems_a_minute": round(60 * self.done / self.seconds, 3),
            "tokens": self.cost.sampled_tokens,
            "tokens_a_second": round(self.cost.sampled_tokens / self.seconds, 1),
            "programs": self.cost.code_runs,
            "given_back": self.requeued,
            "left": self.left_reason or None,
        }


class Progress:
    """Statistics of all workers, including those that left."""

    def __init__(self) -> None:
        self.workers: list[WorkerStats] = []
        self.began_at = monotonic()
        self.ended_at: float | None = None
        self._cpu_s = process_time()

    def add_worker(self, name: str, node: str) -> WorkerStats:
        """The empty statistics of a new worker."""
        stats = WorkerStats(name, node)
        self.workers.append(stats)
        return stats

    @property
    def done(self) -> int:
        """Finished searches."""
        return sum(stats.done for stats in self.workers)

    def stragglers(self) -> list[dict[str, Any]]:
        """Running searches that take `STRAGGLER_FACTOR` times the mean, the oldest first."""
        now = monotonic()
        mean = sum(stats.busy_s for stats in self.workers) / max(self.done, 1)
        found = [
            {"problem": problem, "worker": stats.name, "seconds": round(now - started_at, 1)}
            for stats in self.workers
            if stats.left_at is None
            for problem, started_at in stats.running.items()
            if self.done and now - started_at > STRAGGLER_FACTOR * mean
        ]
        return sorted(found, key=lambda straggler: -float(str(straggler["seconds"])))

    def slow_workers(self) -> list[str]:
        """Names of workers whose mean search time is above twice the median.

        Only present workers with at least three finished searches count. Empty if fewer than three
        workers count.
        """
        means = {
            stats.name: stats.busy_s / stats.done
            for stats in self.workers
            if stats.left_at is None and stats.done >= 3
        }
        if len(means) < 3:
            return []
        middle = median(means.values())
        return [name for name, mean in means.items() if mean > 2 * middle]

    def line(self) -> str:
        """One line of text: number of workers, rates, tokens, stragglers, slow workers."""
        present = sum(stats.left_at is None for stats in self.workers)
        seconds = max(monotonic() - self.began_at, 1e-9)
        tokens = sum(stats.cost.sampled_tokens for stats in self.workers)
        items = [
            f"{present} worker{'' if present == 1 else 's'}",
            f"{60 * self.done / seconds:.0f} problems/min",
            f"{tokens / seconds:.0f} tokens/s",
            f"{tokens:,} tokens so far",
        ]
        if stragglers := self.stragglers():
            plural = "" if len(stragglers) == 1 else "s"
            oldest_s = stragglers[0]["seconds"]
            items.append(f"{len(stragglers)} straggler{plural}, the oldest {oldest_s:.0f} s")
        if slow := self.slow_workers():
            items.append(f"slow: {', '.join(slow[:3])}")
        return ", ".join(items)

    def as_json(self) -> dict[str, Any]:
        """The statistics of the search and of each worker, as JSON."""
        seconds = max((self.ended_at or monotonic()) - self.began_at, 1e-9)
        return {
            "seconds": round(seconds, 3),
            "driver_cpu_share": round((process_time() - self._cpu_s) / seconds, 4),
            "problems": self.done,
            "searched_again": sum(stats.requeued for stats in self.workers),
            "workers_lost": sum(stats.left_at is not None for stats in self.workers),
            "slow_workers": self.slow_workers(),
            "workers": [stats.as_json() for stats in self.workers],
        }


MAX_LOSSES = 5
"""The search fails once this many workers were lost while they searched the same problem."""


class WorkerLost(Exception):
    """The worker died or cannot be reached; the message says why."""


class WorkerHandle(Protocol):
    """A worker as the driver sees it."""

    name: str
    node: str

    def capacity(self, strategy: Strategy) -> int:
        """Number of concurrent searches that keep the worker busy."""
        ...

    async def search(self, problem: Problem, strategy: Strategy, *, guided: bool) -> PackedResult:
        """The result of one search. Raises `WorkerLost`, or the `RstarError` of the search."""
        ...


class _Worker:
    """A worker that joined, with its statistics and its capacity for the current strategy."""

    def __init__(self, handle: WorkerHandle, stats: WorkerStats, capacity: int) -> None:
        self.handle = handle
        self.stats = stats
        self.capacity = capacity
        self.lost = False

    @property
    def load(self) -> float:
        """Running searches divided by capacity."""
        return len(self.stats.running) / self.capacity


class Dispatcher:
    """Assigns problems to workers. Workers can be added and removed at any time."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._workers: dict[str, _Worker] = {}
        self._available: list[tuple[float, int, _Worker]] = []
        """Heap of workers with free capacity: (load, insertion number, worker)."""
        self._insertions = 0
        self._losses: Counter[str] = Counter()
        """Workers lost while they searched a problem, by problem id."""
        self._requeued: deque[Problem] = deque()
        self._events: asyncio.Queue[asyncio.Task[PackedResult] | None] = asyncio.Queue()
        """Ended searches; None says that the set of workers changed."""
        self._running: dict[asyncio.Task[PackedResult], tuple[Problem, _Worker]] = {}
        self._strategy = Strategy("mcts")
        self._no_worker_error: RstarError | None = None
        """Why the last worker was lost or none can start; raised if no worker is left."""

    def __len__(self) -> int:
        return len(self._workers)

    def __contains__(self, name: str) -> bool:
        return name in self._workers

    def add_worker(self, handle: WorkerHandle) -> None:
        """Add a worker; it gets problems at once."""
        stats = self.progress.add_worker(handle.name, handle.node)
        worker = _Worker(handle, stats, handle.capacity(self._strategy))
        self._workers[handle.name] = worker
        self._offer(worker)
        self._events.put_nowait(None)

    def remove_worker(self, name: str, reason: str) -> None:
        """Remove a worker and requeue its running searches. Does nothing if it is not there."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        worker.lost = True
        worker.stats.left_at, worker.stats.left_reason = monotonic(), reason
        for task, (_, owner) in self._running.items():
            if owner is worker:
                task.cancel()
        self._events.put_nowait(None)

    def fail(self, error: RstarError) -> None:
        """Report that no worker can start. The search raises `error` unless a worker is left."""
        self._no_worker_error = error
        self._events.put_nowait(None)

    async def iter_results(
        self, problems: Iterable[Problem], strategy: Strategy, *, guided: bool
    ) -> AsyncGenerator[tuple[Problem, PackedResult], None]:
        """Yields each problem with its result, in the order in which searches finish.

        After an `RstarError` that is not caused by one worker alone, running searches are
        cancelled, finished ones are still yielded, and the error is raised. Closing the generator
        cancels all running searches.
        """
        self._strategy = strategy
        for worker in self._workers.values():
            worker.capacity = worker.handle.capacity(strategy)
            self._offer(worker)
        waiting = iter(problems)
        failure: RstarError | None = None
        try:
            while True:
                if failure is None:
                    failure = self._assign(waiting, guided)
                if not self._running and (failure is not None or self._all_assigned(waiting)):
                    break
                for task in await self._ended_searches():
                    problem, worker = self._running.pop(task)
                    try:
                        result = self._result_of(task, problem, worker)
                    except RstarError as error:
                        failure = failure or error
                        for running in self._running:
                            running.cancel()
                        continue
                    finally:
                        self._offer(worker)
                    if result is not None:
                        yield problem, result
            if failure is not None:
                raise failure
        finally:
            await self._cancel_all()

    def _assign(self, waiting: Iterator[Problem], guided: bool) -> RstarError | None:
        """Assign problems to the least loaded workers; the error if there is no worker."""
        if not self._workers and self._no_worker_error is not None:
            return self._no_worker_error
        while (worker := self._least_loaded()) is not None:
            problem = self._requeued.popleft() if self._requeued else next(waiting, None)
            if problem is None:
                self._offer(worker)
                return None
            search = worker.handle.search(problem, self._strategy, guided=guided)
            task = asyncio.ensure_future(search)
            self._running[task] = (problem, worker)
            worker.stats.start(problem.id)
            task.add_done_callback(self._events.put_nowait)
            self._offer(worker)
        return None

    def _all_assigned(self, waiting: Iterator[Problem]) -> bool:
        """Whether no problem is left. A problem taken from `waiting` to find out is requeued."""
        if not self._requeued and (problem := next(waiting, None)) is not None:
            self._requeued.append(problem)
        return not self._requeued

    async def _ended_searches(self) -> list[asyncio.Task[PackedResult]]:
        """Waits for an event; the searches that ended, none if only the workers changed."""
        events = [await self._events.get()]
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return [task for task in events if task in self._running]

    def _result_of(
        self, task: "asyncio.Task[PackedResult]", problem: Problem, worker: _Worker
    ) -> PackedResult | None:
        """The result of an ended search; None if the problem is requeued.

        Raises the `RstarError` of the search.
        """
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or worker.lost or isinstance(error, WorkerLost | ModelUnreachableError):
            if isinstance(error, ModelUnreachableError):
                self._no_worker_error = error
            if error is not None:
                self.remove_worker(worker.handle.name, str(error))
            self._requeue(problem, worker)
            return None
        worker.stats.end(problem.id)
        result = task.result()
        self._no_worker_error = None
        worker.stats.add(result.result.cost)
        return result

    def _requeue(self, problem: Problem, worker: _Worker) -> None:
        """Queue a problem again. Raises `ClusterError` after `MAX_LOSSES` lost workers."""
        worker.stats.requeue(problem.id)
        if worker.lost:
            self._losses[problem.id] += 1
        if self._losses[problem.id] >= MAX_LOSSES and self._no_worker_error is None:
            raise ClusterError(
                f"{MAX_LOSSES} workers were lost while they searched the problem {problem.id!r} "
                f"(last reason: {worker.stats.left_reason}). Check the workers' logs, then remove "
                "the problem, or run the same command again to resume."
            )
        self._requeued.append(problem)

    def _offer(self, worker: _Worker) -> None:
        """Put a worker with free capacity on the heap."""
        if not worker.lost and len(worker.stats.running) < worker.capacity:
            self._insertions += 1
            heapq.heappush(self._available, (worker.load, self._insertions, worker))

    def _least_loaded(self) -> _Worker | None:
        """The worker with the lowest load; None if all are full. Skips outdated heap entries."""
        while self._available:
            load, _, worker = heapq.heappop(self._available)
            if not worker.lost and load == worker.load:
                return worker
        return None

    async def _cancel_all(self) -> None:
        """Cancel all running searches and clear the queues."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not self._events.empty():
            self._events.get_nowait()
        for problem, worker in self._running.values():
            worker.stats.requeue(problem.id)
        self._running.clear()
        self._requeued.clear()
        self.progress.ended_at = monotonic()
