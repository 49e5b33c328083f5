"""Runs a server and sees to it that nothing of it outlives whoever asked for it.

    python watchdog.py PARENT GRACE_S COMMAND...

A program of its own, of the standard library alone. It ends the server when it is told to (SIGTERM)
or when the process PARENT is gone, however that ended: first politely, after GRACE_S seconds by
force, and with all that the server has started, also what has left its session or lost its parent.
A second process, the guard, kills the server's process group should the first be killed itself.
Exits with the server's code, or 128 and the signal's number.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_EVERY_S = 0.5
"""How often it looks whether its parent is there."""
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def run(parent: int, grace_s: float, command: Sequence[str]) -> int:
    """The exit code of a server that was run to its end."""
    signals = {*_TOLD, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    _guard(signals)

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=prepare)
    code = None
    while code is None and os.getppid() == parent:
        told = signal.sigtimedwait(signals, _EVERY_S)
        code = _reaped(server.pid)
        if told is not None and told.si_signo in _TOLD:
            break
    if code is None:
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGTERM)
        until = time.monotonic() + grace_s
        while code is None and time.monotonic() < until:
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
            code = _reaped(server.pid)
    last = _end_all(server.pid)
    return code if code is not None else last


def _guard(signals: set[signal.Signals]) -> None:
    """Start the guard, which ends like all that is below this process."""
    watchdog, group = os.getpid(), os.getpgrp()
    if os.fork() != 0:
        return
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    while os.getppid() == watchdog:
        time.sleep(_EVERY_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    os._exit(0)


def _reaped(server: int) -> int | None:
    """The server's exit code if it has ended; takes leave of all other children that have."""
    code = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if ended[0] == server:
                status = os.waitstatus_to_exitcode(ended[1])
                code = status if status >= 0 else 128 - status
    return code


def _end_all(server: int) -> int:
    """Kill what is left below this process, again and again until nothing is."""
    code = 128 + signal.SIGKILL
    while left := descendants(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        code = _reaped(server) or code
    return code


def descendants(root: int) -> list[int]:
    """The processes below one, zombies left out."""
    below: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                below.setdefault(int(parent), []).append(int(entry) if state != "Z" else 0)
    found, stack = [], [root]
    while stack:
        children = [pid for pid in below.get(stack.pop(), []) if pid]
        found += children
        stack += children
    return found


if __name__ == "__main__":
    raise SystemExit(run(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
