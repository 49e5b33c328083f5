"""The zygote's main loop: receives requests, forks a process per run, watches, reaps, replies.

Single-threaded, and never waiting for anything that a snippet can touch.
"""

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from . import execution, kernel, protocol
from .confinement import Layers
from .execution import CHUNK, Reply, Run, has_ended, kill_group, reap_group, reply
from .fanout import ForkServer
from .protocol import Limits

MAX_WAIT_S = 60.0


class Supervisor:
    """Serves one connection until it ends."""

    def __init__(self, control: socket.socket, layers: Layers) -> None:
        self.control = control
        self.layers = layers
        self.pid = os.getpid()
        self.runs: dict[int, Run] = {}
        """Plain runs by request id."""
        self.fans: set[ForkServer] = set()
        self.selector = selectors.DefaultSelector()
        self._decoder = protocol.Decoder()
        self._outgoing = bytearray()
        self._open = True
        control.setblocking(False)
        self.listen(control.fileno(), self._receive)
        self._wake_on_children()

    def _wake_on_children(self) -> None:
        awake, waker = os.pipe()
        for fd in (awake, waker):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        self.listen(awake, lambda: os.read(awake, 4096))

    def stop(self) -> None:
        """Leave the loop at its next turn."""
        self._open = False

    def listen(self, fd: int, act: Callable[[], object]) -> None:
        """Call `act` whenever the descriptor can be read."""
        self.selector.register(fd, selectors.EVENT_READ, act)

    def forget(self, fd: int) -> None:
        """Stop listening to a descriptor, if one does."""
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(fd)

    def serve(self) -> None:
        """Serve until the parent is gone; then end everything that still runs."""
        try:
            while self._open:
                for key, _ in self.selector.select(self._timeout()):
                    if key.fd in self.selector.get_map():
                        key.data()
                self._step()
                self._flush()
        finally:
            self._end_all()

    def _timeout(self) -> float:
        if self._outgoing:
            return 0.01
        ends = [run.next_deadline() for run in self.runs.values()]
        ends += [fan.next_deadline() for fan in self.fans]
        if not ends:
            return MAX_WAIT_S
        return min(max(min(ends) - time.monotonic(), 0.0), MAX_WAIT_S)

    def _step(self) -> None:
        now = time.monotonic()
        for run in list(self.runs.values()):
            if has_ended(run.pid):
                self._finish(run)
            else:
                run.watch(now)
                if not run.slow and now >= run.slow_at:
                    run.slow = True
                    self.send({"slow": run.id})
        for fan in list(self.fans):
            fan.step(now)

    def _receive(self) -> None:
        try:
            data = self.control.recv(CHUNK)
        except BlockingIOError:
            return
        if not data:
            self.stop()
            return
        for request, _ in self._decoder.feed(data):
            self._accept(request)

    def _accept(self, request: dict[str, Any]) -> None:
        if "cancel" in request:
            self._cancel(request["cancel"])
            return
        limits = Limits(**request["limits"])
        ids = request["ids"]
        try:
            if len(ids) == 1:
                self._start(ids[0], request["codes"], request["steps"][0], limits)
            else:
                self.fans.add(ForkServer(self, ids, request["codes"], request["steps"], limits))
        except OSError as e:
            # No process or no memory for one: the parent's to decide, it may try again.
            for ident in ids:
                self.send({"id": ident, "refused": f"{e.strerror}"})

    def _cancel(self, ident: int) -> None:
        if ident in self.runs:
            self.runs[ident].end("cancel")
        for fan in self.fans:
            fan.cancel(ident)

    def _start(self, ident: int, codes: list[str], step: str, limits: Limits) -> None:
        run = Run(ident, limits)
        with contextlib.ExitStack() as writers:
            pipes = [self.pipe(writers) for _ in range(3)]
            (run.out, out), (run.err, err), (run.report, report) = pipes
            try:
                pid = self.fork(
                    report,
                    (out, err),
                    lambda: execution.run(codes, step, (out, err), limits, self.layers),
                )
            except OSError:
                run.close()
                raise
        run.begin(pid, wall_s=limits.wall_s, cpu_s=limits.cpu_s)
        self.runs[ident] = run
        self.watch_pipes(run)

    def pipe(self, writers: contextlib.ExitStack) -> tuple[int, int]:
        """A pipe whose read end does not block; the write end is closed with the stack."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        writers.callback(os.close, write)
        return read, write

    def fork(self, report: int, keep: tuple[int, ...], body: Callable[[], None]) -> int:
        """A child in a session of its own that does `body` and ends; never returns in the child."""
        pid = kernel.fork()
        if pid:
            return pid
        try:
            for fd in (0, 1, 2):
                os.dup2(execution.REPORT, fd)  # /dev/null until the report takes its place
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            execution.detach(report, keep, self.pid, self.layers)
            body()
        finally:
            os._exit(71)

    def watch_pipes(self, run: Run) -> None:
        """Read the run's pipes as they fill."""
        for fd, read in (
            (run.out, run.read_output),
            (run.err, run.read_errors),
            (run.report, run.read_report),
        ):
            self.listen(fd, partial(self.read_on, fd, read))

    def read_on(self, fd: int, read: Callable[[], int]) -> None:
        """Read once; forget the descriptor at its end."""
        if read() == 0:
            self.forget(fd)

    def reap(self, run: Run, wait_status: int, cpu_s: float) -> None:
        """Reply for a process that has ended, and close what belonged to it."""
        run.drain()
        self.send(reply(run, wait_status, cpu_s), bytes(run.stdout))
        for fd in (run.out, run.err, run.report):
            self.forget(fd)
        run.close()

    def _finish(self, run: Run) -> None:
        del self.runs[run.id]
        kill_group(run.pid)
        _, status, usage = os.wait4(run.pid, 0)
        reap_group(run.pid)
        self.reap(run, status, usage.ru_utime + usage.ru_stime)

    def send(self, header: Reply, body: bytes = b"") -> None:
        """Queue a frame for the parent."""
        self._outgoing += protocol.encode(header, body)

    def _flush(self) -> None:
        while self._outgoing:
            try:
                sent = self.control.send(self._outgoing)
            except BlockingIOError:
                return
            except OSError:
                self.stop()
                return
            del self._outgoing[:sent]

    def _end_all(self) -> None:
        for run in [*self.runs.values(), *(fan.prefix for fan in self.fans)]:
            run.end("cancel")
            kill_group(run.pid)
            reap_group(run.pid)
