"""Defines programs, limits and results and caches results; tests the sandbox's layers."""

import json
import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from rstar_math.config.sections import SandboxConfig
from rstar_math.sandbox import processes
from rstar_math.sandbox.child.protocol import MESSAGE_CHARS, Limits
from rstar_math.text import replace_surrogates
from rstar_math.types import Execution, ExecutionStatus, Step

MAX_CODE_CHARS = 4 << 20
"""Longest program in characters, including its prefix."""
NOT_REPLAYED = frozenset(
    {
        ExecutionStatus.TIMEOUT,
        ExecutionStatus.MEMORY,
        ExecutionStatus.OUTPUT_CAP,
        ExecutionStatus.KILLED,
        ExecutionStatus.EXITED,
    }
)


PRELOADED = ("", "scipy", "matplotlib")
"""The kinds of zygotes, by the library that they load in advance. Each has those before it too."""
_PLOTTING = ("plot", "seaborn")


@cache
def _has_matplotlib() -> bool:
    return find_spec("matplotlib") is not None


@dataclass(frozen=True, slots=True)
class Program:
    """A step's code, the code of its prefix, and limits. Equal programs have equal results."""

    prefix: tuple[str, ...]
    code: str
    limits: Limits

    @property
    def fan_out_key(self) -> tuple[tuple[str, ...], Limits]:
        """The prefix and limits. Programs with equal keys can share a fan-out."""
        return self.prefix, self.limits

    @property
    def library(self) -> str:
        """The one of `PRELOADED` that its zygote has loaded, by the words in the code."""
        codes = (self.code, *self.prefix)
        if any(word in code for word in _PLOTTING for code in codes) and _has_matplotlib():
            return "matplotlib"
        return "scipy" if any("scipy" in code for code in codes) else ""

    @property
    def size(self) -> int:
        """Length in characters, including the prefix."""
        return len(self.code) + sum(map(len, self.prefix))


def limits_of(config: SandboxConfig) -> Limits:
    """The configured limits."""
    return Limits(
        wall_s=config.timeout_s,
        cpu_s=min(config.cpu_s, config.timeout_s),
        memory_bytes=config.memory_mb << 20,
        output_bytes=config.output_bytes,
        scratch_bytes=config.scratch_mb << 20,
        scratch_files=config.scratch_files,
    )


_FENCE = re.compile(r"[ \t]{0,3}```[ \t]{0,9}(\w{0,20})[ \t]*")
_NOT_PYTHON = frozenset(["output", "text", "txt", "bash", "sh", "json", "console"])


def python_in(text: str) -> str:
    """The program in a model's text: without reasoning, Markdown fences and prose around them.

    A text without fences is returned unchanged.
    """
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    if "```" not in text:
        return text
    blocks: list[list[str]] = []
    current: list[str] | None = None
    for line in text.splitlines():
        fence = _FENCE.fullmatch(line)
        if fence is None:
            if current is not None:
                current.append(line)
        elif current is not None:
            current = None
        else:
            current = []
            if fence[1].lower() not in _NOT_PYTHON:
                blocks.append(current)
    return "\n".join("\n".join(block) for block in blocks) if blocks else text


def code_to_replay(prefix: Sequence[Step]) -> tuple[str, ...]:
    """The code of the prefix's steps, without the steps that were killed.

    A killed step left an unfinished state and would end the next run too.
    """
    return tuple(
        python_in(step.code)
        for step in prefix
        if step.code and not (step.execution and step.execution.status in NOT_REPLAYED)
    )


def parse_reply(header: dict[str, Any], body: bytes) -> Execution:
    """The result in a zygote's reply. Raises ValueError or TypeError if it is malformed."""
    status = ExecutionStatus(header["status"])
    return Execution(
        status=status,
        stdout=body.decode("utf-8", "replace"),
        error_type=_one_line(header["type"]),
        message=_one_line(header["message"]),
        wall_s=float(header["wall_s"]),
        cpu_s=float(header["cpu_s"]),
    )


def _one_line(value: object) -> str | None:
    """The text as one short line that can be written as UTF-8."""
    if value is None:
        return None
    return " ".join(replace_surrogates(str(value)).split())[:MESSAGE_CHARS]


