"""The order in which examples are trained on: settled beforehand, from the seed alone, so that a
training that is killed and taken up again sees the same batches."""

from collections.abc import Sequence
from random import Random

_POOL = 50
"""Batches among which examples of like length are sought."""


def bucketed(lengths: Sequence[int], size: int, epochs: float, seed: int) -> list[int]:
    """Indices of examples for all epochs in one list, of which each `size` in turn make a batch of
    like lengths. Every example comes `epochs` times, up to the fraction of the last epoch."""
    rng = Random(seed)
    order: list[int] = []
    total = max(1, round(len(lengths) * epochs))
    while len(order) < total:
        epoch = list(range(len(lengths)))
        rng.shuffle(epoch)
        order += epoch[: total - len(order)]
    batches: list[tuple[int, ...]] = []
    for pool in _cut(order, size * _POOL):
        ranked = sorted(pool, key=lambda index: (lengths[index], index))
        batches += _cut(ranked, size)
    full = [b for b in batches if len(b) == size]
    rng.shuffle(full)
    rest = [index for b in batches if len(b) < size for index in b]
    return [index for b in full for index in b] + rest


def _cut(items: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """The items in pieces of a size; the last may be shorter."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]
