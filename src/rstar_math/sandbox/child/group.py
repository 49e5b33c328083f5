"""Ends of processes and process groups. A process is peeked at first and reaped last, so that its
group's number stays taken until all of the group is dead."""

import contextlib
import os
import signal


def has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays to be reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def kill_group(group: int) -> None:
    """Kill what is left of a process group."""
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def reap_group(group: int) -> None:
    """Reap a killed process group."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)
