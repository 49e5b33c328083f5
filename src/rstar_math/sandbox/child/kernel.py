"""System calls that Python does not offer, made through ctypes."""

import ctypes
import gc
import os
import platform
import signal
import struct
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
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
_CLONE_PARENT = 0x8000
_clone = ctypes.PyDLL(None, use_errno=True).syscall
_clone.restype = ctypes.c_long
_clone.argtypes = [ctypes.c_long] * 6


def syscall(number: int, *arguments: int) -> int:
    """The result of a raw system call. Raises OSError with its errno."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    result: int = _syscall(number, *padded)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> None:
    """Call `prctl(2)`. Raises OSError."""
    if _prctl(option, a, b, c, d) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def madvise(address: int, length: int, advice: int) -> bool:
    """Call `madvise(2)` and return whether the kernel accepted the advice."""
    return int(_madvise(address, length, advice)) == 0


def fork() -> int:
    """The pid that `fork(2)` returns. Raises OSError. The calling process must have one thread.

    `os.fork` also rebuilds every lock and runs the fork hooks of every imported module in the
    child. That takes 0.4 ms and protects against threads, which this process never has.
    """
    pid: int = _fork()
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return pid


def fork_sibling() -> int:
    """Like `fork`, but the new process is a child of the caller's parent (CLONE_PARENT).

    Where the system call is not known, it is a child of the caller.
    """
    if not LINUX or _SYS_CLONE is None:
        return fork()
    pid: int = _clone(_SYS_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return pid


CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1


def unshare(flags: int) -> None:
    """Call `unshare(2)`. Raises OSError."""
    if _libc.unshare(flags) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


def mount(kind: str, target: str, flags: int, options: str = "") -> None:
    """Mount a file system of a kind; with an empty kind, change the flags of a mount.

    Raises OSError.
    """
    name = kind.encode() or None
    data = options.encode() or None
    if _libc.mount(name, target.encode(), name, ctypes.c_ulong(flags), data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {target}: {os.strerror(code)}")


def make_mounts_read_only() -> None:
    """Make every mount of this mount namespace read-only. Raises OSError."""
    attributes = ctypes.create_string_buffer(struct.pack("=4Q", _MOUNT_ATTR_RDONLY, 0, 0, 0), 32)
    root = ctypes.create_string_buffer(b"/")
    arguments = (ctypes.addressof(root), _AT_RECURSIVE, ctypes.addressof(attributes), 32)
    syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, *arguments)


CAP_SYS_ADMIN = 21


def drop_capabilities(keep: int = 0) -> None:
    """Drop every capability except those in the bit set `keep`, for good.

    Does nothing in a process that has none.
    """
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            # EINVAL: past the last capability. EPERM: an ordinary user, who has none to drop.
            break
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    kept = keep & capabilities()
    if _capset(header, (ctypes.c_uint32 * 6)(kept, kept)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")


def capabilities() -> int:
    """The effective capabilities as a bit set."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _libc.capget(header, data)
    return int(data[0]) | int(data[3]) << 32


HUGE_PAGE_BYTES = 2 << 20
MADV_COLLAPSE = 25
"""Available since Linux 6.1."""


def use_huge_pages() -> int:
    """Move the memory of Python's objects into huge pages; return how many are huge now.

    Without kernel support (Linux before 6.1, or huge pages disabled) nothing changes.
    """
    gc.collect()
    # The regions come from the objects' addresses: bubblewrap has no /proc/self/maps to read.
    regions = sorted({id(item) // HUGE_PAGE_BYTES for item in gc.get_objects()})
    return sum(
        madvise(region * HUGE_PAGE_BYTES, HUGE_PAGE_BYTES, MADV_COLLAPSE) for region in regions
    )
