"""Speed of the sandbox, compared with alternatives.

    python benchmarks/sandbox.py [--json] [--seconds 4]

Rates are snippets per second of one worker, so per core. Every snippet is a new text. The last line
with --json is one object:

    trivial_per_s_per_core, sympy_per_s_per_core, numpy_per_s_per_core    our sandbox
    KIND_p50_ms, KIND_p99_ms                 latency of one snippet at a time, seen by the caller
    pool_KIND_per_s                          an unsandboxed persistent worker (exec in the process)
    fresh_KIND_per_s                         a new interpreter for each snippet
    over_fresh_KIND                          our rate over that of a new interpreter, alternating
    gain_NAME                                rate with an optimization over the rate without it:
                                             huge_pages (trivial), prepared (sympy)
    layer_NAME_ms                            time that a layer adds to the trivial snippet
    fanout_N_over_rerun                      N candidates after 7 steps: fan-out over re-running
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context

from rstar_math.config import SandboxConfig
from rstar_math.sandbox import Sandbox, processes
from rstar_math.types import Step

SNIPPETS = {
    "trivial": "print(6 * 7)",
    "sympy": "from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 5*x + 6, x))\n"
    "print(simplify((x**2 - 1)/(x - 1)))",
    "numpy": "import numpy as np\na = np.arange(9.0).reshape(3, 3) + np.eye(3)\n"
    "print(np.linalg.solve(a, np.ones(3)).round(6))",
}
PREFIX = [
    "from sympy import *\nx, y = symbols('x y')",
    "a = solve(x**2 - 5*x + 6, x)",
    "b = expand((x + y)**5)",
    "c = factor(b)",
    "d = simplify((x**2 - 1)/(x - 1))",
    "e = diff(sin(x)*exp(x), x)",
    "f = integrate(x*sin(x), x)",
]
GAINS = {"huge_pages": "trivial", "prepared": "sympy"}
"""The disabled layer, and the snippet that shows its cost."""
TURNS = 4
LAYERS = ("capabilities", "dumpable", "landlock", "rlimits", "seccomp", "descriptors")


def new_text(code: str, number: int) -> Step:
    """The same program as a new text."""
    return Step(code=f"{code}  # {number}")


async def rate(sandbox: Sandbox, code: str, seconds: float) -> float:
    """Snippets per second with a full queue."""
    done = 0
    end = time.perf_counter() + seconds

    async def feed(first: int) -> None:
        nonlocal done
        number = first
        while time.perf_counter() < end:
            result = await sandbox.run((), new_text(code, number))
            assert result.ok, result
            number += 4
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(feed(i * 10**9) for i in range(4)))
    return done / (time.perf_counter() - start)


async def latencies(sandbox: Sandbox, code: str, count: int) -> list[float]:
    """Sorted seconds of one snippet at a time."""
    found = []
    for number in range(count):
        start = time.perf_counter()
        await sandbox.run((), new_text(code, -1 - number))
        found.append(time.perf_counter() - start)
    return sorted(found)


async def ours(seconds: float) -> dict[str, float]:
    """Our rates and latencies and those of a new interpreter, alternating because speed drifts."""
    figures = {}
    async with Sandbox(SandboxConfig(workers=1)) as sandbox:
        for kind, code in SNIPPETS.items():
            await sandbox.run((), new_text(code, 0))
            mine, fresh = [], []
            for turn in range(TURNS):
                mine.append(await rate(sandbox, f"{code}  # {turn}", seconds / TURNS))
                fresh.append(fresh_rate(code, seconds / TURNS))
            figures[f"{kind}_per_s_per_core"] = statistics.mean(mine)
            figures[f"fresh_{kind}_per_s"] = statistics.mean(fresh)
            ratios = [a / b for a, b in zip(mine, fresh, strict=True)]
            figures[f"over_fresh_{kind}"] = statistics.median(ratios)
            times = await latencies(sandbox, code, 200 if kind == "trivial" else 100)
            figures[f"{kind}_p50_ms"] = 1000 * times[len(times) // 2]
            figures[f"{kind}_p99_ms"] = 1000 * times[int(0.99 * len(times))]
    return figures


async def gains(seconds: float) -> dict[str, float]:
    """Effect of each optimization, alternating with and without it."""
    figures = {}
    async with Sandbox(SandboxConfig(workers=1)) as whole:
        for name, kind in GAINS.items():
            async with Sandbox(SandboxConfig(workers=1), _skip={name}) as without:
                ratios = []
                for turn in range(2 * TURNS):
                    code = f"{SNIPPETS[kind]}  # {name} {turn}"
                    rates = [await rate(s, code, seconds / TURNS / 2) for s in (whole, without)]
                    ratios.append(rates[0] / rates[1])
                figures[f"gain_{name}"] = statistics.median(ratios)
    return figures


async def layers() -> dict[str, float]:
    """Milliseconds that each layer adds to a trivial snippet: medians, alternating on and off."""
    code = SNIPPETS["trivial"]
    figures = {}
    async with Sandbox(SandboxConfig(workers=1)) as whole:
        for layer in LAYERS:
            async with Sandbox(SandboxConfig(workers=1), _skip={layer}) as without:
                differences = []
                for turn in range(4):
                    times = []
                    for sandbox in (whole, without):
                        # A new text in each turn prevents cached results.
                        marked = f"{code} # {layer} {turn}"
                        times.append(statistics.median(await latencies(sandbox, marked, 40)))
                    differences.append(1000 * (times[0] - times[1]))
                figures[f"layer_{layer}_ms"] = statistics.median(differences)
    return figures


async def fan_out(candidates: int) -> float:
    """Speed of a fan-out relative to running each candidate with its prefix."""
    steps = [Step(code=f"print(solve(x**2 - {n}, x))") for n in range(candidates)]
    ratios = []
    async with Sandbox(SandboxConfig(workers=1)) as sandbox:
        for turn in range(3):
            prefix = [*(Step(code=code) for code in PREFIX), Step(code=f"g = {turn}")]
            other = [*(Step(code=code) for code in PREFIX), Step(code=f"g = {turn}.5")]
            start = time.perf_counter()
            await asyncio.gather(*(sandbox.run(prefix, step) for step in steps))
            fanned = time.perf_counter() - start
            start = time.perf_counter()
            for step in steps:
                await sandbox.run(other, step)
            ratios.append((time.perf_counter() - start) / fanned)
    return statistics.median(ratios)


def bare(code: str) -> None:
    """The method of the public systems: exec in the worker process."""
    exec(code, {"print": lambda *values: None})


def pool_rate(code: str, seconds: float) -> float:
    """Snippets per second of one persistent, unsandboxed worker process."""
    with get_context("spawn").Pool(1) as pool:
        pool.apply(bare, (code,))
        return _count(lambda: pool.apply(bare, (code,)), seconds)


def fresh_rate(code: str, seconds: float) -> float:
    """Snippets per second with a new interpreter for each snippet."""
    command = [sys.executable, "-c", code]
    environment = processes.environment()

    def once() -> None:
        subprocess.run(command, check=True, capture_output=True, env=environment)

    once()
    return _count(once, seconds)


def _count(act: Callable[[], object], seconds: float) -> float:
    done = 0
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        act()
        done += 1
    return done / (time.perf_counter() - start)


def measure(seconds: float) -> dict[str, float]:
    """All results."""
    figures = asyncio.run(ours(seconds))
    for kind, code in SNIPPETS.items():
        figures[f"pool_{kind}_per_s"] = pool_rate(code, seconds / 2)
    figures |= asyncio.run(gains(seconds))
    figures |= asyncio.run(layers())
    for candidates in (8, 32):
        figures[f"fanout_{candidates}_over_rerun"] = asyncio.run(fan_out(candidates))
    return {name: round(value, 3) for name, value in figures.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    options = parser.parse_args(arguments)
    figures = measure(options.seconds)
    for name, value in figures.items():
        print(f"{name:32} {value:10.3f}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
