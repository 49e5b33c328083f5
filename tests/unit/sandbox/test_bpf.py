"""The assembler and the filters, run in an interpreter of their language."""

import struct

import pytest

from rstar_math.sandbox.child import seccomp, system_calls

EPERM, EACCES = seccomp.refuse(1), seccomp.refuse(13)
X86_64 = seccomp.AUDIT_ARCH["x86_64"]


def run(program: bytes, number: int, *arguments: int, architecture: int = X86_64) -> int:
    """What the kernel would return for a call: a classic-BPF machine with one register."""
    words = [a & (1 << 64) - 1 for a in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *words)
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    register, at = 0, 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        if operation == seccomp.RETURN:
            return int(k)
        if operation == seccomp.LOAD_WORD:
            register = struct.unpack_from("=I", data, k)[0]
            continue
        holds = {
            seccomp.JUMP_EQUAL: register == k,
            seccomp.JUMP_GREATER_EQUAL: register >= k,
            seccomp.JUMP_ANY_BIT: bool(register & k),
        }[operation]
        at += yes if holds else no


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(seccomp, "machine", lambda: "x86_64")
    return seccomp.strict()


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(seccomp, "machine", lambda: "x86_64")
    return seccomp.forking()


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(seccomp, "machine", lambda: "x86_64")
    return seccomp.writing()


CALL = system_calls.X86_64


def test_plain_calls_are_allowed_and_unknown_ones_fail(strict: bytes) -> None:
    assert run(strict, CALL["read"]) == seccomp.ALLOW
    assert run(strict, CALL["exit_group"]) == seccomp.ALLOW
    for name in ("socket", "kill", "tgkill", "clone", "prctl", "seccomp", "uname"):
        assert run(strict, CALL[name]) == EPERM
    assert run(strict, 9999) == EPERM


def test_other_architectures_and_x32_are_killed(strict: bytes) -> None:
    assert run(strict, CALL["read"], architecture=0x40000003) == seccomp.KILL_PROCESS
    assert run(strict, CALL["getpid"] | seccomp.X32_BIT) == seccomp.KILL_PROCESS
    assert run(strict, -1) == seccomp.KILL_PROCESS


@pytest.mark.parametrize("flags", [1, 2, 3, 0o100, 0o1000, 0o2000, 0o20000, 0o20200000])
def test_opening_to_write_is_refused(strict: bytes, flags: int) -> None:
    assert run(strict, CALL["open"], 0, flags) == EACCES
    assert run(strict, CALL["openat"], 0, 0, flags) == EACCES
    assert run(strict, CALL["openat"], 0, 0, flags | 1 << 40) == EACCES


def test_opening_to_read_is_allowed(strict: bytes) -> None:
    assert run(strict, CALL["openat"], 0, 0, 0o2000000 | 0o200000) == seccomp.ALLOW


def test_with_a_scratch_folder_files_are_opened_to_write(writing: bytes) -> None:
    for flags in (0, 1, 2, 0o101, 0o1101, 0o2102, 0o1001, 0o200000):
        assert run(writing, CALL["open"], 0, flags) == seccomp.ALLOW
        assert run(writing, CALL["openat"], 0, 0, flags) == seccomp.ALLOW
    for flags in (0o1000, 0o1100, 0o20001, 0o20200002):  # truncating reads, O_ASYNC, O_TMPFILE
        assert run(writing, CALL["openat"], 0, 0, flags) == EACCES


def test_the_scratch_folder_adds_only_calls_for_files(strict: bytes, writing: bytes) -> None:
    more = {n for n in range(500) if run(writing, n) != run(strict, n)}
    assert more == {CALL[name] for name in (*seccomp.WRITE, "flock")}
    assert run(writing, CALL["fcntl"], 1, 5) == run(writing, CALL["fcntl"], 1, 3) == seccomp.ALLOW
    for command in (6, 7, 37, 38):  # setting a lock succeeds and does nothing
        assert run(writing, CALL["fcntl"], 1, command) == seccomp.refuse(0)
    for command in (4, 8, 10, 1024, 1033):  # F_SETFL, F_SETOWN, F_SETSIG, F_SETLEASE, F_ADD_SEALS
        assert run(writing, CALL["fcntl"], 1, command) == EPERM


def test_executable_memory_comes_only_from_files_and_is_never_writable(strict: bytes) -> None:
    assert run(strict, CALL["mmap"], 0, 4096, 3, 0x22) == seccomp.ALLOW
    assert run(strict, CALL["mmap"], 0, 4096, 5, 0x02) == seccomp.ALLOW
    assert run(strict, CALL["mmap"], 0, 4096, 5, 0x22) == EPERM
    assert run(strict, CALL["mmap"], 0, 4096, 7, 0x02) == EPERM
    assert run(strict, CALL["mprotect"], 0, 4096, 1) == seccomp.ALLOW
    assert run(strict, CALL["mprotect"], 0, 4096, 5) == EPERM


def test_limits_are_read_only_and_ones_own(strict: bytes) -> None:
    assert run(strict, CALL["prlimit64"], 0, 7, 0) == seccomp.ALLOW
    assert run(strict, CALL["prlimit64"], 5, 7, 0) == EPERM
    assert run(strict, CALL["prlimit64"], 0, 7, 1 << 40) == EPERM


def test_descriptors_signal_nobody(strict: bytes) -> None:
    assert run(strict, CALL["fcntl"], 1, 3) == seccomp.ALLOW
    assert run(strict, CALL["fcntl"], 1, 8) == EPERM
    assert run(strict, CALL["ioctl"], 1, 0x5401) == seccomp.ALLOW
    assert run(strict, CALL["ioctl"], 1, 0x5412) == EPERM


def test_a_fan_out_may_fork_but_not_clone_otherwise(forking: bytes) -> None:
    assert run(forking, CALL["clone"], seccomp.FORK_FLAGS) == seccomp.ALLOW
    assert run(forking, CALL["clone"], 0x10000000 | 17) == EPERM
    assert run(forking, CALL["prctl"], 4, 1) == EPERM
    assert run(forking, CALL["prctl"], 1, 9) == seccomp.ALLOW, "death with the parent"
    assert run(forking, CALL["prctl"], 1, 0) == EPERM, "and no way out of it"
    assert run(forking, CALL["socket"]) == EPERM


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_program_fits_both_machines(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "machine", lambda: machine)
    for build in (seccomp.strict, seccomp.writing, seccomp.forking, seccomp.gate):
        program = build()
        number = system_calls.TABLES[machine]["read"]
        architecture = seccomp.AUDIT_ARCH[machine]
        assert run(program, number, architecture=architecture) == seccomp.ALLOW


def test_names_in_the_filter_are_in_the_table() -> None:
    known = set(CALL) | {"socket", "kill"}
    assert set(seccomp.SIMPLE) <= known
    assert set(seccomp.WRITE) <= known


def test_programs_that_the_kernel_would_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match="4096"):
        seccomp.assemble([])
    with pytest.raises(ValueError, match="range"):
        seccomp.assemble([(seccomp.JUMP_EQUAL, 256, 0, 1)])
