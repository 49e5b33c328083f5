"""Fan-out: runs a prefix once, then forks the process once per candidate next step.

The process that ran the prefix has run hostile code and must fork all the same. Its forks are
gated: the kernel stops each one and asks the judge (seccomp user notification), which refuses all
while the prefix runs and then grants as many as there are candidates. When that process has ended,
its forks become the zygote's own children (it is their subreaper), are told their code one after
another and judged like any other run. Who a fork is, the kernel attests (SCM_CREDENTIALS).
"""

import contextlib
import json
import os
import random
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn, Protocol

from . import execution, kernel
from .confinement import Layers, answer_fork, close_all_but
from .execution import Reply, Run, has_ended, kill_group, reap_group, reply
from .protocol import Limits

FRESH_AT_ONCE = 1
RUNNING_AT_ONCE = 4
GRACE_S = 5.0
"""For the forks themselves, and for a fork to say that it is there."""
CREDENTIALS = struct.Struct("=iII")


class Host(Protocol):
    """What a fan-out needs of the supervisor that runs it."""

    layers: Layers
    fans: "set[ForkServer]"

    def pipe(self, writers: contextlib.ExitStack) -> tuple[int, int]:
        """A pipe whose read end does not block; the write end is closed with the stack."""
        ...

    def fork(self, report: int, keep: tuple[int, ...], body: Callable[[], None]) -> int:
        """A child in a session of its own that does `body` and ends."""
        ...

    def listen(self, fd: int, act: Callable[[], object]) -> None:
        """Call `act` whenever the descriptor can be read."""
        ...

    def forget(self, fd: int) -> None:
        """Stop listening to a descriptor, if one does."""
        ...

    def read_on(self, fd: int, read: Callable[[], int]) -> None:
        """Read once; forget the descriptor at its end."""
        ...

    def send(self, header: Reply, body: bytes = b"") -> None:
        """Send an answer to the parent."""
        ...


class ForkedStep:
    """One next step: waiting for its process, then for its turn, then running, then done."""

    def __init__(self, ident: int, step: str, limits: Limits) -> None:
        self.run = Run(ident, limits)
        self.step = step
        self.channel: socket.socket | None = None
        self.pid = 0
        self.running = False
        self.done = False


