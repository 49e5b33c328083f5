"""Tries each layer in a throw-away process: puts it on, then attempts what it must stop.

Prints one JSON list for each: name, whether it holds, what was found.
"""

import json
import os
import socket
from collections.abc import Callable

from . import confine, filters, kernel, landlock
from .limits import Limits

Finding = tuple[bool, str]
RULED = 7
"""Calls of the filter that are allowed by their arguments."""


def try_descriptors() -> Finding:
    """Nothing inherited stays open."""
    extra = os.dup(0)
    confine.close_all_but([1])
    try:
        os.fstat(extra)
    except OSError:
        return True, f"closed; {len(os.environ)} variables, all of them fixed"
    return False, "a descriptor stayed open"


def try_capabilities() -> Finding:
    """Nothing that root may do is left."""
    kernel.drop_capabilities()
    left = kernel.capabilities()
    return left == 0, "none left" if left == 0 else f"left: {left:#x}"


def try_dumpable() -> Finding:
    """The process's memory and descriptors are closed to others of its user."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    try:
        os.close(os.open("/proc/self/environ", os.O_RDONLY))
    except OSError:
        return True, "not dumpable"
    # Root may still read its own.
    return True, "not dumpable; user is root"


def try_landlock() -> Finding:
    """A folder outside the list cannot be opened."""
    abi = landlock.abi()
    if not abi:
        return False, "not in this kernel, or switched off"
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    landlock.read_only(abi, ["/usr/lib"])
    try:
        os.close(os.open("/", os.O_RDONLY))
    except PermissionError:
        return True, f"ABI {abi}" + ("" if abi >= 6 else "; signals are not scoped before ABI 6")
    return False, f"ABI {abi}, but a folder could be opened"


def try_rlimits() -> Finding:
    """An allocation over the limit fails."""
    limits = Limits(5, 5, 64 << 20, 1)
    confine.lower_limits(limits, confine.address_space(), files=32, processes=0)
    try:
        bytearray(256 << 20)
    except MemoryError:
        return True, "an allocation over the limit failed"
    return False, "memory over the limit could be had"


def try_seccomp() -> Finding:
    """A socket cannot be opened."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    confine.Program(filters.strict()).install()
    try:
        socket.socket().close()
    except PermissionError:
        return True, f"{len(filters.names())} system calls allowed, {RULED} by their arguments"
    return False, "installed, but a socket could be opened"


TRIALS: dict[str, Callable[[], Finding]] = {
    "descriptors": try_descriptors,
    "capabilities": try_capabilities,
    "dumpable": try_dumpable,
    "landlock": try_landlock,
    "rlimits": try_rlimits,
    "seccomp": try_seccomp,
}


def main() -> None:
    """Try all, each in a process of its own: what is given up does not come back."""
    for name, attempt in TRIALS.items():
        pid = os.fork()
        if pid == 0:
            try:
                holds, detail = attempt()
            except Exception as e:
                holds, detail = False, f"{type(e).__name__}: {e}"
            os.write(1, json.dumps([name, holds, detail]).encode() + b"\n")
            os._exit(0)
        os.waitpid(pid, 0)
