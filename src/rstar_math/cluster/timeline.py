"""What takes time in a search, in simulated time: model servers, cores, workers, the driver."""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Engine:
    """What one replica of a model server does."""

    slots: int
    """Samples decoded at once."""
    single: float
    """Tokens a second of one sample alone."""
    full: float
    """Tokens a second of all samples together, at most."""
    prefill: float = 1e12
    """Tokens a second that are read and not in the cache, or judged by a scorer."""


@dataclass(frozen=True, slots=True)
class Machines:
    """What there is to search with. Rates are measured where they can be."""

    engine: Engine
    replicas: int = 1
    cores: int = 1
    """For code that models wrote, over all nodes."""
    workers: int = 1
    """Processes that see to trees."""
    programs: float = 100.0
    """Programs a second and core (benchmarks/sandbox.py)."""
    node_ms: float = 2.0
    """Processor time of a worker for a node (benchmarks/saturation.py: own_cpu_ms_per_node)."""
    keep_ms: float = 2.0
    """Processor time of the driver for a finished search (benchmarks/scale.py: driver_ms)."""
    in_flight: int | None = None
    """Searches under way; by default those that fill the slots twice."""


@dataclass(frozen=True, slots=True)
class Load:
    """Searches to be done: means of one problem."""

    problems: int
    calls: float
    """Requests to the model."""
    samples: float
    """Samples of a request."""
    tokens: float
    """Tokens of a sample."""
    spread: float = 0.8
    """Sigma of the log-normal lengths of samples."""
    varies: float = 0.3
    """Standard deviation of a search's requests, over their mean."""
    programs: float = 1.0
    """Programs run for a sample."""
    read: float = 0.0
    """Tokens read for a request that are in no cache, and judged by a scorer."""
    side: int = 1
    """Requests of one search that are under way together."""

    @property
    def sampled(self) -> float:
        """Sampled tokens of all problems."""
        return self.problems * self.calls * self.samples * self.tokens


class Clock:
    """Simulated time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, when: float, then: Callable[[], None]) -> None:
        """Have something done at a time."""
        self._number += 1
        heapq.heappush(self._events, (when, self._number, then))

    def run(self) -> None:
        """Until nothing is left to be done."""
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()


@dataclass(slots=True)
class Line:
    """Servers that each do one piece of work after the other; work is in seconds."""

    clock: Clock
    servers: int
    used: float = 0.0
    _busy: int = 0
    _waiting: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)

    def take(self, pieces: Sequence[float], then: Callable[[], None]) -> None:
        """Do pieces of work, each time followed by that."""
        self._waiting.extend((work, then) for work in pieces)
        self._start()

    def _start(self) -> None:
        while self._waiting and self._busy < self.servers:
            work, then = self._waiting.popleft()
            self._busy += 1
            self.used += work
            self.clock.at(self.clock.now + work, lambda then=then: self._end(then))  # type: ignore[misc]

    def _end(self, then: Callable[[], None]) -> None:
        self._busy -= 1
        then()
        self._start()

    def share(self, used: float, seconds: float) -> float:
        """What share of the servers' time such use is."""
        return used / (self.servers * seconds) if seconds else 0.0


class Replica:
    """A model server; work is in tokens. Time is kept by the tokens that each sample has got."""

    def __init__(self, clock: Clock, engine: Engine) -> None:
        self._clock, self._engine = clock, engine
        self._got = self._since = self.used = 0.0
        self._ends: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._number = self._version = 0

    def take(self, pieces: Sequence[float], then: Callable[[], None]) -> None:
        """Decode samples, each time followed by that."""
        self._waiting.extend((work, then) for work in pieces)
        self._change()

    def share(self, used: float, seconds: float) -> float:
        """What share of the whole rate such use is."""
        return used / (self._engine.full * seconds) if seconds else 0.0

    def _speed(self) -> float:
        """Tokens a second of each sample."""
        return min(self._engine.single, self._engine.full / max(len(self._ends), 1))

    def _change(self) -> None:
        """Bring the time forward, let samples in, and see when the next one is done."""
        now = self._clock.now
        self._got += (now - self._since) * self._speed() if self._ends else 0.0
        self._since = now
        while self._waiting and len(self._ends) < self._engine.slots:
            work, then = self._waiting.popleft()
            self._number += 1
            self.used += work
            heapq.heappush(self._ends, (self._got + work, self._number, then))
        if self._ends:
            self._version += 1
            version = self._version
            left = max(0.0, self._ends[0][0] - self._got)
            self._clock.at(now + left / self._speed(), lambda: self._done(version))

    def _done(self, version: int) -> None:
        if version != self._version:
            return
        end, _, then = heapq.heappop(self._ends)
        self._since = self._clock.now
        self._got = end
        self._change()
        then()
