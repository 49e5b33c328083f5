"""What is run and what came of it: programs, their limits, results, and the cache of results."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rstar_math.config import SandboxConfig
from rstar_math.foreign import encodable
from rstar_math.sandbox.child.limits import Limits
from rstar_math.types import Execution, ExecutionStatus, Step

MAX_CODE = 4 << 20
"""Longest program, in characters, prefix included."""
MESSAGE_CHARS = 300
NOT_REPLAYED = frozenset(
    {
        ExecutionStatus.TIMEOUT,
        ExecutionStatus.MEMORY,
        ExecutionStatus.OUTPUT_CAP,
        ExecutionStatus.KILLED,
        ExecutionStatus.EXITED,
    }
)


@dataclass(frozen=True, slots=True)
class Program:
    """A step's code after its prefix's, under limits. Equal programs have equal results."""

    prefix: tuple[str, ...]
    code: str
    limits: Limits

    @property
    def family(self) -> tuple[tuple[str, ...], Limits]:
        """What it shares with the candidates that it can be fanned out with."""
        return self.prefix, self.limits

    @property
    def needs_scipy(self) -> bool:
        """Whether the text speaks of scipy, so that a zygote which has it loaded serves better."""
        return "scipy" in self.code or any("scipy" in code for code in self.prefix)

    @property
    def size(self) -> int:
        """Characters of code."""
        return len(self.code) + sum(map(len, self.prefix))


def limits_of(config: SandboxConfig) -> Limits:
    """The configured limits."""
    return Limits(
        wall_s=config.wall_s,
        cpu_s=min(config.cpu_s, config.wall_s),
        memory=config.memory_mb << 20,
        output=config.output_bytes,
    )


def replayed(prefix: Sequence[Step]) -> tuple[str, ...]:
    """The prefix's code that is run again: all but what had to be ended by force, which left its
    state unfinished and would only end the next run too."""
    return tuple(
        step.code
        for step in prefix
        if step.code and not (step.execution and step.execution.status in NOT_REPLAYED)
    )


def execution(header: dict[str, Any], body: bytes) -> Execution:
    """A zygote's reply as a result. Raises ValueError or TypeError for a reply that is none."""
    status = ExecutionStatus(header["status"])
    return Execution(
        status=status,
        stdout=body.decode("utf-8", "replace"),
        error_type=_line(header["type"]),
        message=_line(header["message"]),
        wall_s=float(header["wall_s"]),
        cpu_s=float(header["cpu_s"]),
    )


def _line(value: object) -> str | None:
    """What a program says of its error, as one short line that a file can hold."""
    return None if value is None else " ".join(encodable(str(value)).split())[:MESSAGE_CHARS]


class Cache:
    """The results of the programs run last; the first verdict on a program stays."""

    def __init__(self, size: int, characters: int = 64 << 20) -> None:
        self._size = size
        self._room = characters
        self._results: OrderedDict[Program, Execution] = OrderedDict()

    def get(self, program: Program) -> Execution | None:
        """The result of an equal program, or None."""
        found = self._results.get(program)
        if found is not None:
            self._results.move_to_end(program)
        return found

    def put(self, program: Program, result: Execution) -> None:
        """Keep a result, at the cost of those that were not asked for longest."""
        if program in self._results:
            return
        self._results[program] = result
        self._room -= program.size + len(result.stdout)
        while len(self._results) > self._size or self._room < 0:
            old, gone = self._results.popitem(last=False)
            self._room += old.size + len(gone.stdout)
