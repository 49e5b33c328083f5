"""A search on a cluster played in time alone: a discrete-event simulation.

A replica decodes up to `slots` samples side by side, all at the same speed: that of one alone as
long as the replica's whole rate is not reached, and its share of it after that. Cores run programs
and the workers' processes see to trees one thing at a time, first come, first served; so does the
one driver. A search is a chain: see to the tree, sample, run the programs, and again.

Not modelled: prefixes that leave a server's cache, replicas that are loaded unevenly, machines that
are lost, and speeds that change with the length of a text.
"""

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt

from rstar_math.cluster.timeline import Clock, Line, Load, Machines, Replica
from rstar_math.seeding import derive

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
