"""Pairs of texts that share most of their word n-grams, found without comparing all with all.

MinHash with banding (Broder, 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
section 3.4). Whether a pair is found depends on its two texts and nothing else.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from rstar_math.problems.similarity import Hashes, ngrams

SHINGLE = 3
"""Words of a shingle."""
BANDS = 20
ROWS = 4
"""A pair of Jaccard similarity s is found with probability 1 - (1 - s**ROWS)**BANDS: 0.9999 at 0.8,
0.9965 at 0.7, 0.72 at 0.5."""
_SEED = 20_250_108


def likely_pairs(
    texts: Sequence[Sequence[str]], groups: Sequence[object]
) -> Iterator[tuple[int, int]]:
    """Pairs of indices (smaller first) of texts that are likely similar and are of equal groups,
    each once, and of those that are no more similar than 0.5 many too: check them.

    Of texts shorter than a shingle none. The time goes up with the square of the texts of one
    group that are all alike.
    """
    hashes, owners = ngrams(texts, SHINGLE)
    counts = np.bincount(owners, minlength=len(texts))
    present = np.flatnonzero(counts)
    if not len(present):
        return
    firsts = (np.cumsum(counts) - counts)[present]
    bands = _bands(hashes, firsts)
    seen: set[tuple[int, int]] = set()
    for band in bands:
        buckets: dict[object, list[int]] = {}
        for index, value in zip(present.tolist(), band.tolist(), strict=True):
            buckets.setdefault((value, groups[index]), []).append(index)
        for members in buckets.values():
            for place, second in enumerate(members):
                for first in members[:place]:
                    if (first, second) not in seen:
                        seen.add((first, second))
                        yield first, second


def _bands(hashes: Hashes, firsts: "np.typing.NDArray[np.int64]") -> list[Hashes]:
    """For each band the hash of its rows, of every text that has n-grams."""
    rng = np.random.default_rng(_SEED)
    bands: list[Hashes] = []
    for _ in range(BANDS):
        band = np.zeros(len(firsts), np.uint64)
        for _ in range(ROWS):
            factor, shift = rng.integers(1, 2**63, 2, np.uint64)
            mixed = (hashes ^ shift) * (factor * np.uint64(2) + np.uint64(1))
            mixed ^= mixed >> np.uint64(32)
            band = (band + np.minimum.reduceat(mixed, firsts)) * np.uint64(0x9E3779B97F4A7C15)
        bands.append(band)
    return bands
