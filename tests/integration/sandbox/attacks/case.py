"""What a case is, and how its code is wrapped."""

from collections.abc import Iterable
from dataclasses import dataclass

ESCAPED = "ESCAPED"

PRELUDE = """
import ctypes, os
_libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    words = [a if not isinstance(a, int) else ctypes.c_long(a) for a in arguments]
    result = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One program and how it must end.

    `expect` is a status, or "blocked": the effect did not happen, whatever the status. `stopped_by`
    names the layers that each stop it alone; with all of them off it gets through, and `teeth` says
    whether that may be tried (not where success would hurt the machine, or takes privileges).
    """

    name: str
    group: str
    code: str
    expect: str = "blocked"
    stopped_by: frozenset[str] = frozenset()
    teeth: bool = False
    then: str | None = None
    """A second program, run afterwards, that prints ESCAPED if the first one reached it."""
    prints: str | None = None
    """The exact output, where the case is about it."""


def attempts(group: str, layers: str, table: str, *, teeth: bool = True) -> Iterable[Case]:
    """Cases from lines `name | statement; statement`: the effect happened if none raises."""
    for line in table.strip().splitlines():
        name, body = line.split(" | ", 1)
        code = f"{PRELUDE}\ntry:\n    {body}\nexcept OSError as e:\n    print(e)\nelse:\n"
        code += f"    print('{ESCAPED}')\n"
        yield Case(
            f"{group}: {name}",
            group,
            code,
            stopped_by=frozenset(layers.split()),
            teeth=teeth,
        )


def programs(group: str, expect: str, table: str, stopped_by: str = "") -> Iterable[Case]:
    """Cases from lines `name | code`, with \\n for a new line, that must end in a status."""
    for line in table.strip().splitlines():
        name, body = line.split(" | ", 1)
        code = body.replace("\\n", "\n")
        yield Case(
            f"{group}: {name}", group, code, expect, stopped_by=frozenset(stopped_by.split())
        )
