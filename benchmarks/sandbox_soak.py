"""Runs many snippets, 1 % of them hostile, and checks for leaks.

    python benchmarks/sandbox_soak.py [--snippets 50000] [--json]

Exit code 1 if a result is wrong, a process or descriptor is left, or memory grew.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

from rstar_math.config import SandboxConfig
from rstar_math.sandbox import Sandbox
from rstar_math.types import Execution, Step

HOSTILE = (
    ("import os\nwhile True: os.fork()", {"error"}),
    ("import os; os.kill(-1, 9)", {"error"}),
    ("while True: print('x' * 1000)", {"output_cap"}),
    ("l = []\nwhile True: l.append(bytearray(10**6))", {"memory", "timeout"}),
    ("while True: pass", {"timeout"}),
    ("import ctypes; ctypes.string_at(0)", {"killed"}),
    ("import os; os._exit(9)", {"exited"}),
    ("import os\nwhile True: os.write(3, b'x' * 65536)", {"timeout"}),
    ("import os; os.kill(os.getppid(), 9)", {"error"}),
    ("import socket; socket.socket()", {"error"}),
)
CONFIG = SandboxConfig(timeout_s=2, cpu_s=0.5, memory_mb=128)
GROWTH_MB = 30.0


def program(number: int) -> tuple[str, set[str], str | None]:
    """A new text, the allowed statuses and the expected output."""
    if number % 100 == 99:
        code, allowed = HOSTILE[number // 100 % len(HOSTILE)]
        return f"{code}\n# {number}", allowed, None
    if number % 20 == 0:
        code = f"from sympy import *\nprint(solve(Symbol('x') - {number}))"
        return code, {"ok"}, f"[{number}]\n"
    return f"print({number} * 2)", {"ok"}, f"{2 * number}\n"


def memory_mb(pid: int) -> float:
    """Private resident memory of the process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def right(number: int, result: Execution) -> bool:
    """Whether the result is as expected."""
    _, allowed, printed = program(number)
    return result.status in allowed and (printed is None or result.stdout == printed)


async def soak(snippets: int) -> dict[str, float]:
    """Run all snippets and return the results."""
    wrong = 0
    figures: dict[str, float] = {}
    async with Sandbox(CONFIG) as sandbox:

        async def lane(first: int, stop: int, step: int) -> None:
            nonlocal wrong
            for number in range(first, stop, step):
                result = await sandbox.run((), Step(code=program(number)[0]))
                if not right(number, result):
                    wrong += 1
                    print(f"wrong: {number} {result.status} {result.message}", file=sys.stderr)

        async def stretch(start: int, stop: int) -> None:
            await asyncio.gather(*(lane(start + i, stop, 16) for i in range(16)))

        warm = min(2000, snippets // 5)
        await stretch(0, warm)
        pids = [zygote.pid for zygote in sandbox._zygotes]
        before = [memory_mb(pid) for pid in pids]
        own, files = memory_mb(os.getpid()), len(os.listdir("/proc/self/fd"))
        begin = time.monotonic()
        await stretch(warm, snippets)
        figures["per_s"] = (snippets - warm) / (time.monotonic() - begin)
        figures["zygotes_replaced"] = len(set(pids) - {z.pid for z in sandbox._zygotes})
        grown = [memory_mb(p) - b for p, b in zip(pids, before, strict=True) if _alive(p)]
        figures["zygote_growth_mb"] = max(grown, default=0.0)
        figures["own_growth_mb"] = memory_mb(os.getpid()) - own
        figures["descriptors_left"] = len(os.listdir("/proc/self/fd")) - files
    figures["processes_left"] = children_of({os.getpid(), *pids})
    return {"snippets": snippets, "wrong": wrong} | figures


def children_of(parents: set[int]) -> int:
    """Number of processes with one of these parents."""
    return sum(_parent(stat) in parents for stat in Path("/proc").glob("[0-9]*/stat"))


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/status").exists()


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def main() -> int:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snippets", type=int, default=50_000)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args()
    figures = asyncio.run(soak(options.snippets))
    for name, value in figures.items():
        print(f"{name:20} {value:10.2f}")
    if options.json:
        print(json.dumps(figures))
    bad = ("wrong", "processes_left", "descriptors_left", "zygotes_replaced")
    grew = max(figures["zygote_growth_mb"], figures["own_growth_mb"]) > GROWTH_MB
    return int(any(figures[name] > 0 for name in bad) or grew)


if __name__ == "__main__":
    sys.exit(main())
