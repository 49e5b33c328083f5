"""A private, writable folder for one program: a tmpfs of its own in a mount namespace of its own.

The zygote enters a user and a mount namespace once. All its mounts are read-only there, and an
empty, read-only tmpfs covers one folder of the system, the mount point. Every program starts in it.
Most programs write nothing, so a program gets a folder only when it asks: an audit hook sees that
it opens a file to write, and the program is run again from its start. In that second run, its
process enters another mount namespace and mounts a tmpfs with a quota over the mount point.

No other process has this namespace, so nobody else can see the files. The kernel frees them when
the program's last process ends, however it ends. Symbolic and hard links, devices, fifos, sockets
and extended attributes cannot be made (seccomp and Landlock), and nothing can be executed (noexec).
"""

import os
import sys
from collections.abc import Callable, Iterable

from . import kernel

MOUNT_POINTS = ("/mnt", "/media", "/srv", "/var/tmp", "/home")
"""Folders that a tmpfs may cover. The first one is used that exists and holds no library."""
VARIABLES = ("HOME", "TMPDIR", "MPLCONFIGDIR")
"""The environment variables that name the folder."""
_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def prepare(readable: Iterable[str]) -> str | None:
    """Enter the namespaces; return the mount point, on which a writable tmpfs is mounted.

    None if this system does not allow it. The calling process must have one thread. A trial in
    another process goes first: a failure in the middle could not be undone.
    """
    point = choose_mount_point(readable)
    if point is None or not kernel.LINUX:
        return None
    pid = os.fork()
    if pid == 0:
        try:
            _enter_namespaces(point)
            enter(point, 1 << 20, 16)
            with open("trial", "wb") as file:
                file.write(b"x")
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1] != 0:
        return None
    _enter_namespaces(point)
    os.chdir(point)
    for name in VARIABLES:
        os.environ[name] = point
    return point


def choose_mount_point(readable: Iterable[str]) -> str | None:
    """The first mount point that neither holds a readable path nor lies below one."""
    paths = [f"{path.rstrip('/')}/" for path in readable]
    for point in MOUNT_POINTS:
        apart = not any(p.startswith(f"{point}/") or f"{point}/".startswith(p) for p in paths)
        if apart and os.path.isdir(point) and not os.path.islink(point):
            return point
    return None


def _enter_namespaces(point: str) -> None:
    """Make every mount private and read-only, and mount a small tmpfs on the mount point."""
    user, group = os.geteuid(), os.getegid()
    # Bubblewrap mounts no /proc. It has made a user namespace already and left CAP_SYS_ADMIN in it.
    own_users = os.path.exists("/proc/self/uid_map")
    kernel.unshare(kernel.CLONE_NEWNS | (kernel.CLONE_NEWUSER if own_users else 0))
    if own_users:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    kernel.mount("", "/", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.make_mounts_read_only()
    kernel.mount("tmpfs", point, _FLAGS, "size=16m,nr_inodes=256,mode=0700")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def seal(point: str) -> None:
    """Cover what the zygote wrote there with an empty, read-only tmpfs."""
    kernel.mount("tmpfs", point, _FLAGS | kernel.MS_RDONLY, "size=4k,nr_inodes=2,mode=0555")
    os.chdir(point)


def enter(point: str, size_bytes: int, files: int) -> None:
    """Give the calling process an empty folder that no other process sees. Raises OSError.

    `files` counts folders too. One inode more is needed for the folder itself.
    """
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("tmpfs", point, _FLAGS, f"size={size_bytes},nr_inodes={files + 1},mode=0700")
    os.chdir(point)


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_point = ""
_ask: Callable[[], object] = bool
_fsdecode, _normpath = os.fsdecode, os.path.normpath


def ask_when_needed(point: str, ask: Callable[[], object]) -> None:
    """Call `ask` when this process first opens a file below `point` to write, or makes a folder.

    It is called before the attempt fails. A program may call it for no reason, and may avoid it.
    """
    global _point, _ask
    _point, _ask = point, ask
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        needed = bool(flags & _WRITING) if isinstance(flags, int) else False
    elif event == "os.mkdir" or event == "sqlite3.connect":
        path, needed = arguments[0], arguments[0] != ":memory:"
    else:
        return
    if needed and isinstance(path, str | bytes) and _is_inside(_fsdecode(path)):
        _ask()


def _is_inside(path: str) -> bool:
    absolute = _normpath(path if path.startswith("/") else f"{_point}/{path}")
    return absolute == "/dev/null" or f"{absolute}/".startswith(f"{_point}/")
