"""Schedules programs on confined processes: the Executor of a search.

async with Sandbox(config) as sandbox:
    execution = await sandbox.run(prefix, step)
"""

import asyncio
import atexit
import contextlib
import os
import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

from rstar_math.config.sections import SandboxConfig
from rstar_math.errors import SandboxError
from rstar_math.sandbox.child.protocol import NEEDS_SCRATCH
from rstar_math.sandbox.processes import Zygote, ZygoteSetup
from rstar_math.sandbox.programs import (
    MAX_CODE_CHARS,
    PRELOADED,
    Program,
    ResultCache,
    code_to_replay,
    limits_of,
    parse_reply,
    python_in,
)
from rstar_math.sandbox.scheduling import Batch, Job, PrefixTimes, WritingPrograms, plan_batches
from rstar_math.types import Execution, ExecutionStatus, Step

MAX_ZYGOTE_DEATHS = 3
"""Number of zygotes that may die while running a program before the program is blamed."""
CACHE_SIZE = 20_000
MAX_FAILED_FORKS = 6
"""Number of failed attempts to fork a process for a run before the caller gets an error; they take
about 3 s."""


class Sandbox:
    """A pool of confined interpreters.

    The pool belongs to one event loop at a time; in another loop it starts anew. Interpreters start
    when they are first needed and are replaced when they die. Equal programs run once: later calls
    get the cached result, even if it is a time-out. Works only on Linux, whatever the mode.
    """

    def __init__(
        self, config: SandboxConfig | None = None, *, _skip: Collection[str] = frozenset()
    ) -> None:
        self.config = config or SandboxConfig()
        self._skip = frozenset(_skip)
        self._limits = limits_of(self.config)
        self._workers = self.config.workers or len(os.sched_getaffinity(0))
        self._cache = ResultCache(CACHE_SIZE)
        self._times = PrefixTimes()
        self._writing = WritingPrograms()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._zygotes: list[Zygote] = []
        self._starting: dict[asyncio.Task[None], str] = {}
        """Tasks that start a zygote, and the library that it preloads."""
        self._stopping: set[asyncio.Task[None]] = set()
        self._jobs: dict[Program, Job] = {}
        self._jobs_by_id: dict[int, Job] = {}
        self._new_jobs: list[Job] = []
        self._queue: deque[Batch] = deque()
        self._next_id = 1
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
        """End all interpreters and their runs. Callers that still wait get `SandboxError`."""
        self._closed = True
        self._fail_all(SandboxError("The sandbox was closed while code was waiting to run."))
        for task in list(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, *self._stopping, return_exceptions=True)
        zygotes, self._zygotes = self._zygotes, []
        await asyncio.gather(*(zygote.stop() for zygote in zygotes))
        self._loop = None

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """The result of running the step's code after the prefix's code.

        Failing code gives a status, never an exception. Calls with equal prefixes in the same
        iteration of the event loop may share one run of the prefix; the results are the same.
        Cancelling the caller ends the process, unless another caller waits for an equal program.
        Raises `SandboxError` if code cannot be run at all.
        """
        if not step.code:
            return Execution(ExecutionStatus.OK)
        return await self.run_program(
            Program(code_to_replay(prefix), python_in(step.code), self._limits)
        )

    async def run_program(self, program: Program) -> Execution:
        """Like `run`, for a program with its own limits."""
        self._enter_loop()
        if program.size > MAX_CODE_CHARS:
            return Execution(
                ExecutionStatus.ERROR,
                error_type="CodeTooLong",
                message=f"{program.size} characters of code; the maximum is {MAX_CODE_CHARS}",
            )
        cached = self._cache.get(program)
        if cached is not None:
            return cached
        job = self._jobs.get(program) or self._add(program)
        waiter: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        job.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._drop_waiter(job, waiter)
            raise

    def _enter_loop(self) -> None:
        """Bind the pool to the running event loop. Raises `SandboxError` if the pool is closed."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            if self._closed:
                raise SandboxError("The sandbox is closed; open a new one.")
            return
        for zygote in self._zygotes:
            with contextlib.suppress(RuntimeError):
                zygote.kill()
        self._reset()
        self._loop = loop

    def _add(self, program: Program) -> Job:
        job = Job(program, self._next_id, writes=program in self._writing)
        self._next_id += 1
        self._jobs[program] = job
        self._jobs_by_id[job.id] = job
        if not self._new_jobs:
            # Two loop iterations later, all calls that one gather() starts have arrived.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._enqueue)
        self._new_jobs.append(job)
        return job

    def _drop_waiter(self, job: Job, waiter: "asyncio.Future[Execution]") -> None:
        if waiter in job.waiters:
            job.waiters.remove(waiter)
        if not job.waiters and self._jobs_by_id.pop(job.id, None) is not None:
            self._jobs.pop(job.program, None)
            if job.batch is not None and job.batch.zygote is not None:
                job.batch.zygote.cancel(job.id)

    def _enqueue(self) -> None:
        jobs = [job for job in self._new_jobs if job.id in self._jobs_by_id]
        self._new_jobs = []
        idle = sum(zygote.has_room for zygote in self._zygotes) or self._workers
        for batch in plan_batches(jobs, self._times, idle):
            for job in batch.jobs:
                job.batch = batch
            self._queue.append(batch)
        self._dispatch()

    def _dispatch(self) -> None:
        """Send as many batches of the queue as the zygotes have room for."""
        unsent: deque[Batch] = deque()
        full: set[str] = set()
        while self._queue:
            batch = self._queue.popleft()
            batch.jobs = [job for job in batch.jobs if job.id in self._jobs_by_id]
            if not batch.jobs:
                continue
            library = batch.library
            zygote = None if library in full else self._zygote_with_room(library)
            if zygote is None:
                full.add(library)
                unsent.append(batch)
                if len(full) == len(PRELOADED):
                    break
            else:
                self._send(batch, zygote)
        self._queue.extendleft(reversed(unsent))
        for library in full:
            self._start_more(library)

    def _zygote_with_room(self, library: str) -> Zygote | None:
        if sum(bool(zygote.fast_requests) for zygote in self._zygotes) >= self._workers:
            return None
        available = [z for z in self._zygotes if z.setup.preload == library and z.has_room]
        return min(available, key=lambda zygote: len(zygote.busy), default=None)

    def _send(self, batch: Batch, zygote: Zygote) -> None:
        batch.zygote = zygote
        program = batch.jobs[0].program
        ids = [job.id for job in batch.jobs]
        request: dict[str, object] = {
            "ids": ids,
            "prefix": program.prefix,
            "steps": [job.program.code for job in batch.jobs],
            "limits": asdict(program.limits),
            "writes": batch.jobs[0].writes,
        }
        zygote.submit(ids, request, program.limits.wall_s)

    def _start_more(self, library: str) -> None:
        """Start zygotes for the queue, up to the number of workers."""
        existing = sum(z.setup.preload == library for z in self._zygotes)
        existing += sum(preload == library for preload in self._starting.values())
        wanted = sum(batch.library == library for batch in self._queue)
        for _ in range(min(self._workers - existing, wanted)):
            task = asyncio.get_running_loop().create_task(self._start(library))
            self._starting[task] = library
            task.add_done_callback(lambda done: self._starting.pop(done, None))

    async def _start(self, library: str) -> None:
        setup = ZygoteSetup(self.config.mode, library, self._skip)
        zygote = Zygote(setup, self._on_reply, self._on_death)
        try:
            await zygote.start()
        except SandboxError as e:
            if not any(z.setup.preload == library for z in self._zygotes):
                self._fail_all(e, library)
                self._dispatch()
            return
        self._zygotes.append(zygote)
        self._dispatch()

    def _on_reply(self, zygote: Zygote, header: dict[str, Any], body: bytes) -> None:
        if "slow" not in header:
            job = self._jobs_by_id.get(header["id"])
            if job is not None:
                if "refused" in header:
                    self._on_failed_fork(job, str(header["refused"]))
                elif NEEDS_SCRATCH in header:
                    self._writing.add(job.program)
                    job.writes = True
                    self._requeue(job)
                else:
                    self._on_result(job, header, body)
        self._dispatch()

    def _on_result(self, job: Job, header: dict[str, Any], body: bytes) -> None:
        result = parse_reply(header, body)
        if isinstance(header["prefix_s"], float):
            self._times.put(job.program.prefix, header["prefix_s"])
        self._cache.put(job.program, result)
        self._finish(job, result)

    def _finish(self, job: Job, outcome: Execution | SandboxError) -> None:
        """Give the outcome to the waiting callers."""
        self._jobs_by_id.pop(job.id, None)
        self._jobs.pop(job.program, None)
        for waiter in job.waiters:
            if waiter.done():
                continue
            if isinstance(outcome, Execution):
                waiter.set_result(outcome)
            else:
                waiter.set_exception(outcome)
        job.batch = None  # This breaks a reference cycle.

    def _on_failed_fork(self, job: Job, reason: str) -> None:
        job.failed_forks += 1
        if job.failed_forks >= MAX_FAILED_FORKS:
            message = (
                f"Cannot fork a process to run code: {reason}. The process table or the memory is "
                "full; end other processes and try again."
            )
            self._finish(job, SandboxError(message))
            return
        loop = asyncio.get_running_loop()
        loop.call_later(0.05 * 2**job.failed_forks, self._requeue, job)

    def _requeue(self, job: Job) -> None:
        if job.id in self._jobs_by_id and not self._closed:
            job.batch = Batch([job])
            self._queue.appendleft(job.batch)
            self._dispatch()

    def _on_death(self, zygote: Zygote) -> None:
        if zygote in self._zygotes:
            self._zygotes.remove(zygote)
        if self._closed or self._loop is None:
            return
        task = self._loop.create_task(zygote.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        for run_id in list(zygote.busy):
            job = self._jobs_by_id.get(run_id)
            if job is None:
                continue
            job.zygote_deaths += 1
            if job.zygote_deaths >= MAX_ZYGOTE_DEATHS:
                message = (
                    f"the sandbox's own process died {job.zygote_deaths} times during this code"
                )
                self._finish(job, Execution(ExecutionStatus.KILLED, message=message))
            else:
                self._requeue(job)
        self._dispatch()

    def _fail_all(self, error: SandboxError, library: str | None = None) -> None:
        """Fail all jobs, or only those of one kind of zygote."""
        for job in list(self._jobs_by_id.values()):
            if library is None or job.program.library == library:
                self._finish(job, error)


_DEFAULTS = SandboxConfig()


class _BackgroundSandbox:
    """A pool in a thread with its own event loop."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.sandbox = Sandbox()
        self._thread = threading.Thread(target=self._run_loop, name="rstar-sandbox", daemon=True)
        self._thread.start()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def close(self) -> None:
        """End the pool and the thread."""
        asyncio.run_coroutine_threadsafe(self.sandbox.aclose(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


_background: _BackgroundSandbox | None = None
_lock = threading.Lock()


def _shared_background() -> _BackgroundSandbox:
    global _background
    with _lock:
        if _background is None:
            _background = _BackgroundSandbox()
        return _background


def _close_background() -> None:
    global _background
    with _lock:
        if _background is not None and _background.pid == os.getpid():
            _background.close()
        _background = None


def _reset_after_fork() -> None:
    # The thread, and a thread that held the lock, do not exist in a forked copy of the process.
    global _background, _lock
    _background, _lock = None, threading.Lock()


atexit.register(_close_background)
os.register_at_fork(after_in_child=_reset_after_fork)


def run_snippet(
    code: str,
    *,
    wall_s: float = _DEFAULTS.timeout_s,
    memory_mb: int = _DEFAULTS.memory_mb,
    output_bytes: int = _DEFAULTS.output_bytes,
) -> Execution:
    """The result of running one program in the strict sandbox.

    `wall_s` limits the wall time in seconds; the processor time is limited to at most
    `SandboxConfig.cpu_s`. `memory_mb` is in MiB above the pre-loaded interpreter. `output_bytes`
    limits what the program prints. Failing code gives a status, never an exception.

    The first call starts a pool of interpreters that all callers share until the process ends. The
    call blocks. Any thread may call it, also one with a running event loop, and a forked copy of
    the process. Raises `SandboxError` if code cannot be run safely.
    """
    limits = replace(
        limits_of(_DEFAULTS),
        wall_s=wall_s,
        cpu_s=min(_DEFAULTS.cpu_s, wall_s),
        memory_bytes=memory_mb << 20,
        output_bytes=output_bytes,
    )
    background = _shared_background()
    coroutine = background.sandbox.run_program(Program((), python_in(code), limits))
    return asyncio.run_coroutine_threadsafe(coroutine, background.loop).result()
