"""Speed of grading with one worker: pairs per second, median, 99th percentile and maximum.

    python benchmarks/grading.py [--json] [--pairs N]

The pairs are generated, half of them equal: numbers as in GSM8K, expressions as in MATH. No pair is
in the grader's cache, and the start of the worker is not timed.
"""

import argparse
import asyncio
import json
import random
import statistics
import time

from rstar_math.config import GradingConfig
from rstar_math.grading import Grader

Pair = tuple[str, str]


def number_pair(rng: random.Random) -> Pair:
    """An answer and a reference as in GSM8K: integers and decimals in common notations."""
    value = rng.randrange(1, 200_000)
    gold = str(value)
    shown = value if rng.random() < 0.5 else value + rng.randrange(1, 9)
    dress = [
        "{}",
        "{}.0",
        "${}",
        "\\boxed{{{}}}",
        "{} apples",
        "{:,}",
        "The answer is {}.",
        "{}.00",
    ]
    return rng.choice(dress).format(shown), gold


def expression_pair(rng: random.Random) -> Pair:
    """An answer and a reference as in MATH: fractions, roots, polynomials, tuples, intervals."""
    a, b, c = (rng.randrange(2, 60) for _ in range(3))
    off = 0 if rng.random() < 0.5 else 1
    kinds: list[Pair] = [
        (f"\\frac{{{a}}}{{{b}}}", f"{a * c}/{b * c + off}"),
        (f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{a * a * b + off}}}"),
        (f"(x-{a})(x+{b})", f"x^2+{b - a + off}x-{a * b}"),
        (f"({a},{b})", f"({a}, {b + off})"),
        (f"[{a},\\infty)", f"x \\ge {a + off}"),
        (f"\\frac{{{a}\\pi}}{{{b}}}", f"{a + off}*pi/{b}"),
        (f"{a}+{b}i", f"{b}i+{a + off}"),
        (f"\\frac{{{a}+\\sqrt{{{b}}}}}{{{c}}}", f"{a}/{c} + sqrt({b + off})/{c}"),
        (f"\\log_{{{a}}} {b}", f"\\frac{{\\ln {b + off}}}{{\\ln {a}}}"),
        (f"y={a}x+{b}", f"{a}x-y+{b + off}=0"),
    ]
    return rng.choice(kinds)


async def measure(pairs: list[Pair]) -> dict[str, float]:
    """Seconds of each pair in sequence, and pairs per second in one batch."""
    times = []
    async with Grader(GradingConfig(workers=1)) as grader:
        await grader.compare("\\sqrt{8}", "2\\sqrt{2}")
        for pair in pairs:
            start = time.perf_counter()
            await grader.compare(*pair)
            times.append(time.perf_counter() - start)
    async with Grader(GradingConfig(workers=1)) as grader:
        await grader.compare("\\sqrt{8}", "2\\sqrt{2}")
        start = time.perf_counter()
        await grader.compare_many(pairs)
        batch_s = time.perf_counter() - start
    times.sort()
    return {
        "pairs_per_s": round(len(pairs) / batch_s, 1),
        "median_ms": round(statistics.median(times) * 1e3, 4),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1e3, 4),
        "worst_ms": round(times[-1] * 1e3, 4),
    }


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--pairs", type=int, default=2000, help="pairs of each kind")
    options = parser.parse_args()
    rng = random.Random(0)
    figures: dict[str, float] = {}
    for name, make in (("gsm8k", number_pair), ("math", expression_pair)):
        pairs = list(dict.fromkeys(make(rng) for _ in range(options.pairs)))
        for key, value in asyncio.run(measure(pairs)).items():
            figures[f"{name}_{key}"] = value
            print(f"{name:8}{key:14}{value:>12}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
