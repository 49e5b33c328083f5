"""A process that forks all others and never holds a program or its output. Trusted.

The supervisor holds the code and the output of every run. A process forked from the supervisor
would inherit its memory, so that a snippet could read what other snippets are and print. The
forker is a copy of the zygote from before the first request. It gets descriptors only: those of the
pipes of a run, and that of a file with its code, which only the new process reads. Its forks are
made with CLONE_PARENT, so that they are children of the supervisor, not its own.
"""

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

from . import execution, fanout, kernel
from .confinement import Layers
from .protocol import Limits

_PID = struct.Struct("=q")
MAX_DESCRIPTORS = 253
"""Descriptors that one message can carry (SCM_MAX_FD)."""
_TASK_BYTES = 1 << 12


class ForkerEndedError(Exception):
    """The forker is gone, for example killed for memory. Its zygote is of no use any more."""


class Forker:
    """The supervisor's side: it asks for processes."""

    def __init__(self, layers: Layers) -> None:
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor = os.getpid()
        self.pid = kernel.fork()
        if not self.pid:
            try:
                self._channel.close()
                _serve(other, supervisor, layers)
            finally:
                os._exit(72)
        other.close()

    def start_program(
        self, report: int, outputs: tuple[int, int], code: int, limits: Limits, *, writes: bool
    ) -> int:
        """The pid of a new process that runs a program; `writes` gives it a scratch folder.

        Raises OSError if there can be none, and `ForkerEndedError`.
        """
        return self._ask({"kind": "program", "writes": writes}, [report, code, *outputs], limits)

    def start_prefix(
        self,
        report: int,
        listener_sender: int,
        endpoints: Sequence[tuple[int, int, int]],
        code: int,
        limits: Limits,
    ) -> int:
        """The pid of a new process that runs the prefix of a fan-out. Raises as above."""
        fds = [report, code, listener_sender, *(fd for each in endpoints for fd in each)]
        return self._ask({"kind": "prefix"}, fds, limits)

    def _ask(self, task: dict[str, Any], fds: list[int], limits: Limits) -> int:
        values = {name: getattr(limits, name) for name in Limits.__slots__}
        message = json.dumps(task | {"limits": values}).encode("ascii")
        try:
            socket.send_fds(self._channel, [message], fds)
            answer = self._channel.recv(_PID.size)
        except ConnectionError as error:
            raise ForkerEndedError from error
        if len(answer) < _PID.size:
            raise ForkerEndedError
        pid: int = _PID.unpack(answer)[0]
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid


def _serve(channel: socket.socket, supervisor: int, layers: Layers) -> NoReturn:
    """Fork on request until the supervisor is gone."""
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
        if os.getppid() != supervisor:
            os._exit(0)
    while True:
        message, fds, _, _ = socket.recv_fds(channel, _TASK_BYTES, MAX_DESCRIPTORS)
        if not message:
            os._exit(0)
        try:
            pid = kernel.fork_sibling()
        except OSError as error:
            pid = -(error.errno or 1)
        if not pid:
            _run(json.loads(message), fds, supervisor, layers)
        for fd in fds:
            os.close(fd)
        channel.send(_PID.pack(pid))


def _run(task: dict[str, Any], fds: list[int], supervisor: int, layers: Layers) -> NoReturn:
    """The main function of a forked process: a new session, its descriptors, its code."""
    try:
        limits = Limits(**task["limits"])
        report, code, *keep = fds
        for fd in (0, 1, 2):
            # Descriptor 3 is /dev/null until `detach` puts the report there.
            os.dup2(execution.REPORT_FD, fd)
        execution.detach(report, (code, *keep), supervisor, layers)
        codes = execution.read_codes(code)
        if task["kind"] == "program":
            stdout, stderr = keep
            writes = task["writes"]
            execution.run_program(codes, (stdout, stderr), limits, layers, writes=writes)
        listener_sender, *ends = keep
        endpoints = list(zip(ends[::3], ends[1::3], ends[2::3], strict=True))
        fanout.run_prefix(codes, endpoints, socket.socket(fileno=listener_sender), limits, layers)
    finally:
        os._exit(71)
