"""Runs a server and ends it, with all its descendants, when the process that needs it ends.

    python watchdog.py PARENT GRACE_S COMMAND...

This script uses only the standard library. It stops the server on SIGTERM, SIGINT or SIGHUP, or
when the process PARENT is gone for any reason. It first sends SIGTERM and, after GRACE_S seconds,
kills the server. It also kills everything the server started, including processes that left its
session or lost their parent. A second process, the guard, kills the server's process group if the
watchdog itself is killed. Exits with the server's exit code, or 128 plus the signal number.
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
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_POLL_S = 0.5
"""Interval at which the parent is checked."""
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def run(parent: int, grace_s: float, command: Sequence[str]) -> int:
    """Runs a server until it ends or has to be stopped, and returns its exit code."""
    signals = {*_STOP_SIGNALS, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    _start_guard(signals)

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=prepare)
    code = None
    while code is None and os.getppid() == parent:
        received = signal.sigtimedwait(signals, _POLL_S)
        code = _reap(server.pid)
        if received is not None and received.si_signo in _STOP_SIGNALS:
            break
    if code is None:
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while code is None and time.monotonic() < deadline:
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
            code = _reap(server.pid)
    killed_code = _kill_descendants(server.pid)
    return code if code is not None else killed_code


def _start_guard(signals: set[signal.Signals]) -> None:
    """Starts the guard. It is a descendant of the watchdog and ends with the others."""
    watchdog, group = os.getpid(), os.getpgrp()
    if os.fork() != 0:
        return
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    while os.getppid() == watchdog:
        time.sleep(_POLL_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    os._exit(0)


def _reap(server: int) -> int | None:
    """Reaps all ended children. Returns the server's exit code if it is one of them, else None."""
    code = None
    with suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if child[0] == server:
                status = os.waitstatus_to_exitcode(child[1])
                code = status if status >= 0 else 128 - status
    return code


def _kill_descendants(server: int) -> int:
    """Kills all descendants of this process, repeatedly until none is left.

    Returns the server's exit code; 128 + SIGKILL if it was reaped before.
    """
    code = 128 + signal.SIGKILL
    while remaining := descendants(os.getpid()):
        for pid in remaining:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        code = _reap(server) or code
    return code


def descendants(root: int) -> list[int]:
    """Returns the process ids of all descendants of a process, without zombies."""
    children_of: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children_of.setdefault(int(parent), []).append(int(entry))
    found, stack = [], [root]
    while stack:
        children = children_of.get(stack.pop(), [])
        found += children
        stack += children
    return found


if __name__ == "__main__":
    raise SystemExit(run(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
