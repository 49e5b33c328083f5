"""Fan-out: runs a prefix once, then forks the process once for each candidate next step.

The process that ran the prefix has run hostile code and must still fork. The kernel therefore stops
each of its forks and asks the supervisor (seccomp user notification). The supervisor refuses all
forks while the prefix runs, then grants one per candidate. When the process has ended, its forks
become children of the zygote, which is their subreaper. The supervisor sends each its code in turn
and limits it like any other run. The kernel attests the identity of a fork (SCM_CREDENTIALS).
"""

import contextlib
import json
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, Protocol

from . import execution, kernel
from .confinement import Layers, answer_fork, close_all_but
from .protocol import NEEDS_SCRATCH, Limits
from .run import Reply, Run, build_reply, has_ended, kill_group, parse_report, reap_group

MAX_FAST_RUNNING = 1
"""Candidates that run at once and are not slow yet."""
MAX_RUNNING = 4
"""Candidates that run at once."""
GRACE_S = 5.0
"""Time limit for the forks themselves, and for a fork to identify itself."""
CREDENTIALS = struct.Struct("=iII")
Endpoints = tuple[int, int, int]
"""A candidate's descriptors in its process: channel, stdout, stderr."""


class PrefixStarter(Protocol):
    """The method of the forker that a fork server uses."""

    def start_prefix(
        self,
        report: int,
        listener_sender: int,
        endpoints: Sequence[Endpoints],
        code: int,
        limits: Limits,
    ) -> int:
        """The pid of a new process that runs the prefix of a fan-out. Raises OSError."""
        ...


