"""Decides how programs that arrive together are sent: alone, or as a fan-out of one prefix."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from rstar_math.sandbox.processes import Zygote
from rstar_math.sandbox.programs import PRELOADED, Program
from rstar_math.types import Execution

FAN_OUT_MIN = 4
"""Smallest number of candidates for which a fan-out is faster, whatever the prefix takes."""
FAN_OUT_MAX = 32
"""Largest number of candidates in one fan-out."""
FAN_OUT_MAX_STEP_CHARS = 8000
"""Longest candidate that is fanned out: a twelfth of what its socket holds."""
SLOW_PREFIX_S = 0.1
"""A prefix that took longer than this is fanned out for two candidates already."""


@dataclass(slots=True, eq=False)
class Job:
    """A program that has at least one waiting caller."""

    program: Program
    id: int
    waiters: list["asyncio.Future[Execution]"] = field(default_factory=list)
    batch: "Batch | None" = None
    writes: bool = False
    """Whether it runs alone, with a scratch folder."""
    zygote_deaths: int = 0
    failed_forks: int = 0


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs that are sent in one request. Several jobs have the same prefix and limits."""

    jobs: list[Job]
    zygote: Zygote | None = None

    @property
    def library(self) -> str:
        """The library that its zygote preloads."""
        return max((job.program.library for job in self.jobs), key=PRELOADED.index)


class PrefixTimes:
    """The last measured time of each prefix, in seconds. Keeps the latest `size` prefixes."""

    def __init__(self, size: int = 4096) -> None:
        self._times: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._size = size

    def put(self, prefix: tuple[str, ...], seconds: float) -> None:
        """Store a measurement."""
        self._times[prefix] = seconds
        self._times.move_to_end(prefix)
        if len(self._times) > self._size:
            self._times.popitem(last=False)

    def slow(self, prefix: tuple[str, ...]) -> bool:
        """Whether the prefix is known to be slow."""
        return self._times.get(prefix, 0.0) > SLOW_PREFIX_S


class WritingPrograms:
    """The programs that asked for a scratch folder. Keeps the latest `size` ones.

    A program whose prefix is one of them contains it, so that it needs a folder too.
    """

    def __init__(self, size: int = 4096) -> None:
        self._codes: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._size = size

    def add(self, program: Program) -> None:
        """Remember a program."""
        self._codes[*program.prefix, program.code] = None
        if len(self._codes) > self._size:
            self._codes.popitem(last=False)

    def __contains__(self, program: Program) -> bool:
        if not self._codes:
            return False
        codes = (*program.prefix, program.code)
        return any(codes[:n] in self._codes for n in range(1, len(codes) + 1))


def plan_batches(jobs: Iterable[Job], times: PrefixTimes, idle: int) -> list[Batch]:
    """The batches for jobs that arrived together, in order of arrival.

    Jobs with the same prefix and limits are fanned out if there are enough of them, spread over
    the `idle` zygotes. Every other job gets a batch of its own, also one that writes files.
    """
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        program = job.program
        fits = (
            any(program.prefix) and not job.writes and len(program.code) <= FAN_OUT_MAX_STEP_CHARS
        )
        groups.setdefault(program.fan_out_key if fits else job, []).append(job)
    batches = []
    for group in groups.values():
        smallest = 2 if times.slow(group[0].program.prefix) else FAN_OUT_MIN
        if len(group) < smallest:
            batches += [Batch([job]) for job in group]
            continue
        size = min(max(-(-len(group) // max(idle, 1)), smallest), FAN_OUT_MAX)
        batches += [Batch(group[i : i + size]) for i in range(0, len(group), size)]
    return batches
