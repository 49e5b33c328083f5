"""A search on a cluster played in time alone: a discrete-event simulation.

A replica decodes up to `slots` samples side by side, all at the same speed: that of one alone as
long as the replica's whole rate is not reached, and its share of it after that. Cores run programs
and the workers' processes see to trees one thing at a time, first come, first served; so does the
one driver. A search is a chain: see to the tree, sample, run the programs, and again.

Not modelled: prefixes that leave a server's cache, replicas that are loaded unevenly, machines that
are lost, and speeds that change with the length of a text.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log, sqrt

from rstar_math.seeding import derive


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


Want = tuple["Line | Replica", Sequence[float]]
"""A resource and the pieces of work it is to do; a search goes on when all are done."""


@dataclass(frozen=True, slots=True)
class Played:
    """How a simulated search went."""

    seconds: float
    """From begin to end; of a large search its steady rate and its end were played, and the rest
    reckoned."""
    busy: dict[str, float]
    """Share of each resource in use, in [0, 1]; of a large search while it is steady."""
    whole: bool
    """Whether all of it was played."""


def simulate(load: Load, machines: Machines, *, most: int = 30_000, seed: int = 0) -> Played:
    """How a search would go. A cluster is alike in all its parts, so one replica is played with its
    share of everything else; of a search of more than `most` samples on it a steady part, whose
    searches are cut short, since how long they are does not change the rate."""
    part = machines.replicas
    fill = 2 * machines.engine.slots / (load.samples * load.side)
    flight = max(1, round((machines.in_flight or fill * part) / part))
    count = max(1, -(-load.problems // part))
    samples = count * load.calls * load.samples
    if samples <= most:
        clock, lines, _ = _played(load, machines, count, flight, seed)
        seconds = clock.now
        busy = {name: line.share(line.used, seconds) for name, line in lines.items()}
        return Played(seconds, busy, whole=True)
    count = 4 * flight
    cut = max(2.0 * load.side, min(load.calls, most / (count * load.samples)))
    short = replace(load, calls=cut)
    keep = replace(machines, keep_ms=machines.keep_ms * cut / load.calls)
    clock, lines, marks = _played(short, keep, count, flight, seed)
    (since, before), (until, after) = marks
    span = until - since
    busy = {name: line.share(after[name] - before[name], span) for name, line in lines.items()}
    done = (after["servers"] - before["servers"]) / (
        load.samples * (load.tokens + _extra(load, machines))
    )
    rate = done / load.calls / span
    alone_s = (clock.now - until) * load.calls / cut
    steady = max(0.0, load.problems / part - flight / 2) / rate
    return Played(steady + alone_s, busy, whole=False)


Marks = tuple[tuple[float, dict[str, float]], tuple[float, dict[str, float]]]


def _played(
    load: Load, machines: Machines, count: int, flight: int, seed: int
) -> tuple[Clock, "dict[str, Line | Replica]", Marks]:
    """Play so many searches on one replica's share; and what was used up to the moments at which a
    quarter of them, and all, were begun."""
    clock = Clock()
    part = machines.replicas
    cores, cores_slower = _shared(machines.cores, part)
    hands, hands_slower = _shared(machines.workers, part)
    lines: dict[str, Line | Replica] = {
        "servers": Replica(clock, machines.engine),
        "sandbox": Line(clock, cores),
        "trees": Line(clock, hands),
        "driver": Line(clock, 1),
    }
    rng = random.Random(derive(seed, "simulate"))
    mu = log(max(load.tokens, 1e-9)) - load.spread**2 / 2
    even = min(1.0, sqrt(3) * load.varies)
    extra = _extra(load, machines)
    marks: list[tuple[float, dict[str, float]]] = []
    begun = 0

    def search() -> Generator[Want, None, None]:
        nonlocal begun
        begun += 1
        if begun in (max(1, count // 2), count):
            marks.append((clock.now, {name: line.used for name, line in lines.items()}))
        together = max(1, round(load.samples)) * load.side
        about = max(0.0, rng.uniform(1 - even, 1 + even))
        for _ in range(max(1, round(load.calls / load.side * about))):
            yield lines["trees"], [together * machines.node_ms / 1000 * hands_slower]
            yield (
                lines["servers"],
                [exp(rng.gauss(mu, load.spread)) + extra for _ in range(together)],
            )
            programs = int(together * load.programs + rng.random())
            yield lines["sandbox"], [cores_slower / machines.programs] * programs
        yield lines["driver"], [part * machines.keep_ms / 1000]

    _play(clock, search, count, flight)
    return clock, lines, (marks[0], marks[-1])


def _extra(load: Load, machines: Machines) -> float:
    """Tokens of sampling that reading for a sample is worth."""
    return load.read / load.samples * machines.engine.full / machines.engine.prefill


def _play(
    clock: Clock, search: Callable[[], Generator[Want, None, None]], count: int, flight: int
) -> None:
    """Play so many searches, with so many under way."""
    begun = 0

    def begin() -> None:
        nonlocal begun
        if begun < count:
            begun += 1
            step(search())

    def step(work: Generator[Want, None, None]) -> None:
        want = next(work, None)
        if want is None:
            begin()
            return
        line, pieces = want
        left = len(pieces)
        if not left:
            step(work)
            return

        def one_done() -> None:
            nonlocal left
            left -= 1
            if not left:
                step(work)

        line.take(pieces, one_done)

    for _ in range(flight):
        begin()
    clock.run()


def _shared(servers: int, part: int) -> tuple[int, float]:
    """Servers of one replica's share, and how much slower each is where they do not divide."""
    whole = max(1, round(servers / part))
    return whole, whole * part / servers
