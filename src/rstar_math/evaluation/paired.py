"""Whether one strategy is better than another on the same problems, and what difference so many
problems can show at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

from rstar_math.errors import ConfigError
from rstar_math.evaluation.intervals import bootstrap


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
