"""The layers of confinement, each applied by a named function, so that a test can leave one out.

Once in a zygote: `capabilities`, `dumpable`, `landlock`. In every child: `descriptors`, `rlimits`,
`landlock` (its own domain), `seccomp`. The judge's clocks and counters are the last one, `judge`.
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

CREATE_RULESET = 444
ADD_RULE = 445
RESTRICT_SELF = 446
VERSION = 1
PATH_BENEATH = 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""ABI -> number of file-system rights that can be handled; later ABIs as 5."""
NET_TCP = 0b11
SCOPE_SOCKETS_AND_SIGNALS = 0b11


def abi() -> int:
    """The kernel's Landlock ABI, from 1; 0 where there is none."""
    try:
        return kernel.call(CREATE_RULESET, 0, 0, VERSION)
    except OSError:
        return 0


def _restrict(attributes: bytes, readable: Iterable[str]) -> None:
    import ctypes

    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = kernel.call(CREATE_RULESET, ctypes.addressof(buffer), len(attributes))
    try:
        for path in readable:
            _allow_reading(ruleset, path)
        kernel.call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: str) -> None:
    import ctypes

    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # nothing there, nothing to allow
    try:
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        rule = struct.pack("=QI", rights, fd)
        buffer = ctypes.create_string_buffer(rule, len(rule))
        kernel.call(ADD_RULE, ruleset, PATH_BENEATH, ctypes.addressof(buffer), 0)
    finally:
        os.close(fd)


def read_only(version: int, readable: Iterable[str]) -> None:
    """Give up all access to files but reading below the paths, all TCP, and abstract sockets and
    signals outside; as much of it as the ABI has. Raises OSError."""
    rights = (1 << FS_BITS.get(version, 16)) - 1
    fields = [rights]
    if version >= 4:
        fields.append(NET_TCP)
    if version >= 6:
        fields.append(SCOPE_SOCKETS_AND_SIGNALS)
    _restrict(struct.pack(f"={len(fields)}Q", *fields), readable)


def own_scope(version: int) -> None:
    """Enter a domain of one's own: no signals, ptrace or abstract sockets to the zygote either."""
    if version >= 6:
        _restrict(struct.pack("=3Q", 0, 0, SCOPE_SOCKETS_AND_SIGNALS), ())
    elif version >= 1:
        _restrict(struct.pack("=Q", 1), ("/lib", "/usr/lib"))


SECCOMP_MODE_FILTER = 2
NEW_LISTENER = 1 << 3
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
CHILD_FILES = 32


class Unconfined(Exception):
    """A layer that was asked for does not hold; the message says which and why."""


class Program:
    """A seccomp program in memory that stays put, ready to be installed."""

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        head = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(self._code))
        self._head = ctypes.create_string_buffer(head, len(head))
        self.address = ctypes.addressof(self._head)

    def install(self) -> None:
        """Put it on this process, for good."""
        kernel.prctl(kernel.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, self.address)

    def install_listening(self, seccomp: int) -> int:
        """Put it on; the descriptor on which its USER_NOTIF calls are answered comes back."""
        return kernel.call(seccomp, 1, NEW_LISTENER, self.address)


