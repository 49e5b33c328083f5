"""Accuracy against cost, from recorded results."""

from collections.abc import Sequence
from dataclasses import dataclass

from rstar_math.evaluation.recorded import Reading, StepRecord


@dataclass(frozen=True, slots=True)
class Point:
    """What would have been reached had every problem been stopped at a budget."""

    tokens: float
    """Sampled tokens that a problem was allowed."""
    accuracy: float
    """Share of the problems answered right by then, in [0, 1]."""
    oracle: float
    """Share of those with any right path by then: the ceiling, which no choice can pass."""


def anytime(readings: Sequence[Reading], points: int = 40) -> list[Point]:
    """Accuracy by sampled tokens, at budgets spaced evenly on a logarithmic scale; the last is all
    that was spent on the dearest problem. A problem without an answer yet is not right; one that
    ended before the budget keeps its answer. Empty where nothing was sampled.
    """
    ends = [reading.course[-1][0] for reading in readings]
    starts = [reading.course[0][0] for reading in readings]
    if not readings or max(ends) <= 0:
        return []
    high = max(ends)
    low = max(1.0, min(min(starts), high))
    budgets = [low * (high / low) ** (i / (points - 1)) for i in range(points - 1)] + [high]
    found: list[Point] = []
    for budget in budgets:
        states = [_state(reading, budget) for reading in readings]
        n = len(states)
        found.append(Point(budget, sum(a for a, _ in states) / n, sum(b for _, b in states) / n))
    return found


def _state(reading: Reading, budget: float) -> tuple[bool, bool]:
    """Whether the answer, and any path, was right by a budget."""
    state = (False, False)
    for tokens, right, any_right in reading.course:
        if tokens > budget * (1 + 1e-9):
            break
        state = (right, any_right)
    return state


@dataclass(frozen=True, slots=True)
class Bin:
    """Steps of about the same value."""

    value: float
    """The mean chance of being right that their values stand for, in [0, 1]."""
    right: float
    """Mean share of right answers below them, in [0, 1]."""
    steps: int


def calibration(
    steps: Sequence[StepRecord], *, by_score: bool = False, bins: int = 10
) -> list[Bin]:
    """Steps by their Q (or score), in bins of equal width that are not empty: a value is calibrated
    where it stands for the share of answers below that are right."""
    held: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for step in steps:
        value = step.q
        if by_score:
            value = None if step.score is None else (step.score + 1) / 2
        if value is not None:
            held[min(bins - 1, max(0, int(value * bins)))].append((value, step.right))
    return [
        Bin(sum(v for v, _ in b) / len(b), sum(r for _, r in b) / len(b), len(b)) for b in held if b
    ]


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """The mean distance between value and outcome over the steps, in [0, 1] (expected calibration
    error); None without steps."""
    total = sum(b.steps for b in bins)
    if not total:
        return None
    return sum(b.steps * abs(b.value - b.right) for b in bins) / total
