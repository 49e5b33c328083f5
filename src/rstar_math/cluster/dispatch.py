"""Who searches what: problems handed to workers that come and go, each finished exactly once.

Knows no transport: a worker is a `Hand`. A worker that is lost gives its problems back, and they
are searched elsewhere; what it may still have to say is not listened to. No more is under way than
the workers have room for, and nothing new is handed out while whoever takes the results is busy.
"""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from time import monotonic
from typing import Protocol

from rstar_math.cluster.progress import Account, Progress
from rstar_math.errors import ClusterError, ModelUnreachable, RstarError
from rstar_math.evolution.packing import Packed
from rstar_math.search.strategy import Strategy
from rstar_math.types import Problem

LOSSES = 5
"""Workers that may be lost with one problem under way, before it is held to be the cause."""


class WorkerLost(Exception):
    """The worker is gone, or cannot be reached; says why."""


class Hand(Protocol):
    """A worker, seen from the driver."""

    name: str
    node: str

    def room(self, strategy: Strategy) -> int:
        """Problems that keep it busy."""
        ...

    async def search(self, problem: Problem, strategy: Strategy, *, guided: bool) -> Packed:
        """A finished search. Raises `WorkerLost`, or the `RstarError` of the search."""
        ...


class _Load:
    """A worker that is here, and what it has under way."""

    def __init__(self, hand: Hand, account: Account, room: int) -> None:
        self.hand = hand
        self.account = account
        self.room = room
        self.gone = False


class Dispatch:
    """Problems over workers. `join` and `leave` may be called at any time."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._hands: dict[str, _Load] = {}
        self._spare: list[tuple[float, int, _Load]] = []
        self._tickets = 0
        self._losses: Counter[str] = Counter()
        self._back: deque[Problem] = deque()
        self._ended: asyncio.Queue[asyncio.Task[Packed] | None] = asyncio.Queue()
        self._running: dict[asyncio.Task[Packed], tuple[Problem, _Load]] = {}
        self._strategy = Strategy("mcts")
        self._stuck: RstarError | None = None

    def __len__(self) -> int:
        return len(self._hands)

    def __contains__(self, name: str) -> bool:
        return name in self._hands

    def join(self, hand: Hand) -> None:
        """One more worker."""
        load = _Load(hand, self.progress.joined(hand.name, hand.node), hand.room(self._strategy))
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

    async def finished(
        self, problems: Iterable[Problem], strategy: Strategy, *, guided: bool
    ) -> AsyncGenerator[tuple[Problem, Packed], None]:
        """Each problem with its search, as they are finished. Raises the first `RstarError` that is
        not a single worker's trouble, after every finished search was given out."""
        self._strategy = strategy
        for load in self._hands.values():
            load.room = load.hand.room(strategy)
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

    async def _some_ended(self) -> list[asyncio.Task[Packed]]:
        """Searches that ended since the last call; none where only the workers changed."""
        ended = [await self._ended.get()]
        while not self._ended.empty():
            ended.append(self._ended.get_nowait())
        return [task for task in ended if task in self._running]

    def _outcome(
        self, task: "asyncio.Task[Packed]", problem: Problem, load: _Load
    ) -> Packed | None:
        """The finished search; None where the problem goes back to be searched elsewhere."""
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or load.gone or isinstance(error, WorkerLost | ModelUnreachable):
            if isinstance(error, ModelUnreachable):
                self._stuck = error
            if error is not None:
                self.leave(load.hand.name, str(error))
            self._give_back(problem, load)
            return None
        load.account.ended(problem.id)
        found = task.result()
        self._stuck = None
        load.account.did(found.result.cost)
        return found

    def _give_back(self, problem: Problem, load: _Load) -> None:
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

    def _offer(self, load: _Load) -> None:
        """Remember a worker with room."""
        if not load.gone and len(load.account.under_way) < load.room:
            self._tickets += 1
            share = len(load.account.under_way) / load.room
            heapq.heappush(self._spare, (share, self._tickets, load))

    def _least_busy(self) -> _Load | None:
        """A worker with room, by the share of it that is taken."""
        while self._spare:
            share, _, load = heapq.heappop(self._spare)
            if not load.gone and share == len(load.account.under_way) / load.room:
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
