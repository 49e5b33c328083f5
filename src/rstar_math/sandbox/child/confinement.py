"""Applies the layers of confinement. Each layer has a name, so that a test can leave it out.

Once in a zygote: `capabilities`, `dumpable`, `landlock`. In every child: `descriptors`, `rlimits`,
`landlock` (its own domain), `seccomp`. The last layer, `supervisor`, is the zygote's main loop with
its limits on time and output.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import socket
import struct
from collections.abc import Callable, Collection, Iterable

from . import kernel, seccomp
from .protocol import Limits

SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_VERSION = 1
PATH_BENEATH = 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""ABI -> number of file-system rights that it can restrict. Later ABIs are treated like 5."""
NET_TCP = 0b11
SCOPE_SOCKETS_AND_SIGNALS = 0b11


def landlock_abi() -> int:
    """The kernel's Landlock ABI, from 1; 0 if it has no Landlock."""
    try:
        return kernel.syscall(SYS_LANDLOCK_CREATE_RULESET, 0, 0, LANDLOCK_VERSION)
    except OSError:
        return 0


def _restrict(attributes: bytes, readable: Iterable[str]) -> None:
    """Enter a Landlock domain in which only the paths `readable` can be read."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = kernel.syscall(SYS_LANDLOCK_CREATE_RULESET, ctypes.addressof(buffer), len(attributes))
    try:
        for path in readable:
            _allow_reading(ruleset, path)
        kernel.syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # The path does not exist.
    try:
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        rule = struct.pack("=QI", rights, fd)
        buffer = ctypes.create_string_buffer(rule, len(rule))
        kernel.syscall(SYS_LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, ctypes.addressof(buffer), 0)
    finally:
        os.close(fd)


def restrict_to_reading(abi: int, readable: Iterable[str]) -> None:
    """Allow only reading below the paths. Raises OSError.

    Forbids all other access to files, all TCP, and abstract sockets and signals to processes
    outside. An old ABI cannot restrict all of these.
    """
    rights = (1 << FS_RIGHTS.get(abi, 16)) - 1
    fields = [rights]
    if abi >= 4:
        fields.append(NET_TCP)
    if abi >= 6:
        fields.append(SCOPE_SOCKETS_AND_SIGNALS)
    _restrict(struct.pack(f"={len(fields)}Q", *fields), readable)


def enter_own_domain(abi: int) -> None:
    """Enter a new Landlock domain. It forbids ptrace, signals and abstract sockets to the zygote.

    Before ABI 6 it forbids only ptrace. Raises OSError.
    """
    if abi >= 6:
        _restrict(struct.pack("=3Q", 0, 0, SCOPE_SOCKETS_AND_SIGNALS), ())
    elif abi >= 1:
        _restrict(struct.pack("=Q", 1), ("/lib", "/usr/lib"))


SECCOMP_MODE_FILTER = 2
NEW_LISTENER = 1 << 3
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
CHILD_FILES = 32


class ConfinementError(Exception):
    """A required layer does not hold. The message says which one and why."""


class SeccompProgram:
    """A seccomp program in memory at a fixed address, ready to be installed."""

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        header = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(self._code))
        self._header = ctypes.create_string_buffer(header, len(header))
        self.address = ctypes.addressof(self._header)

    def install(self) -> None:
        """Install it on this process for good."""
        kernel.prctl(kernel.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, self.address)

    def install_with_listener(self, seccomp_number: int) -> int:
        """Install it and return the descriptor on which its USER_NOTIF calls are answered."""
        return kernel.syscall(seccomp_number, 1, NEW_LISTENER, self.address)


class Layers:
    """The layers of one zygote: prepared once, applied in every child."""

    def __init__(self, mode: str, skip: Collection[str], readable: Iterable[str]) -> None:
        self.skip = frozenset(skip)
        if mode == "external":
            self.skip |= {"capabilities", "landlock", "seccomp"}
        if mode == "namespaces":
            self.skip |= {"landlock"}
        self.readable = tuple(readable)
        self.abi = 0
        self.base_memory = 0
        self.programs: dict[str, SeccompProgram] = {}

    def enabled(self, layer: str) -> bool:
        """Whether the layer is applied."""
        return layer not in self.skip

    def confine_zygote(self) -> None:
        """Confine the calling process for good. Raises `ConfinementError` if a layer fails."""
        _apply("subreaper", lambda: kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1))
        _raise_oom_score()
        self.base_memory = address_space()
        _apply("no_new_privs", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
        if self.enabled("capabilities"):
            _apply("capabilities", kernel.drop_capabilities)
        if self.enabled("dumpable"):
            _apply("dumpable", lambda: kernel.prctl(kernel.PR_SET_DUMPABLE, 0))
        if self.enabled("landlock"):
            self.abi = landlock_abi()
            if not self.abi:
                raise ConfinementError("Landlock: this kernel lacks it or does not allow it")
            _apply("Landlock", lambda: restrict_to_reading(self.abi, self.readable))
        if self.enabled("seccomp"):
            _apply("seccomp", self._assemble_programs)

    def _assemble_programs(self) -> None:
        for name, build in _PROGRAMS.items():
            self.programs[name] = SeccompProgram(build())

    def confine_child(self, limits: Limits) -> None:
        """Confine a child that does not fork. Raises OSError if a layer fails."""
        if self.enabled("rlimits"):
            lower_limits(limits, self.base_memory, files=CHILD_FILES, processes=0)
        if self.enabled("landlock"):
            enter_own_domain(self.abi)
        if self.enabled("seccomp"):
            self.programs["strict"].install()

    def confine_forking(self, limits: Limits, files: int, control: socket.socket) -> None:
        """Confine the process of a fan-out's prefix. Raises OSError if a layer fails.

        Sends the descriptor on which its forks are granted or refused over `control`.
        """
        if self.enabled("rlimits"):
            lower_limits(limits, self.base_memory, files=files, processes=None)
        if self.enabled("landlock"):
            enter_own_domain(self.abi)
        if self.enabled("seccomp"):
            number = SYS_SECCOMP[seccomp.machine()]
            listener = self.programs["gate"].install_with_listener(number)
            socket.send_fds(control, [b"."], [listener])
            os.close(listener)
            self.programs["forking"].install()

    def confine_candidate(self) -> None:
        """Confine one fork of the prefix's process like `confine_child`.

        Raises OSError if a layer fails.
        """
        if self.enabled("rlimits"):
            _lower_limit(resource.RLIMIT_NOFILE, CHILD_FILES)
            _lower_limit(resource.RLIMIT_NPROC, 0)
        if self.enabled("seccomp"):
            self.programs["strict"].install()


_PROGRAMS: dict[str, Callable[[], bytes]] = {
    "strict": seccomp.strict,
    "forking": seccomp.forking,
    "gate": seccomp.gate,
}


def _apply(layer: str, function: Callable[[], object]) -> None:
    try:
        function()
    except OSError as e:
        raise ConfinementError(f"{layer}: {e}") from e


def _raise_oom_score() -> None:
    """Make the out-of-memory killer choose a child before the process that owns the run."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("800")
    except OSError:
        pass  # There is no /proc; the kernel keeps its own order.


