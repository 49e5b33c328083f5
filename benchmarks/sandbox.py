"""Speed of the sandbox, side by side with what it replaces.

    python benchmarks/sandbox.py [--json] [--seconds 4]

Rates are snippets a second of one worker (so: of one core), every snippet a new text. The last line
with --json is one object of named figures:

    trivial_per_s_per_core, sympy_per_s_per_core, numpy_per_s_per_core    ours
    KIND_p50_ms, KIND_p99_ms                 latency of one at a time, as the caller sees it
    pool_KIND_per_s                          an unsandboxed persistent worker (exec in the process)
    fresh_KIND_per_s                         a fresh interpreter for each snippet
    over_fresh_KIND                          ours against the fresh interpreter, turn about
    gain_NAME                                rate with a way of being quick over the rate without:
                                             huge_pages (trivial), prepared (sympy)
    layer_NAME_ms                            what a layer adds to the trivial snippet's time
    fanout_N_over_rerun                      N candidates after 7 steps: fan-out against re-running
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
"""What is left out, and the snippet that shows it."""
TURNS = 4
LAYERS = ("capabilities", "dumpable", "landlock", "rlimits", "seccomp", "descriptors")


def new_text(code: str, number: int) -> Step:
    """The same program in a text that was never seen."""
    return Step(code=f"{code}  # {number}")


async def rate(sandbox: Sandbox, code: str, seconds: float) -> float:
    """Snippets a second with work always waiting."""
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
    """Seconds of one snippet at a time, sorted."""
    found = []
    for number in range(count):
        start = time.perf_counter()
        await sandbox.run((), new_text(code, -1 - number))
        found.append(time.perf_counter() - start)
    return sorted(found)


async def ours(seconds: float) -> dict[str, float]:
    """Our rates and latencies, and the fresh interpreter's, in turns: machines drift."""
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
    """What the ways of being quick are worth, with and without in turns."""
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
    """What each layer adds to a trivial snippet, in ms: medians, alternating with and without."""
    code = SNIPPETS["trivial"]
    figures = {}
    async with Sandbox(SandboxConfig(workers=1)) as whole:
        for layer in LAYERS:
            async with Sandbox(SandboxConfig(workers=1), _skip={layer}) as without:
                differences = []
                for turn in range(4):
                    times = []
                    for sandbox in (whole, without):
                        # Texts differ between the turns: nothing is answered from memory.
                        marked = f"{code} # {layer} {turn}"
                        times.append(statistics.median(await latencies(sandbox, marked, 40)))
                    differences.append(1000 * (times[0] - times[1]))
                figures[f"layer_{layer}_ms"] = statistics.median(differences)
    return figures


async def fan_out(candidates: int) -> float:
    """How many times faster a fan-out is than running each candidate with its prefix."""
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
    """What the public systems do: run it in the worker itself."""
    exec(code, {"print": lambda *values: None})


def pool_rate(code: str, seconds: float) -> float:
    """Snippets a second of one persistent, unsandboxed worker process."""
    with get_context("spawn").Pool(1) as pool:
        pool.apply(bare, (code,))
        return _count(lambda: pool.apply(bare, (code,)), seconds)


def fresh_rate(code: str, seconds: float) -> float:
    """Snippets a second, each in an interpreter of its own."""
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
    """All figures."""
    figures = asyncio.run(ours(seconds))
    for kind, code in SNIPPETS.items():
        figures[f"pool_{kind}_per_s"] = pool_rate(code, seconds / 2)
    figures |= asyncio.run(gains(seconds))
    figures |= asyncio.run(layers())
    for candidates in (8, 32):
        figures[f"fanout_{candidates}_over_rerun"] = asyncio.run(fan_out(candidates))
    return {name: round(value, 3) for name, value in figures.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
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
