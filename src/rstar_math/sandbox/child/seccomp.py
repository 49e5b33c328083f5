"""Builds the seccomp filters: an assembler and four programs.

`strict` is for a process that runs a snippet. `writing` is for one that has a scratch folder:
`strict` plus the calls that write files. In a fan-out, the process that runs the prefix must
fork once per candidate. `gate` stops each of its forks until the supervisor grants it. `forking` is
`strict` plus the calls that forking needs. Every candidate then installs `strict` on top of both.
"""

import platform
import struct
from collections.abc import Iterable, Mapping, Sequence

from . import kernel
from .system_calls import TABLES

Instruction = tuple[int, int, int, int]
Rule = Sequence[Instruction]
LOAD_WORD = 0x20
JUMP_EQUAL = 0x15
JUMP_GREATER_EQUAL = 0x35
JUMP_ANY_BIT = 0x45
RETURN = 0x06
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000
USER_NOTIF = 0x7FC00000
ALLOW = 0x7FFF0000
NUMBER = 0
ARCHITECTURE = 4
ARGUMENTS = 16


def refuse(errno: int) -> int:
    """The action that makes a call fail with an errno."""
    return ERRNO | errno


def ret(action: int) -> Instruction:
    """Return an action."""
    return (RETURN, 0, 0, action)


def load(offset: int) -> Instruction:
    """Load a 32-bit word of the call's data."""
    return (LOAD_WORD, 0, 0, offset)


def low_word(argument: int) -> Instruction:
    """Load the low half of an argument, counted from 0. Both architectures are little-endian."""
    return load(ARGUMENTS + 8 * argument)


def high_word(argument: int) -> Instruction:
    """Load the high half of an argument."""
    return load(ARGUMENTS + 8 * argument + 4)


def equal(k: int, if_true: int, if_false: int) -> Instruction:
    """Skip `if_true` instructions if the loaded word is k, else `if_false`."""
    return (JUMP_EQUAL, if_true, if_false, k)


def any_bit(mask: int, if_true: int, if_false: int) -> Instruction:
    """Skip `if_true` instructions if the loaded word has a bit of the mask, else `if_false`."""
    return (JUMP_ANY_BIT, if_true, if_false, mask)


def one_of(argument: int, values: Iterable[int], errno: int) -> Rule:
    """Allow the call if the argument's low half is one of the values."""
    rule = [low_word(argument)]
    for value in values:
        rule += [equal(value, 0, 1), ret(ALLOW)]
    return [*rule, ret(refuse(errno))]


def without_bits(argument: int, mask: int, errno: int) -> Rule:
    """Allow the call if the argument's low half has none of the bits."""
    return [low_word(argument), any_bit(mask, 0, 1), ret(refuse(errno)), ret(ALLOW)]


def all_zero(arguments: Iterable[int], errno: int) -> Rule:
    """Allow the call if both halves of all the arguments are 0."""
    rule: list[Instruction] = []
    for argument in arguments:
        for half in (low_word(argument), high_word(argument)):
            rule += [half, equal(0, 1, 0), ret(refuse(errno))]
    return [*rule, ret(ALLOW)]


def rule_for(number: int, rule: Rule) -> Rule:
    """Apply a rule to one system call. The call's number must be loaded."""
    return [equal(number, 0, len(rule)), *rule]


def assemble(program: Sequence[Instruction]) -> bytes:
    """The program in the kernel's format. Raises ValueError if it does not fit the format."""
    if not 0 < len(program) <= 4096:
        raise ValueError(f"a filter must have 1 to 4096 instructions, not {len(program)}")
    for code, if_true, if_false, k in program:
        jumps_fit = 0 <= if_true < 256 and 0 <= if_false < 256
        if not (jumps_fit and 0 <= k < 1 << 32 and 0 <= code < 1 << 16):
            raise ValueError(f"instruction out of range: {(code, if_true, if_false, k)}")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
"""Set in the number of an x32 call, which has the same architecture value as x86_64."""


def machine() -> str:
    """This machine's name in the tables. Raises OSError if it has no table."""
    name = platform.machine()
    if name not in TABLES:
        raise OSError(f"no system-call table for {name}; x86_64 and aarch64 are supported")
    return name


EPERM = 1
EACCES = 13
SIGKILL = 9
_SIMPLE = """
read write close munmap brk futex fstat newfstatat lseek stat lstat readv writev pread64 statx
access faccessat faccessat2 getcwd getdents64 mremap madvise mincore
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigpending sigaltstack
pause alarm setitimer getitimer poll ppoll select pselect6 nanosleep clock_nanosleep clock_gettime
clock_getres gettimeofday time getpid getppid gettid getuid geteuid getgid getegid getgroups
getresuid getresgid getpgrp getpgid getsid getpriority getrlimit getrusage times sysinfo
sched_yield sched_getaffinity sched_getparam sched_getscheduler getcpu getrandom exit exit_group
dup dup2 dup3 pipe pipe2 restart_syscall rseq set_robust_list get_robust_list set_tid_address
membarrier wait4 waitid fadvise64
"""
SIMPLE = tuple(_SIMPLE.split())
"""Calls allowed with any arguments. `uname` is not among them: it reveals the host name."""
_WRITE = """
mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 ftruncate fallocate fsync fdatasync
pwrite64 pwritev sendfile copy_file_range
"""
WRITE = tuple(_WRITE.split())
"""Calls that a process with a scratch folder may make too. Landlock limits them to that folder.
Those that change metadata are not among them: Landlock does not restrict them."""
O_ACCMODE = 0o3
O_CREAT, O_TRUNC, O_APPEND, O_ASYNC, O_TMPFILE = 0o100, 0o1000, 0o2000, 0o20000, 0o20000000
FORBIDDEN_OPEN = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | O_ASYNC | O_TMPFILE
PROT_WRITE, PROT_EXEC, MAP_ANONYMOUS = 2, 4, 0x20
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX."""
FCNTLS = (0, 1, 2, 3, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC; F_SETOWN and F_SETSIG are forbidden
because they signal other processes without `kill`; F_SETFL because it can switch O_ASYNC on."""
GET_LOCK = (5, 36)
SET_LOCK = (6, 7, 37, 38)
"""F_GETLK; F_SETLK and F_SETLKW; the same of open file descriptions."""
FORK_FLAGS = 0x01200011
"""CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD: the flags of the C library's `fork`."""