class Layers:
    """The layers of one zygote, prepared once and put on many times."""

    def __init__(self, mode: str, skip: Collection[str], readable: Iterable[str]) -> None:
        self.skip = frozenset(skip)
        if mode == "external":
            self.skip |= {"capabilities", "landlock", "seccomp"}
        if mode == "namespaces":
            self.skip |= {"landlock"}
        self.readable = tuple(readable)
        self.abi = 0
        self.base_memory = 0
        self.programs: dict[str, Program] = {}

    def on(self, layer: str) -> bool:
        """Whether the layer is to be put on."""
        return layer not in self.skip

    def confine_zygote(self) -> None:
        """Confine the calling process, for good. Raises `Unconfined`."""
        _attempt("subreaper", lambda: kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1))
        _prefer_as_victim()
        self.base_memory = address_space()
        _attempt("no_new_privs", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
        if self.on("capabilities"):
            _attempt("capabilities", kernel.drop_capabilities)
        if self.on("dumpable"):
            _attempt("dumpable", lambda: kernel.prctl(kernel.PR_SET_DUMPABLE, 0))
        if self.on("landlock"):
            self.abi = abi()
            if not self.abi:
                raise Unconfined("Landlock: this kernel has none, or does not let it be used")
            _attempt("Landlock", lambda: read_only(self.abi, self.readable))
        if self.on("seccomp"):
            _attempt("seccomp", self._assemble)

    def _assemble(self) -> None:
        for name, build in _PROGRAMS.items():
            self.programs[name] = Program(build())

    def confine_child(self, limits: Limits) -> None:
        """Confine a child that will not fork. Any failure is an OSError."""
        if self.on("rlimits"):
            lower_limits(limits, self.base_memory, files=CHILD_FILES, processes=0)
        if self.on("landlock"):
            own_scope(self.abi)
        if self.on("seccomp"):
            self.programs["strict"].install()

    def confine_forking(self, limits: Limits, files: int, control: socket.socket) -> None:
        """Confine the process of a fan-out's prefix, and send what gates its forks."""
        if self.on("rlimits"):
            lower_limits(limits, self.base_memory, files=files, processes=None)
        if self.on("landlock"):
            own_scope(self.abi)
        if self.on("seccomp"):
            number = SYS_SECCOMP[seccomp.machine()]
            listener = self.programs["gate"].install_listening(number)
            socket.send_fds(control, [b"."], [listener])
            os.close(listener)
            self.programs["forking"].install()

    def confine_candidate(self) -> None:
        """Confine one fork of that process as `confine_child` would have."""
        if self.on("rlimits"):
            _limit(resource.RLIMIT_NOFILE, CHILD_FILES)
            _limit(resource.RLIMIT_NPROC, 0)
        if self.on("seccomp"):
            self.programs["strict"].install()


_PROGRAMS: dict[str, Callable[[], bytes]] = {
    "strict": seccomp.strict,
    "forking": seccomp.forking,
    "gate": seccomp.gate,
}


def _attempt(layer: str, act: Callable[[], object]) -> None:
    try:
        act()
    except OSError as e:
        raise Unconfined(f"{layer}: {e}") from e


def _prefer_as_victim() -> None:
    """When the machine runs out of memory, a child goes before the process that owns the run."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("800")
    except OSError:
        pass  # no /proc; the kernel's own order then


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def lower_limits(limits: Limits, base: int, *, files: int, processes: int | None) -> None:
    """Set the resource limits. The processor limit is a backstop, a second above the judge's."""
    _limit(resource.RLIMIT_AS, base + limits.memory)
    _limit(resource.RLIMIT_CPU, int(limits.cpu_s) + 2)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_NOFILE, files)
    if processes is not None:
        _limit(resource.RLIMIT_NPROC, processes)


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor from 3 on that is not to be kept."""
    start = 3
    for fd in sorted(k for k in keep if k >= 3):
        if fd > start:
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, max(start, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def address_space() -> int:
    """Bytes of address space this process has; by trial where /proc is not mounted."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[0]) * mmap.PAGESIZE
    except OSError:
        return _address_space_by_trial()


def _address_space_by_trial() -> int:
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


def _poll(fd: int) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll.poll(0)


NOTIFY_RECEIVE = 0xC0502100
NOTIFY_SEND = 0xC0182101
NOTIFY_CONTINUE = 1


def answer_fork(listener: int, grant: bool) -> None:
    """Let one gated call go on, or fail with EPERM. Raises OSError where the caller is gone."""
    # With nobody left to answer, older kernels would wait for ever in the next call.
    if not any(event & select.POLLIN for _, event in _poll(listener)):
        raise ProcessLookupError(errno.ESRCH, "no call is waiting")
    request = bytearray(80)
    fcntl.ioctl(listener, NOTIFY_RECEIVE, request, True)
    ident = struct.unpack_from("=Q", request)[0]
    error, flags = (0, NOTIFY_CONTINUE) if grant else (-seccomp.EPERM, 0)
    fcntl.ioctl(listener, NOTIFY_SEND, bytearray(struct.pack("=QqiI", ident, 0, error, flags)))
