"""What the two papers report, for tables beside ours."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import isnan


@dataclass(frozen=True, slots=True)
class Figure:
    """One published accuracy: theirs, on their model, with their grader."""

    benchmark: str
    paper: str
    table: str
    what: str
    row: str
    model: str
    """The column's model where the table has one; "" where the row names it."""
    percent: float
    source: str
    """How it was read."""
    unsure: bool
    """Whether it must be looked up before it is quoted."""


@cache
def published() -> tuple[Figure, ...]:
    """All figures, in the papers' order."""
    text = (files("rstar_math.evaluation") / "published.toml").read_text(encoding="utf-8")
    found: list[Figure] = []
    for table in tomllib.loads(text)["table"]:
        for row, values in table["rows"].items():
            for column, value in zip(table["columns"], values, strict=True):
                if isnan(value):
                    continue
                benchmark, _, model = column.partition(" ")
                found.append(
                    Figure(
                        benchmark,
                        table["paper"],
                        table["table"],
                        table["what"],
                        row,
                        model,
                        float(value),
                        table["source"],
                        row in table.get("unsure", ()),
                    )
                )
    return tuple(found)


def published_on(benchmark: str) -> list[Figure]:
    """The figures on one benchmark, by the name that `rstar benchmarks` gives it."""
    return [figure for figure in published() if figure.benchmark == benchmark]
