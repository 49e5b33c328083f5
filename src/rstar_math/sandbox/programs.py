"""Programs, limits, results and their cache; probing of the sandbox's layers."""

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rstar_math.config.sections import SandboxConfig
from rstar_math.sandbox import processes
from rstar_math.sandbox.child.protocol import Limits
from rstar_math.text import replace_surrogates
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
        wall_s=config.timeout_s,
        cpu_s=min(config.cpu_s, config.timeout_s),
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
    return (
        None if value is None else " ".join(replace_surrogates(str(value)).split())[:MESSAGE_CHARS]
    )


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


TRIAL_S = 30.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the sandbox as found here."""

    name: str
    holds: bool
    detail: str
    """What was found, one line."""
    stops: str
    """What the layer is there to stop."""


UNPROTECTED = (
    "A fault in the kernel itself: snippets share the machine's kernel. For code from an adversary "
    "rather than from a model, add a virtual machine.",
    "Timing and cache side channels, and how loaded the machine is: a snippet can measure time.",
    "Whether a path exists, and its size and dates (`stat`), where bubblewrap is not in use; its "
    "contents cannot be read.",
    "Installed packages: everything in site-packages can be read, so keep no data there.",
    "A snippet's own result: it can print anything, and claim success. It cannot touch another's.",
    "Memory of all snippets together: each has its own limit, the machine must bear "
    "4 x workers x sandbox.memory_mb at worst.",
    "Randomness that a program asks of the system (`secrets`, `random.SystemRandom`, unseeded "
    "`numpy.random.default_rng()`), the clock and time-outs: such programs do not repeat.",
    "Interpreters on macOS and Windows: refused, whatever the mode.",
)
_STOPS = {
    "descriptors": "inherited files and sockets, the environment",
    "capabilities": "what root may do: mounts, raw devices, raising limits, reading any file",
    "dumpable": "reading the zygote's memory and descriptors (ptrace, /proc/PID/mem)",
    "landlock": "reading files other than Python's own, writing any, TCP, signals outside",
    "rlimits": "memory, descriptors, file sizes, core dumps, processes of an ordinary user",
    "seccomp": "processes, threads, sockets, signals, kernel interfaces, changes to files",
    "judge": "running too long, printing too much, leaving processes behind",
    "bwrap": "seeing that other files and processes exist (adds to Landlock; optional)",
}


def probe() -> list[Layer]:
    """The layers, outermost last, each tried just now; takes about 0.3 s. Never raises: what cannot
    be tried does not hold."""
    found = dict.fromkeys(_STOPS, (False, "could not be tried"))
    if sys.platform != "linux":
        return [Layer(n, False, f"{sys.platform}: needs Linux", s) for n, s in _STOPS.items()]
    found |= _try_layers()
    found["judge"] = (True, "clocks, counters and kills from outside the snippet's process")
    if processes.bwrap_works():
        found["bwrap"] = (True, "in use around every interpreter")
    else:
        found["bwrap"] = (False, "not installed, or not allowed to make user namespaces; optional")
    return [Layer(name, *found[name], stops) for name, stops in _STOPS.items()]


def _try_layers() -> dict[str, tuple[bool, str]]:
    command = [
        sys.executable,
        "-S",
        "-s",
        "-P",
        "-B",
        str(processes.CHILD / "__main__.py"),
        "probe",
    ]
    try:
        done = subprocess.run(
            command,
            env=processes.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_S,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line]
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        return dict.fromkeys(_STOPS, (False, f"could not be tried: {e}"))
    return {name: (bool(holds), str(detail)) for name, holds, detail in lines}
