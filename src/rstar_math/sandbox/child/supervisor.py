"""The zygote's main loop: receives requests, forks a process per run, enforces limits, replies.

The loop is single-threaded and never blocks on anything that a snippet controls.
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

from . import execution, protocol
from .confinement import Layers
from .fanout import ForkServer
from .forker import Forker, ForkerEndedError
from .protocol import Limits
from .run import CHUNK_BYTES, Reply, Run, build_reply, has_ended, kill_group, reap_group

MAX_WAIT_S = 60.0


class Supervisor:
    """Serves one connection to the parent until it closes."""

    def __init__(self, control: socket.socket, layers: Layers) -> None:
        self.control = control
        self.layers = layers
        self.forker = Forker(layers)
        layers.confine_supervisor()
        self.runs: dict[int, Run] = {}
        """Runs outside fan-outs, by run id."""
        self.fork_servers: set[ForkServer] = set()
        self.selector = selectors.EpollSelector()
        self._decoder = protocol.Decoder()
        self._outgoing = bytearray()
        self._open = True
        control.setblocking(False)
        self.listen(control.fileno(), self._receive)
        self._install_signal_handlers()

    def _install_signal_handlers(self) -> None:
        """Wake the loop when a child ends; stop it on SIGTERM."""
        read_end, write_end = os.pipe()
        for fd in (read_end, write_end):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        self.listen(read_end, lambda: os.read(read_end, 4096))

    def stop(self) -> None:
        """Leave the loop after its current iteration."""
        self._open = False

    def listen(self, fd: int, callback: Callable[[], object]) -> None:
        """Call `callback` whenever the descriptor is readable."""
        self.selector.register(fd, selectors.EVENT_READ, callback)

    def unlisten(self, fd: int) -> None:
        """Stop listening to a descriptor; does nothing if it is not registered."""
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(fd)

    def serve(self) -> None:
        """Serve until the parent is gone, then kill everything that still runs."""
        try:
            while self._open:
                for key, _ in self.selector.select(self._timeout()):
                    if key.fd in self.selector.get_map():
                        key.data()
                self._step()
                self._flush()
        finally:
            self._kill_all()

    def _timeout(self) -> float:
        if self._outgoing:
            return 0.01
        deadlines = [run.next_deadline() for run in self.runs.values()]
        deadlines += [server.next_deadline() for server in self.fork_servers]
        if not deadlines:
            return MAX_WAIT_S
        return min(max(min(deadlines) - time.monotonic(), 0.0), MAX_WAIT_S)

    def _step(self) -> None:
        now = time.monotonic()
        for run in list(self.runs.values()):
            if has_ended(run.pid):
                self._finish(run)
            else:
                run.enforce_times(now)
                if not run.slow and now >= run.slow_at:
                    run.slow = True
                    self.send({"slow": run.id})
        for server in list(self.fork_servers):
            server.step(now)

    def _receive(self) -> None:
        try:
            data = self.control.recv(CHUNK_BYTES)
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
        ids, prefix, steps = request["ids"], request["prefix"], request["steps"]
        try:
            if len(ids) == 1:
                writes = request["writes"] and self.layers.scratch is not None
                self._start(Run(ids[0], limits, writes=writes), [*prefix, *steps])
            else:
                self.fork_servers.add(ForkServer(self, ids, prefix, steps, limits))
        except ForkerEndedError:
            self.stop()  # the parent starts another zygote and repeats what was running
        except OSError as e:
            # The system has no process or memory for it. The parent decides whether to try again.
            for run_id in ids:
                self.send({"id": run_id, "refused": f"{e.strerror}"})

    def _cancel(self, run_id: int) -> None:
        if run_id in self.runs:
            self.runs[run_id].kill("cancel")
        for server in self.fork_servers:
            server.cancel(run_id)

    def _start(self, run: Run, codes: list[str]) -> None:
        limits = run.limits
        with contextlib.ExitStack() as write_ends:
            pipes = [self.pipe(write_ends) for _ in range(3)]
            (run.stdout_fd, stdout), (run.stderr_fd, stderr), (run.report_fd, report) = pipes
            try:
                code = execution.code_file(codes)
                write_ends.callback(os.close, code)
                pid = self.forker.start_program(
                    report, (stdout, stderr), code, limits, writes=run.writes
                )
            except OSError:
                run.close()
                raise
        run.start_clocks(pid, wall_s=limits.wall_s, cpu_s=limits.cpu_s)
        self.runs[run.id] = run
        for fd, read in (
            (run.stdout_fd, run.read_stdout),
            (run.stderr_fd, run.read_stderr),
            (run.report_fd, run.read_report),
        ):
            self.listen(fd, partial(self.read_once, fd, read))

    def pipe(self, write_ends: contextlib.ExitStack) -> tuple[int, int]:
        """A pipe whose read end does not block. Closing the stack closes the write end."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        write_ends.callback(os.close, write)
        return read, write

    def read_once(self, fd: int, read: Callable[[], int]) -> None:
        """Call `read`; stop listening to the descriptor at its end."""
        if read() == 0:
            self.unlisten(fd)

    def _finish(self, run: Run) -> None:
        """Reap a process that has ended, reply for it and close its pipes."""
        del self.runs[run.id]
        kill_group(run.pid)
        _, status, usage = os.wait4(run.pid, 0)
        reap_group(run.pid)
        run.drain()
        reply = build_reply(run, status, usage.ru_utime + usage.ru_stime)
        self.send(reply, bytes(run.stdout))
        for fd in (run.stdout_fd, run.stderr_fd, run.report_fd):
            self.unlisten(fd)
        run.close()

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

    def _kill_all(self) -> None:
        for run in [*self.runs.values(), *(server.prefix for server in self.fork_servers)]:
            run.kill("cancel")
            kill_group(run.pid)
            reap_group(run.pid)