def _lower_limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def lower_limits(limits: Limits, base: int, *, files: int, processes: int | None) -> None:
    """Set the resource limits of this process.

    The processor limit is a fallback, at least one second above the limit that the supervisor
    enforces.
    """
    _lower_limit(resource.RLIMIT_AS, base + limits.memory_bytes)
    _lower_limit(resource.RLIMIT_CPU, int(limits.cpu_s) + 2)
    _lower_limit(resource.RLIMIT_FSIZE, 0)
    _lower_limit(resource.RLIMIT_CORE, 0)
    _lower_limit(resource.RLIMIT_MEMLOCK, 0)
    _lower_limit(resource.RLIMIT_MSGQUEUE, 0)
    _lower_limit(resource.RLIMIT_NOFILE, files)
    if processes is not None:
        _lower_limit(resource.RLIMIT_NPROC, processes)


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor from 3 on except those in `keep`."""
    start = 3
    for fd in sorted(k for k in keep if k >= 3):
        if fd > start:
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, max(start, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def address_space() -> int:
    """Bytes of address space that this process uses; found by trial if /proc is not mounted."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[0]) * mmap.PAGESIZE
    except OSError:
        return _address_space_by_trial()


def _address_space_by_trial() -> int:
    """The lowest RLIMIT_AS under which one more page can be mapped, by binary search."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    low, high = 0, 1 << 40
    try:
        while high - low > mmap.PAGESIZE:
            middle = (low + high) // 2
            resource.setrlimit(resource.RLIMIT_AS, (middle, hard))
            try:
                mmap.mmap(-1, mmap.PAGESIZE).close()
                high = middle
            except (OSError, MemoryError):
                low = middle
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return high


SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101
NOTIFY_CONTINUE = 1


def answer_fork(listener: int, grant: bool) -> None:
    """Let one waiting `clone` call proceed, or fail with EPERM.

    Raises OSError if the caller is gone.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    # Without a waiting caller, the ioctl below would block for ever in older kernels.
    if not any(event & select.POLLIN for _, event in poll.poll(0)):
        raise ProcessLookupError(errno.ESRCH, "no call is waiting")
    request = bytearray(80)
    fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, request, True)
    notification_id = struct.unpack_from("=Q", request)[0]
    error, flags = (0, NOTIFY_CONTINUE) if grant else (-seccomp.EPERM, 0)
    response = struct.pack("=QqiI", notification_id, 0, error, flags)
    fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, bytearray(response))
