"""Confidence intervals, paired tests, budget curves and calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np

from rstar_math.errors import ConfigError
from rstar_math.evaluation.results import GradedResult, StepOutcome

_BLOCK = 4_000_000
"""Maximum number of resampled values in memory."""


def bootstrap(
    values: Sequence[float], *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """The bootstrap interval of the mean, given one value per problem.

    None for fewer than two problems. Equal seeds give equal intervals.
    """
    if len(values) < 2:
        return None
    return _percentiles(_means(np.asarray(values, dtype=float), resamples, seed), level)


def bootstrap_seeds(
    table: Sequence[Sequence[float]], *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """The bootstrap interval of the mean over problems that were each run under several seeds.

    A row holds the values of one problem, one per seed and at least one. Problems are resampled,
    and within each problem its seeds. Every problem has the same weight. None for fewer than two
    problems.
    """
    if len(table) < 2:
        return None
    longest = max(len(row) for row in table)
    if longest == 1:
        return bootstrap([row[0] for row in table], resamples=resamples, level=level, seed=seed)
    lengths = np.array([len(row) for row in table])
    padded = np.array([[*row, *[0.0] * (longest - len(row))] for row in table])
    rng = np.random.default_rng(seed)
    n, means = len(table), []
    for size in _block_sizes(resamples, n * longest):
        rows = rng.integers(0, n, (size, n))
        picks = (rng.random((size, n, longest)) * lengths[rows][..., None]).astype(int)
        valid = np.arange(longest) < lengths[rows][..., None]
        drawn = padded[rows[..., None], picks] * valid
        means.append((drawn.sum(axis=2) / lengths[rows]).mean(axis=1))
    return _percentiles(np.concatenate(means), level)


def _means(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]", resamples: int, seed: int
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The means of `resamples` bootstrap samples."""
    rng = np.random.default_rng(seed)
    n = len(values)
    sizes = _block_sizes(resamples, n)
    blocks = [values[rng.integers(0, n, (size, n))].mean(axis=1) for size in sizes]
    means: np.ndarray[tuple[int], np.dtype[np.float64]] = np.concatenate(blocks)
    return means


def _block_sizes(resamples: int, values_per_sample: int) -> list[int]:
    """Block sizes that sum to `resamples`; each block has at most `_BLOCK` values."""
    size = max(1, _BLOCK // max(values_per_sample, 1))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _percentiles(
    means: "np.ndarray[tuple[int], np.dtype[np.float64]]", level: float
) -> tuple[float, float]:
    """The central interval that holds a share `level` of the means."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired comparison of two strategies on the same problems."""

    problems: int
    first: float
    """Accuracy of the first strategy, in [0, 1]."""
    second: float
    """Accuracy of the second strategy, in [0, 1]."""
    only_first: int
    """Number of problems that only the first answers correctly."""
    only_second: int
    """Number of problems that only the second answers correctly."""
    p: float
    """P value of McNemar's exact two-sided test, in [0, 1]."""
    interval: tuple[float, float] | None
    """95 % interval of `difference` by paired bootstrap, in [-1, 1]; None for one problem."""
    detectable: float | None
    """The smallest detectable difference at the observed rate of disagreement; see `detectable`."""

    @property
    def difference(self) -> float:
        """Accuracy of the second minus accuracy of the first, in [-1, 1]."""
        return self.second - self.first


