"""Intervals, paired tests and budget curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np

from rstar_math.errors import ConfigError
from rstar_math.evaluation.results import GradedResult, StepRecord

_BLOCK = 4_000_000
"""Resampled values held at once."""


def bootstrap(
    values: Sequence[float], *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """The interval of the mean of one value a problem, from resampled problems; None for fewer
    than two problems, of which nothing can be told. The same seed gives the same interval."""
    if len(values) < 2:
        return None
    return _percentiles(_means(np.asarray(values, dtype=float), resamples, seed), level)


def bootstrap_seeds(
    table: Sequence[Sequence[float]], *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """The interval of the mean where each problem (row) was tried under several seeds (its values,
    at least one): problems are resampled, and within each its seeds. A problem weighs 1 however
    many seeds it has. None for fewer than two problems."""
    if len(table) < 2:
        return None
    most = max(len(row) for row in table)
    if most == 1:
        return bootstrap([row[0] for row in table], resamples=resamples, level=level, seed=seed)
    lengths = np.array([len(row) for row in table])
    padded = np.array([[*row, *[0.0] * (most - len(row))] for row in table])
    rng = np.random.default_rng(seed)
    n, found = len(table), []
    for size in _blocks(resamples, n * most):
        rows = rng.integers(0, n, (size, n))
        picks = (rng.random((size, n, most)) * lengths[rows][..., None]).astype(int)
        kept = np.arange(most) < lengths[rows][..., None]
        drawn = padded[rows[..., None], picks] * kept
        found.append((drawn.sum(axis=2) / lengths[rows]).mean(axis=1))
    return _percentiles(np.concatenate(found), level)


def _means(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]", resamples: int, seed: int
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Means of resampled values."""
    rng = np.random.default_rng(seed)
    n = len(values)
    parts = [values[rng.integers(0, n, (size, n))].mean(axis=1) for size in _blocks(resamples, n)]
    whole: np.ndarray[tuple[int], np.dtype[np.float64]] = np.concatenate(parts)
    return whole


def _blocks(resamples: int, each: int) -> list[int]:
    """Sizes that sum to `resamples`, each small enough to hold."""
    size = max(1, _BLOCK // max(each, 1))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _percentiles(
    means: "np.ndarray[tuple[int], np.dtype[np.float64]]", level: float
) -> tuple[float, float]:
    """The middle `level` of some means."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two strategies on the same problems."""

    problems: int
    first: float
    """Share right of the first, in [0, 1]."""
    second: float
    only_first: int
    """Problems that only the first got right."""
    only_second: int
    p: float
    """Of McNemar's exact test, two-sided, in [0, 1]."""
    interval: tuple[float, float] | None
    """95 % of the difference second - first, by paired bootstrap, in [-1, 1]."""
    detectable: float | None
    """See `detectable`, with the share of disagreements that was seen."""

    @property
    def difference(self) -> float:
        """Second minus first, in [-1, 1]."""
        return self.second - self.first


def compare(first: Sequence[bool], second: Sequence[bool], *, seed: int = 0) -> Comparison:
    """Two strategies' results, problem by problem. Raises `ConfigError` where they are not of the
    same number of problems, or of none."""
    n = len(first)
    if n == 0 or n != len(second):
        raise ConfigError(
            f"Results on {n} and on {len(second)} problems cannot be paired; compare on the "
            "problems that both have."
        )
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    gaps = [float(b) - float(a) for a, b in zip(first, second, strict=True)]
    return Comparison(
        problems=n,
        first=sum(first) / n,
        second=sum(second) / n,
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
        interval=bootstrap(gaps, seed=seed),
        detectable=detectable(n, (only_first + only_second) / n),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """The chance, in [0, 1], of a split at least as uneven if both were equally good: the exact
    two-sided test on the problems that only one got right (McNemar 1947; binomial)."""
    n = only_first + only_second
    tail = sum(comb(n, i) for i in range(min(only_first, only_second) + 1))
    return float(min(1, 2 * tail / 2**n))


def detectable(
    problems: int, disagreeing: float, *, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest difference in share right, in [0, 1], that a paired test on so many problems
    shows with chance `power` at level `alpha`; None where none does.

    `disagreeing` is the share of problems that only one of the two gets right; a difference larger
    than that is one with more disagreement, all of one kind. Solves
    n d^2 = (z_(alpha/2) sqrt(g) + z_power sqrt(g - d^2))^2 for d, g the share of disagreements
    (Connor 1987); the exact test needs a little more.
    """
    high, low = 1.0, 0.0
    if not 0 <= disagreeing <= 1 or not _seen(problems, disagreeing, high, power, alpha):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        if _seen(problems, disagreeing, middle, power, alpha):
            high = middle
        else:
            low = middle
    return high


def detectable_unpaired(
    problems: int, share: float = 0.5, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest difference, in [0, 1], that can be told between our share right on so many
    problems and a published one of which only the share is known: both carry their own chance.
    Normal approximation; share 0.5 is the worst case."""
    z = NormalDist().inv_cdf
    return min(1.0, (z(1 - alpha / 2) + z(power)) * sqrt(2 * share * (1 - share) / problems))


def _seen(problems: int, disagreeing: float, gap: float, power: float, alpha: float) -> bool:
    """Whether a difference is large enough to be shown."""
    z = NormalDist().inv_cdf
    disagreeing = max(disagreeing, gap)
    needed = z(1 - alpha / 2) * sqrt(disagreeing) + z(power) * sqrt(max(disagreeing - gap**2, 0))
    return gap * sqrt(problems) >= needed


@dataclass(frozen=True, slots=True)
class Point:
    """What would have been reached had every problem been stopped at a budget."""

    tokens: float
    """Sampled tokens that a problem was allowed."""
    accuracy: float
    """Share of the problems answered right by then, in [0, 1]."""
    oracle: float
    """Share of those with any right path by then: the ceiling, which no choice can pass."""


def anytime(readings: Sequence[GradedResult], points: int = 40) -> list[Point]:
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


def _state(reading: GradedResult, budget: float) -> tuple[bool, bool]:
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
