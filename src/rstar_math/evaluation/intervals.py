"""How far a mean over problems would move with other problems, and with other seeds: bootstrap
intervals (Efron 1979), the percentile kind."""

from collections.abc import Sequence

import numpy as np

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
