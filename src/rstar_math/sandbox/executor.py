"""The Executor of a search: schedules programs on confined processes.

async with Sandbox(config) as sandbox:
    execution = await sandbox.run(prefix, step)
"""

import asyncio
import atexit
import contextlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rstar_math.config.sections import SandboxConfig
from rstar_math.errors import SandboxError
from rstar_math.sandbox.child.protocol import Limits
from rstar_math.sandbox.processes import Setup, Zygote
from rstar_math.sandbox.programs import MAX_CODE, Cache, Program, execution, limits_of, replayed
from rstar_math.types import Execution, ExecutionStatus, Step

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


CACHE_SIZE = 20_000
REFUSALS = 6
"""Times that a zygote may find no process for a run, before the caller is told; about 3 s."""


class Sandbox:
    """A pool of confined interpreters that belongs to one event loop at a time.

    Used in another loop, it starts anew there. Equal programs are run once and answered from memory
    after that, the first verdict kept (so a time-out is not tried again). Interpreters start when
    they are first needed, and are replaced when they die. Linux only, whatever the mode.
    """

    def __init__(
        self, config: SandboxConfig | None = None, *, _skip: Collection[str] = frozenset()
    ) -> None:
        self.config = config or SandboxConfig()
        self._skip = frozenset(_skip)
        self._limits = limits_of(self.config)
        self._workers = self.config.workers or len(os.sched_getaffinity(0))
        self._cache = Cache(CACHE_SIZE)
        self._times = PrefixTimes()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._zygotes: list[Zygote] = []
        self._starting: dict[asyncio.Task[None], bool] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._jobs: dict[Program, Job] = {}
        self._by_ident: dict[int, Job] = {}
        self._arrived: list[Job] = []
        self._queue: deque[Unit] = deque()
        self._next_ident = 1
        self._closed = False

    async def __aenter__(self) -> "Sandbox":
        self._enter_loop()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all interpreters and what they run; callers that still wait get `SandboxError`."""
        self._closed = True
        self._fail_all(SandboxError("the sandbox was closed while code was waiting to run"))
        for task in list(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, *self._stopping, return_exceptions=True)
        zygotes, self._zygotes = self._zygotes, []
        await asyncio.gather(*(zygote.stop() for zygote in zygotes))
        self._loop = None

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """What the step's code does in the state that the prefix's code leaves.

        Bad code is a status, never an exception. Runs with equal prefixes that are asked for in
        the same turn of the event loop share one run of the prefix, with the results as alone.
        Cancelling the caller ends the process, unless someone else waits for an equal program.
        Raises `SandboxError` where code cannot be run at all.
        """
        if not step.code:
            return Execution(ExecutionStatus.OK)
        return await self.run_program(Program(replayed(prefix), step.code, self._limits))

    async def run_program(self, program: Program) -> Execution:
        """The same for a program under limits of its own."""
        self._enter_loop()
        if program.size > MAX_CODE:
            return Execution(
                ExecutionStatus.ERROR,
                error_type="CodeTooLong",
                message=f"{program.size} characters of code; at most {MAX_CODE} are run",
            )
        known = self._cache.get(program)
        if known is not None:
            return known
        job = self._jobs.get(program)
        if job is None:
            job = self._add(program)
        waiter: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        job.waiters.append(waiter)
        try:
            result = await waiter
        except asyncio.CancelledError:
            self._leave(job, waiter)
            raise
        return result

    def _enter_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            if self._closed:
                raise SandboxError("the sandbox is closed; open a new one")
            return
        for zygote in self._zygotes:
            with contextlib.suppress(RuntimeError):
                zygote.kill()
        self._reset()
        self._loop = loop

    def _add(self, program: Program) -> Job:
        job = Job(program, self._next_ident)
        self._next_ident += 1
        self._jobs[program] = job
        self._by_ident[job.ident] = job
        if not self._arrived:
            # Two turns later: all that a gather() starts together has arrived by then.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._enqueue)
        self._arrived.append(job)
        return job

    def _leave(self, job: Job, waiter: "asyncio.Future[Execution]") -> None:
        if waiter in job.waiters:
            job.waiters.remove(waiter)
        if not job.waiters and self._by_ident.pop(job.ident, None) is not None:
            self._jobs.pop(job.program, None)
            if job.unit is not None and job.unit.zygote is not None:
                job.unit.zygote.cancel(job.ident)

    def _enqueue(self) -> None:
        arrived = [job for job in self._arrived if job.ident in self._by_ident]
        self._arrived = []
        idle = sum(zygote.has_room for zygote in self._zygotes) or self._workers
        for unit in units(arrived, self._times, idle):
            for job in unit.jobs:
                job.unit = unit
            self._queue.append(unit)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give out as much of the queue as there is room for."""
        waiting: deque[Unit] = deque()
        full: set[bool] = set()
        while self._queue:
            unit = self._queue.popleft()
            unit.jobs = [job for job in unit.jobs if job.ident in self._by_ident]
            if not unit.jobs:
                continue
            flavour = unit.needs_scipy
            zygote = None if flavour in full else self._room(flavour)
            if zygote is None:
                full.add(flavour)
                waiting.append(unit)
                if len(full) == 2:
                    break
            else:
                self._send(unit, zygote)
        self._queue.extendleft(reversed(waiting))
        for flavour in full:
            self._start_more(flavour)

    def _room(self, scipy: bool) -> Zygote | None:
        if sum(bool(zygote.claims) for zygote in self._zygotes) >= self._workers:
            return None
        open_ = [z for z in self._zygotes if z.setup.scipy == scipy and z.has_room]
        return min(open_, key=lambda zygote: len(zygote.busy), default=None)

    def _send(self, unit: Unit, zygote: Zygote) -> None:
        unit.zygote = zygote
        limits = unit.jobs[0].program.limits
        ids = [job.ident for job in unit.jobs]
        request: dict[str, object] = {
            "ids": ids,
            "codes": unit.jobs[0].program.prefix,
            "steps": [job.program.code for job in unit.jobs],
            "limits": {
                "wall_s": limits.wall_s,
                "cpu_s": limits.cpu_s,
                "memory": limits.memory,
                "output": limits.output,
            },
        }
        zygote.submit(ids, request, limits.wall_s)

    def _start_more(self, scipy: bool) -> None:
        there = sum(z.setup.scipy == scipy for z in self._zygotes)
        there += sum(flavour == scipy for flavour in self._starting.values())
        wanted = sum(unit.needs_scipy == scipy for unit in self._queue)
        for _ in range(min(self._workers - there, wanted)):
            task = asyncio.get_running_loop().create_task(self._start(scipy))
            self._starting[task] = scipy
            task.add_done_callback(lambda done: self._starting.pop(done, None))

    async def _start(self, scipy: bool) -> None:
        setup = Setup(self.config.mode, scipy, self._skip)
        zygote = Zygote(setup, self._on_reply, self._on_death)
        try:
            await zygote.start()
        except SandboxError as e:
            if not any(z.setup.scipy == scipy for z in self._zygotes):
                self._fail_all(e, scipy)
                self._dispatch()
            return
        self._zygotes.append(zygote)
        self._dispatch()

    def _on_reply(self, zygote: Zygote, header: dict[str, Any], body: bytes) -> None:
        if "slow" not in header:
            job = self._by_ident.get(header["id"])
            if job is not None:
                if "refused" in header:
                    self._refused(job, str(header["refused"]))
                else:
                    self._answered(job, header, body)
        self._dispatch()

    def _answered(self, job: Job, header: dict[str, Any], body: bytes) -> None:
        result = execution(header, body)
        if isinstance(header["prefix_s"], float):
            self._times.put(job.program.prefix, header["prefix_s"])
        self._cache.put(job.program, result)
        self._finish(job, result)

    def _finish(self, job: Job, outcome: Execution | SandboxError) -> None:
        self._by_ident.pop(job.ident, None)
        self._jobs.pop(job.program, None)
        for waiter in job.waiters:
            if waiter.done():
                continue
            if isinstance(outcome, Execution):
                waiter.set_result(outcome)
            else:
                waiter.set_exception(outcome)
        job.unit = None  # No cycle is left for the garbage collector.

    def _refused(self, job: Job, why: str) -> None:
        job.refusals += 1
        if job.refusals >= REFUSALS:
            sentence = f"no process for a run ({why}); the process table or the memory is full"
            self._finish(job, SandboxError(f"{sentence}; free some and try again"))
            return
        loop = asyncio.get_running_loop()
        loop.call_later(0.05 * 2**job.refusals, self._again, job)

    def _again(self, job: Job) -> None:
        if job.ident in self._by_ident and not self._closed:
            job.unit = Unit([job])
            self._queue.appendleft(job.unit)
            self._dispatch()

    def _on_death(self, zygote: Zygote) -> None:
        if zygote in self._zygotes:
            self._zygotes.remove(zygote)
        if self._closed or self._loop is None:
            return
        task = self._loop.create_task(zygote.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        for ident in list(zygote.busy):
            job = self._by_ident.get(ident)
            if job is None:
                continue
            job.deaths += 1
            if job.deaths >= DEATHS:
                message = f"ended the sandbox's own process {job.deaths} times"
                self._finish(job, Execution(ExecutionStatus.KILLED, message=message))
            else:
                self._again(job)
        self._dispatch()

    def _fail_all(self, error: SandboxError, scipy: bool | None = None) -> None:
        for job in list(self._by_ident.values()):
            if scipy is None or job.program.needs_scipy == scipy:
                self._finish(job, error)


_DEFAULTS = SandboxConfig()


class _ThreadPool:
    """A pool, and the thread whose event loop it lives in."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.sandbox = Sandbox()
        self._thread = threading.Thread(target=self._live, name="rstar-sandbox", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def close(self) -> None:
        """End the pool and the thread."""
        asyncio.run_coroutine_threadsafe(self.sandbox.aclose(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


_room: _ThreadPool | None = None
_lock = threading.Lock()


def _open() -> _ThreadPool:
    global _room
    with _lock:
        if _room is None:
            _room = _ThreadPool()
        return _room


def _close() -> None:
    global _room
    with _lock:
        if _room is not None and _room.pid == os.getpid():
            _room.close()
        _room = None


def _forget() -> None:
    # In a forked copy of the process neither the thread nor the lock's holder exists.
    global _room, _lock
    _room, _lock = None, threading.Lock()


atexit.register(_close)
os.register_at_fork(after_in_child=_forget)


def run_snippet(
    code: str,
    *,
    wall_s: float = _DEFAULTS.timeout_s,
    memory_mb: int = _DEFAULTS.memory_mb,
    output_bytes: int = _DEFAULTS.output_bytes,
) -> Execution:
    """What a program does, run alone in the strict sandbox.

    `wall_s` in seconds, of which at most `SandboxConfig.cpu_s` on the processor; `memory_mb` in
    MiB above what the warm interpreter takes; `output_bytes` as printed. Bad code is a status. The
    first call starts a pool of interpreters that all callers share until the process ends; any
    thread may call, also one that runs an event loop (which waits meanwhile), and a forked copy of
    the process. Raises `SandboxError` where code cannot be run safely.
    """
    limits = Limits(wall_s, min(_DEFAULTS.cpu_s, wall_s), memory_mb << 20, output_bytes)
    room = _open()
    work = room.sandbox.run_program(Program((), code, limits))
    return asyncio.run_coroutine_threadsafe(work, room.loop).result()