class Host(Protocol):
    """The methods of the supervisor that a fork server uses."""

    layers: Layers
    fork_servers: "set[ForkServer]"

    @property
    def forker(self) -> PrefixStarter:
        """Starts the process of a prefix."""
        ...

    def pipe(self, write_ends: contextlib.ExitStack) -> tuple[int, int]:
        """A pipe whose read end does not block. Closing the stack closes the write end."""
        ...

    def listen(self, fd: int, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the descriptor is readable."""
        ...

    def unlisten(self, fd: int) -> None:
        """Stop listening to a descriptor; does nothing if it is not registered."""
        ...

    def read_once(self, fd: int, read: Callable[[], int]) -> None:
        """Call `read`; stop listening to the descriptor at its end."""
        ...

    def send(self, header: Reply, body: bytes = b"") -> None:
        """Queue a frame for the parent."""
        ...


class ForkedStep:
    """One candidate step. It waits for its process, then for its turn, runs, and is done."""

    def __init__(self, run_id: int, step: str, limits: Limits) -> None:
        self.run = Run(run_id, limits)
        self.step = step
        self.channel: socket.socket | None = None
        """To the candidate's process: receives its identity and report, sends its code."""
        self.pid = 0
        self.running = False
        self.done = False


class ForkServer:
    """One fan-out request in the zygote: a prefix and its candidates."""

    def __init__(
        self, supervisor: Host, ids: list[int], codes: list[str], steps: list[str], limits: Limits
    ) -> None:
        self.supervisor = supervisor
        self.candidates = [ForkedStep(i, s, limits) for i, s in zip(ids, steps, strict=True)]
        self.prefix = Run(-1, limits)
        self.listener = -1
        """The descriptor on which the kernel asks about forks."""
        self.forks_granted = 0
        self._identified: set[int] = set()
        self._prefix_wall_s = 0.0
        self.prefix_done = False
        """Whether the prefix's code has run to its end. Its process may still be forking."""
        self.exit: tuple[int, float] | None = None
        """The wait status and processor seconds of the prefix's process, once it has ended."""
        self.deadline = 0.0
        self.announced_slow = False
        with contextlib.ExitStack() as child_ends:
            try:
                self._start(child_ends, codes, limits)
            except OSError:
                self._close()
                raise

    def _start(self, child_ends: contextlib.ExitStack, codes: list[str], limits: Limits) -> None:
        supervisor = self.supervisor
        endpoints: list[Endpoints] = []
        self.prefix.report_fd, report = supervisor.pipe(child_ends)
        for candidate in self.candidates:
            run = candidate.run
            run.stdout_fd, stdout = supervisor.pipe(child_ends)
            run.stderr_fd, stderr = supervisor.pipe(child_ends)
            candidate.channel, channel = socket.socketpair()
            candidate.channel.setblocking(False)
            candidate.channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            child_ends.callback(channel.close)
            endpoints.append((channel.fileno(), stdout, stderr))
        listener_receiver, listener_sender = socket.socketpair()
        child_ends.callback(listener_receiver.close)
        child_ends.callback(listener_sender.close)
        code = execution.code_file(codes)
        child_ends.callback(os.close, code)
        pid = supervisor.forker.start_prefix(
            report, listener_sender.fileno(), endpoints, code, limits
        )
        listener_sender.close()
        self.prefix.start_clocks(pid, wall_s=limits.wall_s, cpu_s=limits.cpu_s)
        if supervisor.layers.enabled("seccomp"):
            listener_receiver.settimeout(GRACE_S)
            with contextlib.suppress(OSError):
                _, fds, _, _ = socket.recv_fds(listener_receiver, 1, 1)
                self.listener = fds[0] if fds else -1
        if self.listener >= 0:
            supervisor.listen(self.listener, self._answer_fork)
        supervisor.listen(self.prefix.report_fd, self._read_prefix_report)
        for candidate in self.candidates:
            assert candidate.channel is not None
            supervisor.listen(candidate.channel.fileno(), partial(self._read_channel, candidate))

    def _answer_fork(self) -> None:
        if not self.prefix_done:
            # The report is written before the first fork but may be read after it.
            self._read_prefix_report()
        grant = self.prefix_done and self.forks_granted < len(self.candidates)
        try:
            answer_fork(self.listener, grant)
            self.forks_granted += grant
        except OSError:
            self._close_listener()

    def _close_listener(self) -> None:
        if self.listener >= 0:
            self.supervisor.unlisten(self.listener)
            os.close(self.listener)
            self.listener = -1

    def _read_prefix_report(self) -> None:
        if self.prefix.read_report() == 0:
            self.supervisor.unlisten(self.prefix.report_fd)
        report = parse_report(bytes(self.prefix.report))
        if "prefix_s" in report and not self.prefix_done:
            self.prefix_done = True
            self.prefix.prefix_cpu_s = self.prefix.cpu_used()
            now = time.monotonic()
            self._prefix_wall_s = now - self.prefix.started_at
            self.deadline = now + GRACE_S

    def _read_channel(self, candidate: ForkedStep) -> None:
        """Identify a candidate's process by the credentials of its first message, then read its
        report."""
        channel = candidate.channel
        assert channel is not None
        if candidate.pid:
            if candidate.run.read_report() == 0:
                self.supervisor.unlisten(channel.fileno())
            return
        try:
            _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(CREDENTIALS.size))
        except OSError:
            ancillary = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                candidate.pid = CREDENTIALS.unpack(data[: CREDENTIALS.size])[0]
        # A hostile prefix may write to several channels at once. A process counts only once.
        if candidate.pid <= 0 or candidate.pid in self._identified:
            candidate.pid = 0
            self.supervisor.unlisten(channel.fileno())
        self._identified.add(candidate.pid)

    def next_deadline(self) -> float:
        """The time at which the supervisor must check this fan-out again."""
        deadlines = [c.run.next_deadline() for c in self.candidates if c.running]
        if self.exit is None:
            deadlines.append(self.deadline if self.prefix_done else self.prefix.next_deadline())
        elif any(not c.pid and not c.done for c in self.candidates):
            deadlines.append(self.deadline)
        return min(deadlines, default=time.monotonic() + GRACE_S)

    def step(self, now: float) -> None:
        """Enforce the limits, handle processes that have ended, and start the next candidates."""
        if self.exit is None:
            self._check_prefix(now)
        for candidate in self.candidates:
            if candidate.running:
                self._check(candidate, now)
        if self.exit is not None:
            self._admit(now)
        if self.exit is not None and all(c.done for c in self.candidates):
            self._close()
            self.supervisor.fork_servers.discard(self)
        elif not self.announced_slow and self._only_slow_left(now):
            self.announced_slow = True
            self.supervisor.send({"slow": self.candidates[0].run.id})

    def _only_slow_left(self, now: float) -> bool:
        """Whether everything that still runs is slow, so that the zygote can accept more work."""
        if self.exit is None:
            return not self.prefix_done and self.prefix.slow
        return all(c.done or (c.running and c.run.slow) for c in self.candidates)

    def _check_prefix(self, now: float) -> None:
        prefix = self.prefix
        if has_ended(prefix.pid):
            # The process is not reaped: its pid must remain that of the group until `_close`.
            status = os.waitid(os.P_PID, prefix.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            assert status is not None
            killed = status.si_code != os.CLD_EXITED
            wait_status = status.si_status if killed else status.si_status << 8
            self.exit = (wait_status, prefix.cpu_used())
            self.deadline = now + GRACE_S
            prefix.read_report()
            if not self.prefix_done or prefix.kill_reason is not None:
                self._fail_all()
        elif self.prefix_done:
            if now >= self.deadline:
                prefix.kill("wall")
        else:
            prefix.enforce_times(now)
            prefix.slow = prefix.slow or now >= prefix.slow_at

    def _fail_all(self) -> None:
        """Reply to every candidate with the failure of the prefix."""
        assert self.exit is not None
        if parse_report(bytes(self.prefix.report)).get("status") != NEEDS_SCRATCH:
            self.prefix.report.clear()
        for candidate in self.candidates:
            if not candidate.done:
                self._reply(candidate, build_reply(self.prefix, *self.exit))

    def _reply(self, candidate: ForkedStep, reply: Reply, body: bytes = b"") -> None:
        candidate.done = True
        candidate.running = False
        self.supervisor.send(reply | {"id": candidate.run.id}, body)

    def _admit(self, now: float) -> None:
        """Start candidates in order, as far as the limits on concurrency allow."""
        for candidate in self.candidates:
            running = [c for c in self.candidates if c.running]
            fast = sum(not c.run.slow for c in running)
            if fast >= MAX_FAST_RUNNING or len(running) >= MAX_RUNNING:
                return
            if candidate.done or candidate.running:
                continue
            if candidate.pid:
                self._start_candidate(candidate)
            elif now >= self.deadline:
                self._reply(candidate, build_reply(self.prefix, 0, 0.0))

    def _start_candidate(self, candidate: ForkedStep) -> None:
        prefix, run, channel = self.prefix, candidate.run, candidate.channel
        assert channel is not None
        run.prefix_cpu_s, run.group = prefix.prefix_cpu_s, prefix.pid
        run.start_clocks(
            candidate.pid,
            wall_s=max(prefix.limits.wall_s - self._prefix_wall_s, 0.01),
            cpu_s=max(run.limits.cpu_s - prefix.prefix_cpu_s, 0.01),
        )
        run.report_fd = os.dup(channel.fileno())
        candidate.running = True
        supervisor = self.supervisor
        for fd, read in ((run.stdout_fd, run.read_stdout), (run.stderr_fd, run.read_stderr)):
            supervisor.listen(fd, partial(supervisor.read_once, fd, read))
        try:
            # The parent limits the length of steps in a fan-out (FAN_OUT_MAX_STEP_CHARS). The step
            # fits the socket's buffer, so `send` neither blocks nor sends only a part.
            channel.send(json.dumps(candidate.step).encode("ascii"))
            channel.shutdown(socket.SHUT_WR)
        except OSError:
            run.kill("gone")

    def _check(self, candidate: ForkedStep, now: float) -> None:
        """Enforce the limits of a running candidate; reply if it has ended."""
        run = candidate.run
        if not has_ended(run.pid):
            run.enforce_times(now)
            run.slow = run.slow or now >= run.slow_at
            return
        _, status, usage = os.wait4(run.pid, 0)
        run.drain()
        reply = build_reply(run, status, usage.ru_utime + usage.ru_stime)
        reply["prefix_s"] = self._prefix_wall_s
        self._reply(candidate, reply, bytes(run.stdout))

    def cancel(self, run_id: int) -> None:
        """End one candidate without affecting the others."""
        for candidate in self.candidates:
            if candidate.run.id == run_id and not candidate.done:
                if candidate.running:
                    candidate.run.kill("cancel")
                else:
                    self._reply(candidate, build_reply(self.prefix, 0, 0.0))
        if self.exit is None and all(c.done for c in self.candidates):
            self.prefix.kill("cancel")

    def _close(self) -> None:
        if self.prefix.pid:
            kill_group(self.prefix.pid)
            reap_group(self.prefix.pid)
        self._close_listener()
        for run in (self.prefix, *(c.run for c in self.candidates)):
            for fd in (run.stdout_fd, run.stderr_fd, run.report_fd):
                self.supervisor.unlisten(fd)
            run.close()
        for candidate in self.candidates:
            if candidate.channel is not None:
                self.supervisor.unlisten(candidate.channel.fileno())
                candidate.channel.close()


def run_prefix(
    codes: list[str],
    endpoints: list[Endpoints],
    listener_sender: socket.socket,
    limits: Limits,
    layers: Layers,
) -> NoReturn:
    """The main function of the prefix's process: run the prefix, fork per candidate, exit.

    A prefix that wants to write files, or leaves descriptors open, is not fanned out, so that no
    fork shares them with others. Each candidate then runs alone, after the prefix.
    """
    zygote = os.getppid()
    files = 3 * len(endpoints) + 64
    layers.confine_forking(limits, files, listener_sender)
    listener_sender.close()
    execution.end_when_it_writes(layers)
    descriptors = open_descriptors(files)
    # Bound before the hostile code runs, which could replace them in their modules.
    fork, write, exit_process, dumps = os.fork, os.write, os._exit, json.dumps
    get_state, set_state = random.getstate, random.setstate
    scope, codes = execution.new_namespace(codes)
    prefix_s = execution.replay_prefix(codes, scope)
    if open_descriptors(files) != descriptors:
        execution.ask_for_scratch()
    write(execution.REPORT_FD, dumps({"prefix_s": prefix_s}).encode("ascii"))
    random_state = get_state()
    for fds in endpoints:
        if not fork():
            set_state(random_state)  # `random` reseeds itself after every fork
            run_candidate(fds, scope, zygote, layers)
    while True:
        exit_process(0)


_NOT_OPEN = select.POLLNVAL
_poll = select.poll


def open_descriptors(limit: int) -> list[int]:
    """The descriptors below `limit` that are open in this process."""
    poll = _poll()
    for fd in range(limit):
        poll.register(fd, 0)
    closed = {fd for fd, event in poll.poll(0) if event & _NOT_OPEN}
    return [fd for fd in range(limit) if fd not in closed]


def run_candidate(
    endpoints: Endpoints, scope: dict[str, object], zygote: int, layers: Layers
) -> NoReturn:
    """The main function of a candidate's process: wait for the code, confine, run it, report."""
    channel, stdout, stderr = endpoints
    os.dup2(channel, execution.REPORT_FD)
    close_all_but([execution.REPORT_FD, stdout, stderr])
    os.write(execution.REPORT_FD, b"+")
    message = b"".join(iter(lambda: os.read(execution.REPORT_FD, 1 << 16), b""))
    if not message:
        os._exit(0)
    # The code comes only after the prefix's process has ended, so the zygote is now the parent.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    if os.getppid() != zygote:
        os._exit(0)
    layers.confine_candidate()
    step = json.loads(message)
    execution.report_and_exit(execution.run_step(step, scope, (stdout, stderr)))
