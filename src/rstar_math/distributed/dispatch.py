"""Hands out problems to workers that come and go; each problem finishes exactly once.

Knows no transport: a worker is a `WorkerHandle`. A worker that is lost gives its problems back, and
they are searched elsewhere; what it may still have to say is not listened to. No more is under way
than the workers have room for, and nothing new is handed out while whoever takes the results is
busy.
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

STRAGGLING = 4.0
"""Times the mean search after which one under way is called a straggler."""


@dataclass(slots=True)
class WorkerStats:
    """What one worker did. Times are `time.monotonic`."""

    name: str
    node: str
    joined_at: float = field(default_factory=monotonic)
    left_at: float | None = None
    why: str = ""
    """Why it left."""
    done: int = 0
    requeued: int = 0
    """Searches that it did not finish and that were begun anew elsewhere."""
    busy_s: float = 0.0
    """Seconds of its finished searches, several side by side."""
    cost: Cost = field(default_factory=Cost)
    running: dict[str, float] = field(default_factory=dict)
    """By problem, since when."""

    def began(self, problem: str) -> None:
        """It was given a problem."""
        self.running[problem] = monotonic()

    def ended(self, problem: str) -> None:
        """Its search of a problem came to an end."""
        self.busy_s += monotonic() - self.running.pop(problem)

    def add(self, cost: Cost) -> None:
        """It finished a search."""
        self.done += 1
        self.cost.add(cost)

    def lost(self, problem: str) -> None:
        """It did not finish a search."""
        if self.running.pop(problem, None) is not None:
            self.requeued += 1

    @property
    def seconds(self) -> float:
        """How long it has been here."""
        return max((self.left_at or monotonic()) - self.joined_at, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """Its figures under plain names; rates are over the time that it was here."""
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
            "left": self.why or None,
        }


class Progress:
    """All workers, those that left too."""

    def __init__(self) -> None:
        self.accounts: list[WorkerStats] = []
        self.began_at = monotonic()
        self.ended_at: float | None = None
        self._cpu = process_time()

    def joined(self, name: str, node: str) -> WorkerStats:
        """The account of a new worker."""
        account = WorkerStats(name, node)
        self.accounts.append(account)
        return account

    def left(self, account: WorkerStats, why: str) -> None:
        """A worker is gone."""
        account.left_at, account.why = monotonic(), why

    @property
    def done(self) -> int:
        """Finished searches."""
        return sum(account.done for account in self.accounts)

    def stragglers(self) -> list[dict[str, Any]]:
        """Searches under way for much longer than they take in the mean, the oldest first."""
        now = monotonic()
        mean = sum(account.busy_s for account in self.accounts) / max(self.done, 1)
        found = [
            {"problem": problem, "worker": account.name, "seconds": round(now - since, 1)}
            for account in self.accounts
            if account.left_at is None
            for problem, since in account.running.items()
            if self.done and now - since > STRAGGLING * mean
        ]
        return sorted(found, key=lambda one: -float(str(one["seconds"])))

    def slow_workers(self) -> list[str]:
        """Workers that take more than twice the median time for a search; of three or more that
        have done three each."""
        means = {
            account.name: account.busy_s / account.done
            for account in self.accounts
            if account.left_at is None and account.done >= 3
        }
        if len(means) < 3:
            return []
        middle = median(means.values())
        return [name for name, mean in means.items() if mean > 2 * middle]

    def line(self) -> str:
        """One line for a person: workers, rates, tokens so far, who is slow."""
        here = sum(account.left_at is None for account in self.accounts)
        seconds = max(monotonic() - self.began_at, 1e-9)
        tokens = sum(account.cost.sampled_tokens for account in self.accounts)
        parts = [
            f"{here} worker{'' if here == 1 else 's'}",
            f"{60 * self.done / seconds:.0f} problems/min",
            f"{tokens / seconds:.0f} tokens/s",
            f"{tokens:,} tokens so far",
        ]
        if late := self.stragglers():
            parts.append(f"{len(late)} stragglers, the oldest {late[0]['seconds']:.0f} s")
        if slow := self.slow_workers():
            parts.append(f"slow: {', '.join(slow[:3])}")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """All figures under plain names."""
        seconds = max((self.ended_at or monotonic()) - self.began_at, 1e-9)
        return {
            "seconds": round(seconds, 3),
            "driver_cpu_share": round((process_time() - self._cpu) / seconds, 4),
            "problems": self.done,
            "searched_again": sum(account.requeued for account in self.accounts),
            "workers_lost": sum(account.left_at is not None for account in self.accounts),
            "slow_workers": self.slow_workers(),
            "workers": [account.as_json() for account in self.accounts],
        }


LOSSES = 5
"""Workers that may be lost with one problem under way, before it is held to be the cause."""


class WorkerLost(Exception):
    """The worker is gone, or cannot be reached; says why."""


class WorkerHandle(Protocol):
    """A worker, seen from the driver."""

    name: str
    node: str

    def capacity(self, strategy: Strategy) -> int:
        """Problems that keep it busy."""
        ...

    async def search(self, problem: Problem, strategy: Strategy, *, guided: bool) -> PackedResult:
        """A finished search. Raises `WorkerLost`, or the `RstarError` of the search."""
        ...


class _WorkerLoad:
    """A worker that is here, and what it has under way."""

    def __init__(self, hand: WorkerHandle, account: WorkerStats, room: int) -> None:
        self.hand = hand
        self.account = account
        self.room = room
        self.gone = False


class Dispatch:
    """Problems over workers. `join` and `leave` may be called at any time."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._hands: dict[str, _WorkerLoad] = {}
        self._spare: list[tuple[float, int, _WorkerLoad]] = []
        self._tickets = 0
        self._losses: Counter[str] = Counter()
        self._back: deque[Problem] = deque()
        self._ended: asyncio.Queue[asyncio.Task[PackedResult] | None] = asyncio.Queue()
        self._running: dict[asyncio.Task[PackedResult], tuple[Problem, _WorkerLoad]] = {}
        self._strategy = Strategy("mcts")
        self._stuck: RstarError | None = None

    def __len__(self) -> int:
        return len(self._hands)

    def __contains__(self, name: str) -> bool:
        return name in self._hands

    def join(self, hand: WorkerHandle) -> None:
        """One more worker."""
        load = _WorkerLoad(
            hand, self.progress.joined(hand.name, hand.node), hand.capacity(self._strategy)
        )
        self._hands[hand.name] = load
        self._offer(load)
        self._ended.put_nowait(None)

    def leave(self, name: str, why: str) -> None:
        """A worker is gone: what it had under way is searched elsewhere."""
        load = self._hands.pop(name, None)
        if load is None:
            return
        load.gone = True
        self.progress.left(load.account, why)
        for task, (_, at) in self._running.items():
            if at is load:
                task.cancel()
        self._ended.put_nowait(None)

    def fail(self, error: RstarError) -> None:
        """No worker can be had, for this reason: it ends the search unless some are here."""
        self._stuck = error
        self._ended.put_nowait(None)

    async def iter_results(
        self, problems: Iterable[Problem], strategy: Strategy, *, guided: bool
    ) -> AsyncGenerator[tuple[Problem, PackedResult], None]:
        """Each problem with its search, as they are finished. Raises the first `RstarError` that is
        not a single worker's trouble, after every finished search was given out."""
        self._strategy = strategy
        for load in self._hands.values():
            load.room = load.hand.capacity(strategy)
            self._offer(load)
        waiting = iter(problems)
        failure: RstarError | None = None
        try:
            while True:
                if failure is None:
                    failure = self._hand_out(waiting, guided)
                if not self._running and (failure is not None or self._nothing_left(waiting)):
                    break
                for task in await self._some_ended():
                    problem, load = self._running.pop(task)
                    try:
                        found = self._outcome(task, problem, load)
                    except RstarError as error:
                        failure = failure or error
                        self._drop_unfinished()
                        continue
                    finally:
                        self._offer(load)
                    if found is not None:
                        yield problem, found
            if failure is not None:
                raise failure
        finally:
            await self._stop()

    def _hand_out(self, waiting: Iterator[Problem], guided: bool) -> RstarError | None:
        """Give problems to whoever has room, the least busy first; the error if nobody can."""
        if not self._hands and self._stuck is not None:
            return self._stuck
        while (load := self._least_busy()) is not None:
            problem = self._back.popleft() if self._back else next(waiting, None)
            if problem is None:
                self._offer(load)
                return None
            work = load.hand.search(problem, self._strategy, guided=guided)
            task = asyncio.ensure_future(work)
            self._running[task] = (problem, load)
            load.account.began(problem.id)
            task.add_done_callback(self._ended.put_nowait)
            self._offer(load)
        return None

    def _nothing_left(self, waiting: Iterator[Problem]) -> bool:
        """Whether all problems were handed out; one that was not is put back."""
        if not self._back and (problem := next(waiting, None)) is not None:
            self._back.append(problem)
        return not self._back

    async def _some_ended(self) -> list[asyncio.Task[PackedResult]]:
        """Searches that ended since the last call; none where only the workers changed."""
        ended = [await self._ended.get()]
        while not self._ended.empty():
            ended.append(self._ended.get_nowait())
        return [task for task in ended if task in self._running]

    def _outcome(
        self, task: "asyncio.Task[PackedResult]", problem: Problem, load: _WorkerLoad
    ) -> PackedResult | None:
        """The finished search; None where the problem goes back to be searched elsewhere."""
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or load.gone or isinstance(error, WorkerLost | ModelUnreachableError):
            if isinstance(error, ModelUnreachableError):
                self._stuck = error
            if error is not None:
                self.leave(load.hand.name, str(error))
            self._give_back(problem, load)
            return None
        load.account.ended(problem.id)
        found = task.result()
        self._stuck = None
        load.account.add(found.result.cost)
        return found

    def _give_back(self, problem: Problem, load: _WorkerLoad) -> None:
        """Have a problem searched again. Raises `ClusterError` where it seems to be the cause."""
        load.account.lost(problem.id)
        if load.gone:
            self._losses[problem.id] += 1
        if self._losses[problem.id] >= LOSSES and self._stuck is None:
            raise ClusterError(
                f"{LOSSES} workers were lost while the problem {problem.id!r} was under way, the "
                f"last because: {load.account.why}. Look at the workers' logs; leave the problem "
                "out, or type the same again to go on."
            )
        self._back.append(problem)

    def _offer(self, load: _WorkerLoad) -> None:
        """Remember a worker with room."""
        if not load.gone and len(load.account.running) < load.room:
            self._tickets += 1
            share = len(load.account.running) / load.room
            heapq.heappush(self._spare, (share, self._tickets, load))

    def _least_busy(self) -> _WorkerLoad | None:
        """A worker with room, by the share of it that is taken."""
        while self._spare:
            share, _, load = heapq.heappop(self._spare)
            if not load.gone and share == len(load.account.running) / load.room:
                return load
        return None

    def _drop_unfinished(self) -> None:
        """After a failure: what is not finished is ended, what is finished still comes."""
        for task in self._running:
            task.cancel()

    async def _stop(self) -> None:
        """End what is under way."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not self._ended.empty():
            self._ended.get_nowait()
        for problem, load in self._running.values():
            load.account.lost(problem.id)
        self._running.clear()
        self._back.clear()
        self.progress.ended_at = monotonic()
