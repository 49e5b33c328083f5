"""The three seccomp programs: who may call what.

`strict` is for a process that runs a snippet. In a fan-out, the process that runs the prefix must
fork once a candidate: `gate` hands each of its forks to the judge to grant, `forking` is `strict`
with what that takes, and every candidate then puts `strict` on top of both.
"""

from collections.abc import Mapping, Sequence

from . import bpf, kernel, syscalls

EPERM = 1
EACCES = 13
SIGKILL = 9

_SIMPLE = """
read write close munmap brk futex fstat newfstatat lseek stat lstat readv writev pread64 statx
access faccessat faccessat2 readlink readlinkat getcwd getdents64 mremap madvise mincore
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigpending sigaltstack
pause alarm setitimer getitimer poll ppoll select pselect6 nanosleep clock_nanosleep clock_gettime
clock_getres gettimeofday time getpid getppid gettid getuid geteuid getgid getegid getgroups
getresuid getresgid getpgrp getpgid getsid getpriority getrlimit getrusage times sysinfo
sched_yield sched_getaffinity sched_getparam sched_getscheduler getcpu getrandom exit exit_group
dup dup2 dup3 pipe pipe2 restart_syscall rseq set_robust_list get_robust_list set_tid_address
membarrier wait4 waitid fadvise64
"""
SIMPLE = tuple(_SIMPLE.split())
"""Allowed whatever the arguments. `uname` is not: it tells the machine's name."""

O_ACCMODE = 0o3
O_CREAT, O_TRUNC, O_APPEND, O_ASYNC, O_TMPFILE = 0o100, 0o1000, 0o2000, 0o20000, 0o20000000
FORBIDDEN_OPEN = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | O_ASYNC | O_TMPFILE

PROT_WRITE, PROT_EXEC, MAP_ANONYMOUS = 2, 4, 0x20
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX."""
FCNTLS = (0, 1, 2, 3, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC; not F_SETOWN and F_SETSIG, which signal
other processes without `kill`, nor F_SETFL, which switches O_ASYNC on."""

FORK_FLAGS = 0x01200011
"""CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD: what the C library's `fork` asks for."""


def _mapping() -> bpf.Rule:
    """Executable memory only from a file and never writable: no machine code of one's own."""
    return [
        bpf.low(2),
        bpf.any_bit(PROT_EXEC, 1, 0),
        bpf.give(bpf.ALLOW),
        bpf.any_bit(PROT_WRITE, 0, 1),
        bpf.give(bpf.refuse(EPERM)),
        bpf.low(3),
        bpf.any_bit(MAP_ANONYMOUS, 0, 1),
        bpf.give(bpf.refuse(EPERM)),
        bpf.give(bpf.ALLOW),
    ]


def _own_limits_only() -> bpf.Rule:
    """`prlimit64` on oneself and without new limits."""
    return [
        bpf.low(0),
        bpf.equal(0, 1, 0),
        bpf.give(bpf.refuse(EPERM)),
        *bpf.zero((2,), EPERM),
    ]


def _rules() -> dict[str, bpf.Rule]:
    allow = [bpf.give(bpf.ALLOW)]
    rules: dict[str, bpf.Rule] = dict.fromkeys(SIMPLE, allow)
    return rules | {
        "open": bpf.without_bits(1, FORBIDDEN_OPEN, EACCES),
        "openat": bpf.without_bits(2, FORBIDDEN_OPEN, EACCES),
        "mmap": _mapping(),
        "mprotect": bpf.without_bits(2, PROT_EXEC, EPERM),
        "ioctl": bpf.one_of(1, IOCTLS, EPERM),
        "fcntl": bpf.one_of(1, FCNTLS, EPERM),
        "prlimit64": _own_limits_only(),
    }


def _program(rules: Mapping[str, bpf.Rule], otherwise: int) -> bytes:
    name = syscalls.machine()
    table = syscalls.TABLES[name]
    program: list[bpf.Instruction] = [
        bpf.load(bpf.ARCHITECTURE),
        bpf.equal(syscalls.AUDIT_ARCH[name], 1, 0),
        bpf.give(bpf.KILL_PROCESS),
        bpf.load(bpf.NUMBER),
        (bpf.JUMP_GREATER_EQUAL, 0, 1, syscalls.X32_BIT),
        bpf.give(bpf.KILL_PROCESS),
    ]
    for call, rule in rules.items():
        if call in table:
            program += bpf.case(table[call], rule)
    return bpf.assemble([*program, bpf.give(otherwise)])


def strict() -> bytes:
    """For a process that runs a snippet: no process, thread, socket, write or signal."""
    return _program(_rules(), bpf.refuse(EPERM))


def forking() -> bytes:
    """`strict` and, for the forks of a fan-out: `clone` as fork, lower limits, death with the
    parent, and a stricter filter."""
    rules = _rules() | {
        "clone": bpf.one_of(0, (FORK_FLAGS,), EPERM),
        "prlimit64": [
            bpf.low(0),
            bpf.equal(0, 1, 0),
            bpf.give(bpf.refuse(EPERM)),
            bpf.give(bpf.ALLOW),
        ],
        "prctl": [
            bpf.low(0),
            bpf.equal(kernel.PR_SET_SECCOMP, 0, 1),
            bpf.give(bpf.ALLOW),
            bpf.equal(kernel.PR_SET_PDEATHSIG, 1, 0),
            bpf.give(bpf.refuse(EPERM)),
            bpf.low(1),
            bpf.equal(SIGKILL, 1, 0),
            bpf.give(bpf.refuse(EPERM)),
            bpf.give(bpf.ALLOW),
        ],
    }
    return _program(rules, bpf.refuse(EPERM))


def gate() -> bytes:
    """Hands every `clone` to whoever holds the filter's descriptor; allows all else."""
    return _program({"clone": [bpf.give(bpf.USER_NOTIF)]}, bpf.ALLOW)


def names() -> Sequence[str]:
    """The calls that `strict` lets through on this machine, some with rules on their arguments."""
    table = syscalls.TABLES[syscalls.machine()]
    return sorted(name for name in _rules() if name in table)
