"""Speed and accuracy of grading with one worker, beside math-verify on the same rows.

    python benchmarks/grading.py [--json] [--pairs N]

Rows: generated pairs, half of them equal (numbers as in GSM8K, expressions as in MATH), and the
hand-written table of the tests. Every row is new to the grader's cache, and no start of a process
is timed. math-verify runs in this process, without its time limit; it is skipped if missing.
"""

import argparse
import asyncio
import gc
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rstar_math.config import GradingConfig
from rstar_math.grading import Grader
from rstar_math.types import Verdict

Pair = tuple[str, str]
"""An answer and its reference."""
TABLE = Path(__file__).parents[1] / "tests" / "data" / "grading_cases.json"


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


def table_rows() -> list[tuple[Pair, bool]]:
    """The rows of the tests, and whether the answer is right."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = [((pred, gold), want == "right") for part in table.values() for gold, pred, want in part]
    return list(dict(rows).items())


def generated_rows(count: int) -> list[Pair]:
    """Numbers and expressions, in turn."""
    rng = random.Random(1)
    makers = (number_pair, expression_pair)
    return list(dict.fromkeys(makers[i % 2](rng) for i in range(count)))


def math_verify_judge() -> Callable[[Pair], bool] | None:
    """Whether math-verify accepts a pair; None if it is not installed."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return None

    def accepts(pair: Pair) -> bool:
        pred, gold = pair
        # The reference is given as a formula, which its authors recommend.
        reference = parse(
            gold if "$" in gold or "boxed" in gold else f"${gold}$", parsing_timeout=None
        )
        return bool(verify(reference, parse(pred, parsing_timeout=None), timeout_seconds=None))

    return accepts


async def ours(pairs: Sequence[Pair]) -> tuple[list[bool], float]:
    """Decisions on the pairs and the seconds they took together."""
    async with Grader(GradingConfig(workers=1)) as grader:
        await grader.compare("\\sqrt{8}", "2\\sqrt{2}")
        start = time.perf_counter()
        grades = await grader.compare_many(pairs)
        seconds = time.perf_counter() - start
    return [grade.verdict is Verdict.RIGHT for grade in grades], seconds


def theirs(accepts: Callable[[Pair], bool], pairs: Sequence[Pair]) -> tuple[list[bool], float]:
    """The same for math-verify. A pair on which it fails counts as not accepted."""
    accepts(("2\\sqrt{2}", "\\sqrt{8}"))
    decisions = []
    start = time.perf_counter()
    for pair in pairs:
        try:
            decisions.append(accepts(pair))
        except Exception:
            decisions.append(False)
    return decisions, time.perf_counter() - start


def compare(count: int) -> dict[str, float]:
    """Rates on generated rows, and decisions on the table, of both graders."""
    rows, table = generated_rows(count), table_rows()
    pairs, wanted = [pair for pair, _ in table], [right for _, right in table]
    graders: dict[str, Callable[[Sequence[Pair]], tuple[list[bool], float]]] = {
        "ours": lambda some: asyncio.run(ours(some))
    }
    if (accepts := math_verify_judge()) is not None:
        graders["math_verify"] = lambda some: theirs(accepts, some)
    figures: dict[str, float] = {"table_rows": len(table), "generated_rows": len(rows)}
    for name, grader in graders.items():
        gc.collect()
        _, seconds = grader(rows)
        decisions, table_s = grader(pairs)
        false_rights = sum(d and not w for d, w in zip(decisions, wanted, strict=True))
        agreed = sum(d == w for d, w in zip(decisions, wanted, strict=True))
        figures |= {
            f"{name}_rows_per_s": round(len(rows) / seconds, 1),
            f"{name}_table_rows_per_s": round(len(pairs) / table_s, 1),
            f"{name}_table_accuracy": round(agreed / len(table), 4),
            f"{name}_table_false_rights": false_rights,
        }
    return figures


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
    for key, value in compare(2 * options.pairs).items():
        figures[key] = value
        print(f"{key:32}{value:>12}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
