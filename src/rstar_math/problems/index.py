"""Which of some known texts share an n-gram with a text."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rstar_math.problems.similarity import ngrams

Keep = Callable[[Sequence[str]], bool]


class NgramIndex:
    """The n-grams of some texts, sorted by their hashes."""

    def __init__(
        self, texts: Sequence[Sequence[str]], names: Sequence[int], n: int, keep: Keep | None = None
    ) -> None:
        """`names` are given out for the texts. `keep` says of an n-gram whether it counts; of a
        text in which none does all count."""
        self._n = n
        hashes, owners = ngrams(texts, n)
        if keep is not None and len(hashes):
            windows = (text[i : i + n] for text in texts for i in range(len(text) - n + 1))
            good = np.fromiter(map(keep, windows), np.bool_, len(hashes))
            poor = np.bincount(owners, good, len(texts)) == 0
            good |= poor[owners]
            hashes, owners = hashes[good], owners[good]
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._names = np.asarray(names, np.int64)[owners[order]]

    def sharing(self, texts: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
        """Pairs (position in `texts`, name of a known text) that share an n-gram, each once."""
        there, positions = ngrams(texts, self._n)
        first = np.searchsorted(self._hashes, there, "left")
        count = np.searchsorted(self._hashes, there, "right") - first
        hit = np.flatnonzero(count)
        count = count[hit]
        shift = first[hit] - np.cumsum(count) + count
        places = np.arange(int(count.sum())) + np.repeat(shift, count)
        pairs = np.stack([np.repeat(positions[hit], count), self._names[places]])
        yield from map(tuple, np.unique(pairs, axis=1).T.tolist())
