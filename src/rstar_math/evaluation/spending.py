"""What results cost: by problem, and by problem solved."""

from dataclasses import asdict

from rstar_math.types import Cost

SHOWN = (
    "calls",
    "samples",
    "prompt_tokens",
    "cached_tokens",
    "sampled_tokens",
    "scorer_tokens",
    "code_runs",
    "seconds",
)
"""The parts of a cost that are reported by problem."""


def each(cost: Cost, among: int) -> dict[str, float] | None:
    """A cost shared out evenly, by name of its part; None among none. Of the problems solved it is
    the price of a solution: what the unsolved ones cost is in it."""
    if among == 0:
        return None
    parts = asdict(cost)
    return {name: parts[name] / among for name in SHOWN}