def _mapping() -> Rule:
    """Allow executable memory only from a file and never writable.

    A snippet thus cannot run machine code that it generated.
    """
    return [
        low_word(2),
        any_bit(PROT_EXEC, 1, 0),
        ret(ALLOW),
        any_bit(PROT_WRITE, 0, 1),
        ret(refuse(EPERM)),
        low_word(3),
        any_bit(MAP_ANONYMOUS, 0, 1),
        ret(refuse(EPERM)),
        ret(ALLOW),
    ]


def _open_to_write(argument: int) -> Rule:
    """Allow `open` to write, but not to truncate a file that is opened to read.

    Landlock restricts that only from ABI 3 on.
    """
    return [
        low_word(argument),
        any_bit(O_ASYNC | O_TMPFILE, 2, 0),
        any_bit(O_TRUNC, 0, 2),
        any_bit(O_ACCMODE, 1, 0),
        ret(refuse(EACCES)),
        ret(ALLOW),
    ]


def _own_limits_only() -> Rule:
    """Allow `prlimit64` only on the calling process and only without new limits."""
    return [
        low_word(0),
        equal(0, 1, 0),
        ret(refuse(EPERM)),
        *all_zero((2,), EPERM),
    ]


def _rules() -> dict[str, Rule]:
    allow = [ret(ALLOW)]
    rules: dict[str, Rule] = dict.fromkeys(SIMPLE, allow)
    return rules | {
        "open": without_bits(1, FORBIDDEN_OPEN, EACCES),
        "openat": without_bits(2, FORBIDDEN_OPEN, EACCES),
        "mmap": _mapping(),
        "mprotect": without_bits(2, PROT_EXEC, EPERM),
        "ioctl": one_of(1, IOCTLS, EPERM),
        "fcntl": one_of(1, FCNTLS, EPERM),
        "prlimit64": _own_limits_only(),
    }


def _program(rules: Mapping[str, Rule], default_action: int) -> bytes:
    """A filter that kills on a foreign architecture and applies the default to other calls."""
    name = machine()
    table = TABLES[name]
    program: list[Instruction] = [
        load(ARCHITECTURE),
        equal(AUDIT_ARCH[name], 1, 0),
        ret(KILL_PROCESS),
        load(NUMBER),
        (JUMP_GREATER_EQUAL, 0, 1, X32_BIT),
        ret(KILL_PROCESS),
    ]
    for call, rule in rules.items():
        if call in table:
            program += rule_for(table[call], rule)
    return assemble([*program, ret(default_action)])


def strict() -> bytes:
    """The filter of a process that runs a snippet.

    It forbids new processes and threads, sockets, opening files for writing, and signals.
    """
    return _program(_rules(), refuse(EPERM))


def writing() -> bytes:
    """The filter of a process that runs a snippet and has a scratch folder.

    It is `strict` plus opening files to write, writing, renaming and removing them. Links, special
    files, metadata and extended attributes stay forbidden. Locking a file succeeds without effect:
    nobody else has the files of the folder, and locks on other files would reach other processes.
    """
    allow, succeed = [ret(ALLOW)], [ret(refuse(0))]
    locks = [instruction for n in SET_LOCK for instruction in (equal(n, 0, 1), *succeed)]
    calls: dict[str, Rule] = dict.fromkeys(WRITE, allow)
    rules: dict[str, Rule] = {
        "open": _open_to_write(1),
        "openat": _open_to_write(2),
        "fcntl": [low_word(1), *locks, *one_of(1, FCNTLS + GET_LOCK, EPERM)],
        "flock": succeed,
    }
    return _program(_rules() | calls | rules, refuse(EPERM))


def forking() -> bytes:
    """The filter of the process that runs the prefix of a fan-out.

    It is `strict` plus the calls that its forks need: `clone` as fork, lower limits, SIGKILL on
    the death of the parent, and a stricter filter.
    """
    rules = _rules() | {
        "clone": one_of(0, (FORK_FLAGS,), EPERM),
        "prlimit64": [
            low_word(0),
            equal(0, 1, 0),
            ret(refuse(EPERM)),
            ret(ALLOW),
        ],
        "prctl": [
            low_word(0),
            equal(kernel.PR_SET_SECCOMP, 0, 1),
            ret(ALLOW),
            equal(kernel.PR_SET_PDEATHSIG, 1, 0),
            ret(refuse(EPERM)),
            low_word(1),
            equal(SIGKILL, 1, 0),
            ret(refuse(EPERM)),
            ret(ALLOW),
        ],
    }
    return _program(rules, refuse(EPERM))


def gate() -> bytes:
    """A filter that lets the holder of its listener decide every `clone`, and allows all else."""
    return _program({"clone": [ret(USER_NOTIF)]}, ALLOW)


def allowed_calls() -> Sequence[str]:
    """The calls that `strict` allows on this machine, some depending on their arguments."""
    table = TABLES[machine()]
    return sorted(name for name in _rules() if name in table)
