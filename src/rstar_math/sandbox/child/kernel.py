"""System calls that Python has no function for, through ctypes."""

import ctypes
import gc
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 7
if LINUX:
    _libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    _prctl = _libc.prctl
    _capset = _libc.capset
    _libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    _madvise = _libc.madvise
_fork = ctypes.PyDLL(None, use_errno=True).fork


def call(number: int, *arguments: int) -> int:
    """The result of a raw system call; raises OSError with the call's errno."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    result: int = _syscall(number, *padded)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
    """`prctl(2)`; raises OSError."""
    if _prctl(option, a, b, c, d) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def advise(address: int, length: int, advice: int) -> bool:
    """`madvise(2)`; whether the kernel took the advice."""
    return int(_madvise(address, length, advice)) == 0


def fork() -> int:
    """`fork(2)` for a process with one thread; raises OSError.

    `os.fork` also rebuilds every lock and runs the hooks of every imported module in the child
    (0.4 ms here), against threads that this process never had.
    """
    pid: int = _fork()
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return pid


def drop_capabilities() -> None:
    """Give up every capability for good; a no-op for a process that has none."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            # EINVAL past the last capability; EPERM for an ordinary user, who has none to drop.
            break
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if _capset(header, (ctypes.c_uint32 * 6)()) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")


def capabilities() -> int:
    """The effective capabilities, as a bit set."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _libc.capget(header, data)
    return int(data[0]) | int(data[3]) << 32


HUGE = 2 << 20
MADV_COLLAPSE = 25
"""Linux 6.1 on."""


def use_huge_pages() -> int:
    """Put the regions in which Python's objects lie into huge pages; how many now are.

    Where the kernel does not (before 6.1, or with huge pages switched off), all stays as it was.
    """
    gc.collect()
    # From the objects' addresses, because inside bubblewrap there is no /proc/self/maps to read.
    regions = sorted({id(thing) // HUGE for thing in gc.get_objects()})
    return sum(advise(region * HUGE, HUGE, MADV_COLLAPSE) for region in regions)
