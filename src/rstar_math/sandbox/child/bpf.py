"""A classic-BPF assembler of the few words that seccomp filters need.

An instruction is (code, jump if true, jump if false, k), jumps counted in instructions. A rule is a
list of instructions that ends in a return on every path, so that rules can be put one after another
without labels.
"""

import struct
from collections.abc import Iterable, Sequence

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
    """The return value that makes a call fail with an errno."""
    return ERRNO | errno


def give(action: int) -> Instruction:
    """Return an action."""
    return (RETURN, 0, 0, action)


def load(offset: int) -> Instruction:
    """Load a word of the call's data."""
    return (LOAD_WORD, 0, 0, offset)


def low(argument: int) -> Instruction:
    """Load the low half of an argument, counted from 0 (both architectures are little-endian)."""
    return load(ARGUMENTS + 8 * argument)


def high(argument: int) -> Instruction:
    """Load the high half of an argument."""
    return load(ARGUMENTS + 8 * argument + 4)


def equal(k: int, yes: int, no: int) -> Instruction:
    """Skip `yes` instructions if the loaded word is k, else `no`."""
    return (JUMP_EQUAL, yes, no, k)


def any_bit(mask: int, yes: int, no: int) -> Instruction:
    """Skip `yes` instructions if the loaded word has a bit of the mask, else `no`."""
    return (JUMP_ANY_BIT, yes, no, mask)


def one_of(argument: int, values: Iterable[int], errno: int) -> Rule:
    """Allow if the argument's low half is one of the values."""
    rule = [low(argument)]
    for value in values:
        rule += [equal(value, 0, 1), give(ALLOW)]
    return [*rule, give(refuse(errno))]


def without_bits(argument: int, mask: int, errno: int) -> Rule:
    """Allow if the argument's low half has none of the bits."""
    return [low(argument), any_bit(mask, 0, 1), give(refuse(errno)), give(ALLOW)]


def zero(arguments: Iterable[int], errno: int) -> Rule:
    """Allow if all of the arguments, whole, are 0."""
    rule: list[Instruction] = []
    for argument in arguments:
        for half in (low(argument), high(argument)):
            rule += [half, equal(0, 1, 0), give(refuse(errno))]
    return [*rule, give(ALLOW)]


def case(number: int, rule: Rule) -> Rule:
    """The rule for one system call; expects the call's number to be loaded."""
    return [equal(number, 0, len(rule)), *rule]


def assemble(program: Sequence[Instruction]) -> bytes:
    """The program as the kernel reads it. Raises ValueError for what it could not hold."""
    if not 0 < len(program) <= 4096:
        raise ValueError(f"a filter has 1 to 4096 instructions, not {len(program)}")
    for code, yes, no, k in program:
        if not (0 <= yes < 256 and 0 <= no < 256 and 0 <= k < 1 << 32 and 0 <= code < 1 << 16):
            raise ValueError(f"instruction out of range: {(code, yes, no, k)}")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