def compare(first: Sequence[bool], second: Sequence[bool], *, seed: int = 0) -> Comparison:
    """The comparison of two strategies, given whether each problem was answered correctly.

    Raises `ConfigError` if the lengths differ or are 0.
    """
    n = len(first)
    if n == 0 or n != len(second):
        raise ConfigError(
            f"Results on {n} and {len(second)} problems cannot be paired; compare on problems that "
            "both strategies have."
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
    """The p value, in [0, 1], of McNemar's exact two-sided test (McNemar 1947; binomial).

    The arguments are the numbers of problems that only one of two strategies answers correctly.
    """
    n = only_first + only_second
    tail = sum(comb(n, i) for i in range(min(only_first, only_second) + 1))
    return float(min(1, 2 * tail / 2**n))


def detectable(
    problems: int, disagreement: float, *, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest accuracy difference, in [0, 1], that a paired test can detect; None if none.

    The test detects the difference with probability `power` at level `alpha`. `disagreement` is the
    share of problems, in [0, 1], that only one strategy answers correctly. A larger difference
    implies at least as much disagreement. Solves
    n d^2 = (z_(alpha/2) sqrt(g) + z_power sqrt(g - d^2))^2 for d, where g is the disagreement
    (Connor 1987). The exact test needs slightly more problems.
    """
    high, low = 1.0, 0.0
    if not 0 <= disagreement <= 1 or not _is_detectable(problems, disagreement, high, power, alpha):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        if _is_detectable(problems, disagreement, middle, power, alpha):
            high = middle
        else:
            low = middle
    return high


def detectable_unpaired(
    problems: int, share: float = 0.5, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest difference, in [0, 1], that an unpaired test of two accuracies can detect.

    Use it against a published accuracy without results per problem: both accuracies have sampling
    error. Normal approximation; `share`, the accuracy of both, is worst at 0.5.
    """
    z = NormalDist().inv_cdf
    return min(1.0, (z(1 - alpha / 2) + z(power)) * sqrt(2 * share * (1 - share) / problems))


def _is_detectable(
    problems: int, disagreement: float, difference: float, power: float, alpha: float
) -> bool:
    z = NormalDist().inv_cdf
    disagreement = max(disagreement, difference)
    rest = max(disagreement - difference**2, 0)
    needed = z(1 - alpha / 2) * sqrt(disagreement) + z(power) * sqrt(rest)
    return difference * sqrt(problems) >= needed


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """The accuracy if every search stopped at a token budget."""

    tokens: float
    """The budget in sampled tokens per problem."""
    accuracy: float
    """Share of problems answered correctly within the budget, in [0, 1]."""
    oracle: float
    """Share of problems with any right path within the budget, in [0, 1]: the upper bound."""


def accuracy_by_budget(results: Sequence[GradedResult], points: int = 40) -> list[BudgetPoint]:
    """The accuracy at budgets that are evenly spaced on a logarithmic scale.

    The last budget is the cost of the most expensive problem. A problem without an answer within
    the budget counts as wrong. A search that ends before the budget keeps its answer. Empty if no
    tokens were sampled.
    """
    ends = [result.progress[-1].tokens for result in results]
    starts = [result.progress[0].tokens for result in results]
    if not results or max(ends) <= 0:
        return []
    high = max(ends)
    low = max(1.0, min(min(starts), high))
    budgets = [low * (high / low) ** (i / (points - 1)) for i in range(points - 1)] + [high]
    found: list[BudgetPoint] = []
    for budget in budgets:
        states = [_state_at(result, budget) for result in results]
        n = len(states)
        accuracy = sum(right for right, _ in states) / n
        found.append(BudgetPoint(budget, accuracy, sum(any_right for _, any_right in states) / n))
    return found


def _state_at(result: GradedResult, budget: float) -> tuple[bool, bool]:
    """Whether the answer is right, and whether any path is right, within a budget."""
    state = (False, False)
    for point in result.progress:
        if point.tokens > budget * (1 + 1e-9):
            break
        state = (point.right, point.any_right)
    return state


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Steps with similar values."""

    value: float
    """Mean predicted probability of a right answer, in [0, 1]."""
    right: float
    """Mean share of right answers below the steps, in [0, 1]."""
    steps: int
    """Number of steps."""


def calibration(
    steps: Sequence[StepOutcome], *, by_score: bool = False, bins: int = 10
) -> list[CalibrationBin]:
    """The non-empty bins of equal width of the steps, by Q or by score.

    Values are calibrated if in every bin `value` equals `right`.
    """
    contents: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for step in steps:
        value = step.q
        if by_score:
            value = None if step.score is None else (step.score + 1) / 2
        if value is not None:
            contents[min(bins - 1, max(0, int(value * bins)))].append((value, step.right))
    return [
        CalibrationBin(
            value=sum(value for value, _ in content) / len(content),
            right=sum(right for _, right in content) / len(content),
            steps=len(content),
        )
        for content in contents
        if content
    ]


def calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """The expected calibration error, in [0, 1]; None without steps.

    It is the mean distance between value and share of right answers, weighted by steps.
    """
    total = sum(b.steps for b in bins)
    if not total:
        return None
    return sum(b.steps * abs(b.value - b.right) for b in bins) / total
