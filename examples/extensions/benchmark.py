"""A benchmark of your own, as a function or as a table.

    PYTHONPATH=examples rstar eval --dataset extensions.benchmark:sums --model MODEL

or, for a set with a title, a size and a licence, a TOML file with [[benchmark]] tables:

    RSTAR_BENCHMARKS=examples/extensions/benchmarks.toml rstar benchmarks sums
"""

from collections.abc import Iterator

from rstar_math.types import Problem, Question


def sums() -> Iterator[Problem]:
    """Twenty additions."""
    for n in range(20):
        text = f"What is {17 * n + 5} plus {29 * n + 11}?"
        yield Problem(Question(f"sums/{n}", text), str(46 * n + 16), source="sums")


def answer(value: object) -> str | None:
    """Reads the answer column of benchmarks.toml: the text after the last colon."""
    return str(value).rpartition(":")[2].strip() or None
