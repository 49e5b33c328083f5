"""Applies the layers of confinement. Each layer has a name, so that a test can leave it out.

Once in a zygote: `scratch`, `dumpable`, then `capabilities` and `landlock` for the supervisor. In
every child: `descriptors`, `capabilities`, `rlimits`, `landlock`, `seccomp`. The last layer,
`supervisor`, is the zygote's main loop with its limits on time and output.

The forker is in no Landlock domain and keeps CAP_SYS_ADMIN in its user namespace, because it mounts
the scratch folders. It never runs a program. Its children give up both before they run one.
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

from . import kernel, scratch, seccomp
from .protocol import Limits

SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_VERSION = 1
PATH_BENEATH = 1
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
REFER, TRUNCATE = 1 << 13, 1 << 14
WRITING = WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE
"""What a program may do in its scratch folder, besides reading: regular files and folders only."""
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


def rights_of(abi: int) -> int:
    """The file-system rights that the ABI can restrict, as a bit set."""
    return (1 << FS_RIGHTS.get(abi, 16)) - 1


def create_ruleset(abi: int, readable: Iterable[str], *, scoped: bool) -> int:
    """The descriptor of a ruleset that allows only reading, below the paths. Raises OSError.

    It forbids all other access to files and all TCP. `scoped` adds abstract sockets and signals to
    processes outside. An old ABI cannot restrict all of these.
    """
    fields = [rights_of(abi)]
    if abi >= 4:
        fields.append(NET_TCP)
    if abi >= 6:
        fields.append(SCOPE_SOCKETS_AND_SIGNALS if scoped else 0)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = kernel.syscall(SYS_LANDLOCK_CREATE_RULESET, ctypes.addressof(buffer), len(attributes))
    try:
        for path in readable:
            add_rule(ruleset, path, READ_FILE | READ_DIR)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def add_rule(ruleset: int, path: str, rights: int) -> None:
    """Allow rights below a path. Does nothing if the path does not exist. Raises OSError."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= READ_FILE | WRITE_FILE
        rule = struct.pack("=QI", rights, fd)
        buffer = ctypes.create_string_buffer(rule, len(rule))
        kernel.syscall(SYS_LANDLOCK_ADD_RULE, ruleset, PATH_BENEATH, ctypes.addressof(buffer), 0)
    finally:
        os.close(fd)


