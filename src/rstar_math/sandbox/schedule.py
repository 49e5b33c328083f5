"""Turns of the queue: which programs go to which zygote, and when.

A unit is what one request carries: one program, or the candidates of a fan-out. Units wait in one
queue, first come first served. A zygote takes one unit at a time, and further ones beside those
that have turned out slow, so that a few slow programs hold up nobody else.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from rstar_math.sandbox.connection import Zygote
from rstar_math.sandbox.programs import Program
from rstar_math.types import Execution

FAN_FROM = 4
"""Candidates from which a fan-out pays whatever the prefix costs."""
FAN_MOST = 32
FAN_STEP = 8000
"""Longest candidate, in characters, that is fanned out (a twelfth of what its socket takes)."""
SLOW_PREFIX_S = 0.1
"""A prefix measured to take longer is fanned out from two candidates on."""
DEATHS = 3
"""Times that a zygote may die under a program before the program is held to be the cause."""


@dataclass(slots=True, eq=False)
class Job:
    """A program that somebody waits for."""

    program: Program
    ident: int
    waiters: list["asyncio.Future[Execution]"] = field(default_factory=list)
    unit: "Unit | None" = None
    deaths: int = 0
    refusals: int = 0


@dataclass(slots=True, eq=False)
class Unit:
    """Jobs that travel in one request; all of one family."""

    jobs: list[Job]
    zygote: Zygote | None = None

    @property
    def needs_scipy(self) -> bool:
        """Whether any of its programs speaks of scipy."""
        return any(job.program.needs_scipy for job in self.jobs)


class PrefixTimes:
    """How long prefixes took when last run, in seconds; bounded."""

    def __init__(self, size: int = 4096) -> None:
        self._times: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._size = size

    def put(self, prefix: tuple[str, ...], seconds: float) -> None:
        """Remember a measurement."""
        self._times[prefix] = seconds
        self._times.move_to_end(prefix)
        if len(self._times) > self._size:
            self._times.popitem(last=False)

    def slow(self, prefix: tuple[str, ...]) -> bool:
        """Whether the prefix is known to be slow."""
        return self._times.get(prefix, 0.0) > SLOW_PREFIX_S


def units(jobs: Iterable[Job], times: PrefixTimes, idle: int) -> list[Unit]:
    """The requests for jobs that arrived together: families large enough fanned out (over `idle`
    zygotes, where there are several), all others alone; in order of arrival."""
    families: dict[object, list[Job]] = {}
    for job in jobs:
        program = job.program
        fits = any(program.prefix) and len(program.code) <= FAN_STEP
        families.setdefault(program.family if fits else job, []).append(job)
    found = []
    for members in families.values():
        least = 2 if times.slow(members[0].program.prefix) else FAN_FROM
        if len(members) < least:
            found += [Unit([job]) for job in members]
            continue
        size = min(max(-(-len(members) // max(idle, 1)), least), FAN_MOST)
        found += [Unit(members[i : i + size]) for i in range(0, len(members), size)]
    return found