class ResultCache:
    """The results of the most recently used programs. The first result of a program is kept."""

    def __init__(self, size: int, max_chars: int = 64 << 20) -> None:
        self._size = size
        self._free_chars = max_chars
        self._results: OrderedDict[Program, Execution] = OrderedDict()

    def get(self, program: Program) -> Execution | None:
        """The result of an equal program, or None if there is none."""
        found = self._results.get(program)
        if found is not None:
            self._results.move_to_end(program)
        return found

    def put(self, program: Program, result: Execution) -> None:
        """Store a result; evict the least recently used ones if the cache is full."""
        if program in self._results:
            return
        self._results[program] = result
        self._free_chars -= program.size + len(result.stdout)
        while len(self._results) > self._size or self._free_chars < 0:
            old_program, old_result = self._results.popitem(last=False)
            self._free_chars += old_program.size + len(old_result.stdout)


PROBE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the sandbox, as tested on this machine."""

    name: str
    holds: bool
    detail: str
    """The result of the test, in one line."""
    stops: str
    """The threats that the layer stops."""


UNPROTECTED = (
    "A vulnerability in the kernel: snippets share the machine's kernel. If an adversary rather "
    "than a model writes the code, add a virtual machine.",
    "Timing and cache side channels, and the load of the machine: a snippet can measure time.",
    "Without bubblewrap: whether a path exists, its size and its dates (`stat`). Its contents "
    "cannot be read.",
    "Installed packages: a snippet can read everything in site-packages, so keep no data there.",
    "A snippet's own result: it can print anything and claim success. It cannot change the result "
    "of another snippet.",
    "The total memory of all snippets: each has its own limit, so the machine needs up to "
    "4 x workers x (sandbox.memory_mb + sandbox.scratch_mb).",
    "Results that depend on the system's randomness (`secrets`, `random.SystemRandom`, unseeded "
    "`numpy.random.default_rng()`), on the clock or on time-outs: they are not repeatable.",
    "macOS and Windows: the sandbox does not run there in any mode.",
)
_LAYERS = {
    "descriptors": "inherited files and sockets, the environment",
    "capabilities": "privileges of root: mounts, raw devices, raising limits, reading any file",
    "dumpable": "reading the zygote's memory and descriptors (ptrace, /proc/PID/mem)",
    "landlock": "reading files other than Python's own, writing other files than a program's own, "
    "TCP, signals to outside",
    "rlimits": "memory, descriptors, file sizes, core dumps, processes of an ordinary user",
    "seccomp": "processes, threads, sockets, signals, kernel interfaces, changes to files",
    "supervisor": "running too long, printing too much, leaving processes behind",
    "scratch": "programs from seeing the files of others (optional; without it they write none)",
    "bwrap": "seeing that other files and processes exist (optional, in addition to Landlock)",
}
"""The layers and what each one stops."""


def probe() -> list[Layer]:
    """Test the layers on this machine and return them, outermost last. Takes about 0.3 s.

    Never raises: a layer that cannot be tested does not hold.
    """
    found = dict.fromkeys(_LAYERS, (False, "could not be tested"))
    if sys.platform != "linux":
        detail = f"needs Linux; this system is {sys.platform}"
        return [Layer(name, False, detail, stops) for name, stops in _LAYERS.items()]
    found |= _test_layers()
    found["supervisor"] = (True, "limits time and output from outside the snippet's process")
    if processes.bwrap_works():
        found["bwrap"] = (True, "used around every interpreter")
    else:
        found["bwrap"] = (False, "optional; not installed or cannot create user namespaces")
    return [Layer(name, *found[name], stops) for name, stops in _LAYERS.items()]


def _test_layers() -> dict[str, tuple[bool, str]]:
    command = [
        sys.executable,
        "-S",
        "-s",
        "-P",
        "-B",
        str(processes.CHILD_FOLDER / "__main__.py"),
        "probe",
    ]
    try:
        done = subprocess.run(
            command,
            env=processes.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line]
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        return dict.fromkeys(_LAYERS, (False, f"could not be tested: {e}"))
    return {name: (bool(holds), str(detail)) for name, holds, detail in lines}