def enter_domain(ruleset: int) -> None:
    """Enter a new Landlock domain with these rules, and close the ruleset. Raises OSError."""
    try:
        kernel.syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


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
        self.scratch: str | None = None
        """The path of the scratch folders; None if programs cannot have one."""
        self.abi = 0
        self.ruleset = -1
        """The Landlock rules of a program without a scratch folder."""
        self.base_memory = 0
        self.programs: dict[str, SeccompProgram] = {}

    def enabled(self, layer: str) -> bool:
        """Whether the layer is applied."""
        return layer not in self.skip

    def prepare(self) -> None:
        """Before anything is loaded: the out-of-memory score, then, where this system allows it,
        the namespaces of the scratch folders, in which /proc is read-only.

        Without Landlock or seccomp nothing else would confine writing, so there is no folder.
        """
        _raise_oom_score()
        needed = ("scratch", "landlock", "seccomp", "capabilities", "rlimits")
        if all(map(self.enabled, needed)) and landlock_abi():
            self.scratch = scratch.prepare(self.readable)

    def confine_zygote(self) -> None:
        """Confine the calling process for good, as far as its forker and its children allow.

        Prepares what they need. Raises `ConfinementError` if a layer fails.
        """
        _apply("subreaper", lambda: kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1))
        self.base_memory = address_space()
        _apply("no_new_privs", lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1))
        if self.enabled("capabilities"):
            kept = 1 << kernel.CAP_SYS_ADMIN if self.scratch else 0
            _apply("capabilities", lambda: kernel.drop_capabilities(keep=kept))
        if self.enabled("dumpable"):
            _apply("dumpable", lambda: kernel.prctl(kernel.PR_SET_DUMPABLE, 0))
        if self.scratch:
            _apply("scratch", lambda: scratch.seal(self.scratch or ""))
        if self.enabled("landlock"):
            self.abi = landlock_abi()
            if not self.abi:
                raise ConfinementError("Landlock: this kernel lacks it or does not allow it")
            _apply("Landlock", self._create_ruleset)
        if self.enabled("seccomp"):
            _apply("seccomp", self._assemble_programs)

    def _create_ruleset(self) -> None:
        more = (self.scratch, os.devnull) if self.scratch else ()
        paths = (*self.readable, *more)
        self.ruleset = create_ruleset(self.abi, paths, scoped=True)

    def _assemble_programs(self) -> None:
        for name, build in _PROGRAMS.items():
            self.programs[name] = SeccompProgram(build())

    def confine_supervisor(self) -> None:
        """Confine the zygote's main loop, after its forker was forked.

        It may signal the children, which are outside its domain. Raises `ConfinementError`.
        """
        if self.enabled("capabilities"):
            _apply("capabilities", kernel.drop_capabilities)
        if self.enabled("landlock"):
            rules = create_ruleset(self.abi, self.readable, scoped=False)
            _apply("Landlock", lambda: enter_domain(rules))
            os.close(self.ruleset)

    @property
    def descriptors(self) -> list[int]:
        """The descriptors that a child needs until it is confined."""
        return [self.ruleset] if self.ruleset >= 0 else []

    def confine_child(self, limits: Limits, *, writes: bool = False) -> None:
        """Confine a child that does not fork. Raises OSError if a layer fails.

        `writes` gives it a scratch folder. `self.scratch` must be set.
        """
        if writes:
            scratch.enter(self.scratch or "", limits.scratch_bytes, limits.scratch_files)
        self._drop_capabilities()
        if self.enabled("rlimits"):
            size = limits.scratch_bytes if writes else 0
            lower_limits(limits, self.base_memory, files=CHILD_FILES, processes=0, file_bytes=size)
        self._enter_domain(writes=writes)
        if self.enabled("seccomp"):
            self.programs["writing" if writes else "strict"].install()

    def _drop_capabilities(self) -> None:
        if self.scratch:
            kernel.drop_capabilities()

    def _enter_domain(self, *, writes: bool) -> None:
        """Enter a Landlock domain, which also forbids ptrace and signals to the zygote."""
        if not self.enabled("landlock"):
            return
        if not writes:
            enter_domain(self.ruleset)
            return
        os.close(self.ruleset)
        ruleset = create_ruleset(self.abi, self.readable, scoped=True)
        rights = (READ_FILE | READ_DIR | WRITING) & rights_of(self.abi)
        add_rule(ruleset, self.scratch or "", rights)
        add_rule(ruleset, os.devnull, READ_FILE | WRITE_FILE)
        enter_domain(ruleset)

    def confine_forking(self, limits: Limits, files: int, control: socket.socket) -> None:
        """Confine the process of a fan-out's prefix. Raises OSError if a layer fails.

        Sends the descriptor on which its forks are granted or refused over `control`.
        """
        self._drop_capabilities()
        if self.enabled("rlimits"):
            lower_limits(limits, self.base_memory, files=files, processes=None)
        self._enter_domain(writes=False)
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
    "writing": seccomp.writing,
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


def lower_limits(
    limits: Limits, base: int, *, files: int, processes: int | None, file_bytes: int = 0
) -> None:
    """Set the resource limits of this process. `file_bytes` limits each file that it writes.

    The processor limit is a fallback, at least one second above the limit that the supervisor
    enforces.
    """
    _lower_limit(resource.RLIMIT_AS, base + limits.memory_bytes)
    _lower_limit(resource.RLIMIT_CPU, int(limits.cpu_s) + 2)
    _lower_limit(resource.RLIMIT_FSIZE, file_bytes)
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
