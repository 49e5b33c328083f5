"""How good a scorer is, from values alone: does it rank, and is it as sure as it is right?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of like probability, and what became of them."""

    low: float
    high: float
    count: int
    predicted: float
    """Mean predicted probability, in [0, 1]; 0 for an empty bin."""
    seen: float
    """Share that came true, in [0, 1]; 0 for an empty bin."""


def ranking_accuracy(
    pairs: Sequence[tuple[float, float]], weights: Sequence[float] | None = None
) -> float | None:
    """Weighted share of pairs whose preferred side (the first) has the higher value; a tie counts
    half. None where there are no pairs."""
    weights = [1.0] * len(pairs) if weights is None else weights
    total = sum(weights)
    if total == 0:
        return None
    right = (
        weight * (0.5 if better == worse else float(better > worse))
        for (better, worse), weight in zip(pairs, weights, strict=True)
    )
    return sum(right) / total


def calibration(predicted: Sequence[float], seen: Sequence[float], bins: int = 10) -> list[Bin]:
    """A table of `bins` equal bins of predicted probabilities in [0, 1] against what came true, as
    0, 1 or a share."""
    found: list[Bin] = []
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        here = [
            (p, s)
            for p, s in zip(predicted, seen, strict=True)
            if low <= p < high or (p == high == 1.0)
        ]
        n = max(1, len(here))
        found.append(
            Bin(low, high, len(here), sum(p for p, _ in here) / n, sum(s for _, s in here) / n)
        )
    return found


def pair_calibration(pairs: Sequence[tuple[float, float]], bins: int = 10) -> list[Bin]:
    """The same of pairs: the Bradley-Terry probability that the side with the higher value is the
    better one, at least 0.5, against how often it is."""
    predicted = [1.0 / (1.0 + math.exp(-abs(a - b))) for a, b in pairs]
    return calibration(predicted, [0.5 if a == b else float(a > b) for a, b in pairs], bins)


def calibration_error(table: Sequence[Bin]) -> float:
    """Expected calibration error: mean distance of predicted and seen, by count, in [0, 1]."""
    total = sum(row.count for row in table)
    return sum(row.count * abs(row.predicted - row.seen) for row in table) / max(1, total)