class ForkServer:
    """One fan-out request in the zygote."""

    def __init__(
        self, judge: Host, ids: list[int], codes: list[str], steps: list[str], limits: Limits
    ) -> None:
        self.judge = judge
        self.candidates = [ForkedStep(i, s, limits) for i, s in zip(ids, steps, strict=True)]
        self.prefix = Run(-1, limits)
        self.listener = -1
        self.granted = 0
        self._greeted: set[int] = set()
        self._prefix_wall_s = 0.0
        self.ready = False
        self.ended: tuple[int, float] | None = None
        """How the prefix's process ended: its wait status and processor seconds."""
        self.deadline = 0.0
        self.freed = False
        with contextlib.ExitStack() as theirs:
            try:
                self._start(theirs, codes, limits)
            except OSError:
                self._close()
                raise

    def _start(self, theirs: contextlib.ExitStack, codes: list[str], limits: Limits) -> None:
        judge = self.judge
        ends = []
        self.prefix.report, report = judge.pipe(theirs)
        for candidate in self.candidates:
            run = candidate.run
            run.out, out = judge.pipe(theirs)
            run.err, err = judge.pipe(theirs)
            candidate.channel, channel = socket.socketpair()
            candidate.channel.setblocking(False)
            candidate.channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            theirs.callback(channel.close)
            ends.append((channel.fileno(), out, err))
        ours, control = socket.socketpair()
        theirs.callback(ours.close)
        theirs.callback(control.close)
        keep = (control.fileno(), *(fd for end in ends for fd in end))
        pid = judge.fork(
            report, keep, lambda: run_prefix(codes, ends, control, limits, judge.layers)
        )
        control.close()
        self.prefix.begin(pid, wall_s=limits.wall_s, cpu_s=limits.cpu_s)
        if judge.layers.on("seccomp"):
            ours.settimeout(GRACE_S)
            with contextlib.suppress(OSError):
                _, fds, _, _ = socket.recv_fds(ours, 1, 1)
                self.listener = fds[0] if fds else -1
        if self.listener >= 0:
            judge.listen(self.listener, self._gate)
        judge.listen(self.prefix.report, self._prefix_says)
        for candidate in self.candidates:
            assert candidate.channel is not None
            judge.listen(candidate.channel.fileno(), partial(self._greet, candidate))

    def _gate(self) -> None:
        if not self.ready:
            self._prefix_says()  # which comes before its first fork, but may be read after it
        grant = self.ready and self.granted < len(self.candidates)
        try:
            answer_fork(self.listener, grant)
            self.granted += grant
        except OSError:
            self._close_gate()

    def _close_gate(self) -> None:
        if self.listener >= 0:
            self.judge.forget(self.listener)
            os.close(self.listener)
            self.listener = -1

    def _prefix_says(self) -> None:
        if self.prefix.read_report() == 0:
            self.judge.forget(self.prefix.report)
        if self.prefix.said and not self.ready:
            self.ready = True
            self.prefix.spent_s = self.prefix.cpu_used()
            now = time.monotonic()
            self._prefix_wall_s = now - self.prefix.start
            self.deadline = now + GRACE_S

    def _greet(self, candidate: ForkedStep) -> None:
        """The first word on a candidate's channel says by its credentials who it is."""
        channel = candidate.channel
        assert channel is not None
        if candidate.pid:
            if candidate.run.read_report() == 0:
                self.judge.forget(channel.fileno())
            return
        try:
            _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(CREDENTIALS.size))
        except OSError:
            ancillary = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                candidate.pid = CREDENTIALS.unpack(data[: CREDENTIALS.size])[0]
        # A hostile prefix may speak for several candidates at once; only the first word counts.
        if candidate.pid <= 0 or candidate.pid in self._greeted:
            candidate.pid = 0
            self.judge.forget(channel.fileno())
        self._greeted.add(candidate.pid)

    def next_deadline(self) -> float:
        """When the judge must look at this fan-out again."""
        ends = [c.run.next_deadline() for c in self.candidates if c.running]
        if self.ended is None:
            ends.append(self.deadline if self.ready else self.prefix.next_deadline())
        elif any(not c.pid and not c.done for c in self.candidates):
            ends.append(self.deadline)
        return min(ends, default=time.monotonic() + GRACE_S)

    def step(self, now: float) -> None:
        """Bring everything up to date with the clock and with what has ended."""
        if self.ended is None:
            self._watch_prefix(now)
        for candidate in self.candidates:
            if candidate.running:
                self._watch(candidate, now)
        if self.ended is not None:
            self._admit(now)
        if self.ended is not None and all(c.done for c in self.candidates):
            self._close()
            self.judge.fans.discard(self)
        elif not self.freed and self._only_slow(now):
            self.freed = True
            self.judge.send({"slow": self.candidates[0].run.id})

    def _only_slow(self, now: float) -> bool:
        """Whether nothing is left but slow ones, so that the zygote can take on more."""
        if self.ended is None:
            return not self.ready and now >= self.prefix.slow_at
        return all(c.done or (c.running and c.run.slow) for c in self.candidates)

    def _watch_prefix(self, now: float) -> None:
        prefix = self.prefix
        if has_ended(prefix.pid):
            # Peeked at, not reaped: its number stays the group's until `_close`.
            status = os.waitid(os.P_PID, prefix.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            assert status is not None
            killed = status.si_code != os.CLD_EXITED
            wait_status = status.si_status if killed else status.si_status << 8
            self.ended = (wait_status, prefix.cpu_used())
            self.deadline = now + GRACE_S
            prefix.read_report()
            if not self.ready or prefix.sentence is not None:
                self._fail_all()
        elif self.ready:
            if now >= self.deadline:
                prefix.end("wall")
        else:
            prefix.watch(now)

    def _fail_all(self) -> None:
        """The prefix never came to its end: every candidate shares its fate."""
        assert self.ended is not None
        self.prefix.said.clear()
        for candidate in self.candidates:
            if not candidate.done:
                self._reply(candidate, reply(self.prefix, *self.ended))

    def _reply(self, candidate: ForkedStep, answer: Reply, body: bytes = b"") -> None:
        candidate.done = True
        candidate.running = False
        self.judge.send(answer | {"id": candidate.run.id}, body)

    def _admit(self, now: float) -> None:
        for candidate in self.candidates:
            running = [c for c in self.candidates if c.running]
            fresh = sum(not c.run.slow for c in running)
            if fresh >= FRESH_AT_ONCE or len(running) >= RUNNING_AT_ONCE:
                return
            if candidate.done or candidate.running:
                continue
            if candidate.pid:
                self._go(candidate)
            elif now >= self.deadline:
                self._reply(candidate, reply(self.prefix, 0, 0.0))

    def _go(self, candidate: ForkedStep) -> None:
        prefix, run, channel = self.prefix, candidate.run, candidate.channel
        assert channel is not None
        wall = max(prefix.limits.wall_s - self._prefix_wall_s, 0.01)
        run.spent_s, run.group = prefix.spent_s, prefix.pid
        run.begin(candidate.pid, wall_s=wall, cpu_s=max(run.limits.cpu_s - prefix.spent_s, 0.01))
        run.report = os.dup(channel.fileno())
        candidate.running = True
        self.judge.listen(run.out, partial(self.judge.read_on, run.out, run.read_output))
        self.judge.listen(run.err, partial(self.judge.read_on, run.err, run.read_errors))
        try:
            # The parent fans out no long steps (FAN_STEP): this fits the socket's buffer, so it
            # neither waits nor sends a part.
            channel.send(json.dumps(candidate.step).encode("ascii"))
            channel.shutdown(socket.SHUT_WR)
        except OSError:
            run.end("gone")

    def _watch(self, candidate: ForkedStep, now: float) -> None:
        run = candidate.run
        if not has_ended(run.pid):
            run.watch(now)
            run.slow = run.slow or now >= run.slow_at
            return
        _, status, usage = os.wait4(run.pid, 0)
        run.drain()
        answer = reply(run, status, usage.ru_utime + usage.ru_stime)
        answer["prefix_s"] = self._prefix_wall_s
        self._reply(candidate, answer, bytes(run.stdout))

    def cancel(self, ident: int) -> None:
        """End one candidate; the others do not notice."""
        for candidate in self.candidates:
            if candidate.run.id == ident and not candidate.done:
                if candidate.running:
                    candidate.run.end("cancel")
                else:
                    self._reply(candidate, reply(self.prefix, 0, 0.0))
        if self.ended is None and all(c.done for c in self.candidates):
            self.prefix.end("cancel")

    def _close(self) -> None:
        if self.prefix.pid:
            kill_group(self.prefix.pid)
            reap_group(self.prefix.pid)
        self._close_gate()
        for run in (self.prefix, *(c.run for c in self.candidates)):
            for fd in (run.out, run.err, run.report):
                self.judge.forget(fd)
            run.close()
        for candidate in self.candidates:
            if candidate.channel is not None:
                self.judge.forget(candidate.channel.fileno())
                candidate.channel.close()


def run_prefix(
    codes: list[str],
    ends: list[tuple[int, int, int]],
    control: socket.socket,
    limits: Limits,
    layers: Layers,
) -> NoReturn:
    """The prefix's process: run it, then fork once for each candidate, then end."""
    zygote = os.getppid()
    layers.confine_forking(limits, 3 * len(ends) + 64, control)
    control.close()
    fork, write, leave, dumps = os.fork, os.write, os._exit, json.dumps
    state, restore = random.getstate, random.setstate
    scope, codes = execution.begin(codes)
    prefix_s = execution.replay(codes, scope)
    write(execution.REPORT, dumps({"prefix_s": prefix_s}).encode("ascii"))
    drawn = state()
    for end in ends:
        if not fork():
            restore(drawn)  # `random` seeds itself anew in every fork
            run_candidate(end, scope, zygote, layers)
    while True:
        leave(0)


def run_candidate(
    end: tuple[int, int, int], scope: dict[str, object], zygote: int, layers: Layers
) -> NoReturn:
    """A candidate's process: wait for its turn, confine, run the step, report."""
    channel, out, err = end
    os.dup2(channel, execution.REPORT)
    close_all_but([execution.REPORT, out, err])
    os.write(execution.REPORT, b"+")
    text = b"".join(iter(lambda: os.read(execution.REPORT, 1 << 16), b""))
    if not text:
        os._exit(0)
    # Told to go, so the prefix's process has ended and the zygote is the parent.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    if os.getppid() != zygote:
        os._exit(0)
    layers.confine_candidate()
    execution.finish(execution.run_step(json.loads(text), scope, (out, err)))
