"""Similarity of problem texts: words, n-grams, MinHash.

A text is split into words: lower-case words, numbers, LaTeX commands, operators and brackets.
Case, space, punctuation, dollar signs and LaTeX commands for typesetting are ignored. Signs that
change a problem's answer are not punctuation: 3 + 4 and 3 - 4 differ.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Hashes: TypeAlias = npt.NDArray[np.uint64]
Indices: TypeAlias = npt.NDArray[np.int64]
MASK = "#"
"""Replaces every number in masked texts."""
_SIGNS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "—": " ", "≤": "<=", "≥": ">="}
    | {"≠": "!=", "π": " pi ", "√": " sqrt ", "∞": " infinity ", "’": "'", "‘": "'"}
)
_BRACES = str.maketrans("{}", "()")
_LATEX = {
    r"\times": "*", r"\cdot": "*", r"\div": "/", r"\le": "<=", r"\leq": "<=", r"\ge": ">=",
    r"\geq": ">=", r"\ne": "!=", r"\neq": "!=", r"\lt": "<", r"\gt": ">", r"\infty": "infinity",
    r"\lbrace": "(", r"\rbrace": ")",
}  # fmt: skip
_TYPESETTING_TEXT = (
    "left right big Big bigg Bigg displaystyle textstyle text textbf textit textrm mathrm mathbf "
    "mathit mathsf mbox hbox emph quad qquad hspace vspace hfill newline nonumber limits "
    "ensuremath boldsymbol operatorname mathop rm bf it boxed"
)
_TYPESETTING = frozenset(_TYPESETTING_TEXT.split())
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
_BASE = re.compile(r"(\\log_\d)(?=\d)")
_DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
_SPACING = re.compile(r"\\[,;:!> ]|\\\\|~|&")
_ATOM = r"\s*(?:\{\s*(\d+|[A-Za-z])\s*\}|(\d|(?<![A-Za-z])[A-Za-z]))"
_SIMPLE_FRACTION = re.compile(rf"\\[dt]?frac{_ATOM}{_ATOM}")
_SET_ALONE = re.compile(
    r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it|sf)|mbox|hbox|emph|boxed|operatorname)\s*\{([^{}]*)\}"
)
_SINGLE = re.compile(r"\{\s*(\d+|[^\W\d_])\s*\}")
_HYPHEN = re.compile(r"(?<=\w)-(?=[^\W\d_]{2})")
_SHOUT = re.compile(r"(?<=[A-Za-z][A-Za-z,.;:'\"])!(?!=)")
_ESCAPED = re.compile(r"\\([%$#&_{}\[\]()|])")
_WORD = re.compile(
    r"\d+(?:,\d{3})+(?:\.\d+)?(?![\d])"  # 1,234,567.8
    r"|\d+(?:\.\d+)?|\.\d+"
    r"|[^\W\d_]+(?:'[^\W\d_]+)?"
    r"|<=|>=|!=|[-+*/^=<>|%!]|[()\[\]]"
)
_BRACKETS = frozenset("()[]")
_NUMBER_WORDS_TEXT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred thousand million billion dozen half halves third thirds quarter quarters fourth "
    "fourths fifth fifths sixth tenth twice thrice double triple once"
)
_NUMBER_WORDS = frozenset(_NUMBER_WORDS_TEXT.split())
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Words:
    """A problem text, split into words in several forms."""

    exact: tuple[str, ...]
    """With brackets. Problems with equal `exact` are the same problem."""
    plain: tuple[str, ...]
    """Without brackets; used for n-grams."""
    masked: tuple[str, ...]
    """`plain` with "#" for every number, whether in digits or in words."""
    figures: tuple[str, ...]
    """Everything but prose, in order: numbers, operators, brackets, functions, single letters."""
    numbers: tuple[str, ...]
    """The numbers, sorted."""


def split_words(text: str) -> Words:
    """The words of a text.

    The exclamation mark of a factorial is kept, that of a sentence is dropped. A simple fraction
    has the same words in LaTeX and with a slash.
    """
    found = tuple(_words(text))
    plain = tuple(word for word in found if word not in _BRACKETS)
    return Words(
        exact=found,
        plain=plain,
        masked=tuple(MASK if is_number(word) else word for word in plain),
        figures=tuple(word for word in found if not is_prose(word)),
        numbers=tuple(sorted(word for word in plain if is_number(word))),
    )


def without_drawings(text: str) -> str:
    """The text without the source code of its drawings (Asymptote, as in MATH)."""
    return _DRAWING.sub(" ", text) if "[asy]" in text else text


def is_number(word: str) -> bool:
    """Whether a word is a number, in digits or in English."""
    return word[0].isdigit() or word[0] == "." or word in _NUMBER_WORDS


def is_prose(word: str) -> bool:
    """Whether a word is prose: not a number, a function or a letter ("a" and "i" are prose)."""
    if len(word) == 1:
        return word in ("a", "i")
    return word[0].isalpha() and word not in _NUMBER_WORDS and word not in _FUNCTIONS


_FUNCTIONS_TEXT = "sin cos tan cot sec csc log ln exp sqrt frac max min gcd lcm mod"
_FUNCTIONS = frozenset(_FUNCTIONS_TEXT.split())


def _words(text: str) -> Iterable[str]:
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS))
    if "\\" in text:
        text = _ESCAPED.sub(lambda m: " | " if m[1] == "|" else _unescaped(m[1]), text)
        text = _SPACING.sub(" ", text)
        text = _BASE.sub(r"\1 ", text)
        text = _SET_ALONE.sub(r" \1 ", text)
        text = _SIMPLE_FRACTION.sub(_fraction, text)
        text = _COMMAND.sub(_command, text)
    text = _SINGLE.sub(r" \1 ", text).translate(_BRACES)
    text = _HYPHEN.sub(" ", _SHOUT.sub(" ", text))
    for word in _WORD.findall(text.lower()):
        yield word.replace(",", "") if word[0].isdigit() else word.removesuffix("'s")


def _unescaped(sign: str) -> str:
    """The replacement of an escaped sign. Braces enclose sets; \\( and \\[ are only typesetting."""
    return {"{": "(", "}": ")", "%": "%"}.get(sign, " ")


def _fraction(match: re.Match[str]) -> str:
    numerator, denominator = (part for part in match.groups() if part is not None)
    return f" {numerator}/{denominator} "


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name in _TYPESETTING:
        return " "
    return f" {_LATEX.get(match[0], name.removeprefix('d') if name == 'dfrac' else name)} "


@lru_cache(maxsize=1_000_000)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def ngrams(texts: Sequence[Sequence[str]], n: int) -> tuple[Hashes, Indices]:
    """The hashes of all n-grams of the texts, in order, and the index of each n-gram's text.

    A text of fewer than n words has no n-grams. Hashes are the same in every process.
    """
    lengths = np.fromiter((len(text) for text in texts), np.int64, len(texts))
    flat = np.fromiter((_hash(word) for text in texts for word in text), np.uint64)
    counts = np.maximum(lengths - n + 1, 0)
    owners = np.repeat(np.arange(len(texts)), counts)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])) if len(texts) else lengths
    firsts = np.concatenate(([0], np.cumsum(counts)[:-1])) if len(texts) else counts
    at = np.arange(len(owners)) - firsts[owners] + starts[owners]
    hashes = np.full(len(owners), n, np.uint64)
    for k in range(n):
        hashes = hashes * _MULTIPLIER + flat[at + k]
        hashes ^= hashes >> np.uint64(29)
    return hashes, owners


def common_words(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence in words (bit-parallel, Hyyrö 2004)."""
    positions: dict[str, int] = {}
    for at, word in enumerate(first):
        positions[word] = positions.get(word, 0) | (1 << at)
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        match = row & positions.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(first) - row.bit_count()


def longest_run(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """The start in `first` and the length of the longest run of words that is also in `second`."""
    best = start = 0
    previous: dict[int, int] = {}
    positions: dict[str, list[int]] = {}
    for at, word in enumerate(second):
        positions.setdefault(word, []).append(at)
    for at, word in enumerate(first):
        current = {
            position: previous.get(position - 1, 0) + 1 for position in positions.get(word, ())
        }
        longest = max(current.values(), default=0)
        if longest > best:
            best, start = longest, at - longest + 1
        previous = current
    return start, best


NgramFilter = Callable[[Sequence[str]], bool]


class NgramIndex:
    """An index of the n-grams of many texts, sorted by their hashes."""

    def __init__(
        self,
        texts: Sequence[Sequence[str]],
        ids: Sequence[int],
        n: int,
        accept: NgramFilter | None = None,
    ) -> None:
        """`ids` identify the texts. Only n-grams that `accept` approves are indexed; if it approves
        none of a text, all n-grams of this text are indexed."""
        self._n = n
        hashes, owners = ngrams(texts, n)
        if accept is not None and len(hashes):
            windows = (text[i : i + n] for text in texts for i in range(len(text) - n + 1))
            accepted = np.fromiter(map(accept, windows), np.bool_, len(hashes))
            none_accepted = np.bincount(owners, accepted, len(texts)) == 0
            accepted |= none_accepted[owners]
            hashes, owners = hashes[accepted], owners[accepted]
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._ids = np.asarray(ids, np.int64)[owners[order]]

    def find_shared(self, texts: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
        """Distinct pairs (position in `texts`, id of an indexed text) that share an n-gram."""
        hashes, positions = ngrams(texts, self._n)
        first = np.searchsorted(self._hashes, hashes, "left")
        count = np.searchsorted(self._hashes, hashes, "right") - first
        hit = np.flatnonzero(count)
        count = count[hit]
        shift = first[hit] - np.cumsum(count) + count
        entries = np.arange(int(count.sum())) + np.repeat(shift, count)
        pairs = np.stack([np.repeat(positions[hit], count), self._ids[entries]])
        yield from map(tuple, np.unique(pairs, axis=1).T.tolist())


SHINGLE = 3
"""Words per shingle."""
BANDS = 20
"""Bands of the MinHash signature."""
ROWS = 4
"""Rows per band. A pair of Jaccard similarity s is found with probability
1 - (1 - s**ROWS)**BANDS: 0.9999 at 0.8, 0.9965 at 0.7, 0.72 at 0.5."""
_SEED = 20_250_108


def likely_pairs(
    texts: Sequence[Sequence[str]], groups: Sequence[object]
) -> Iterator[tuple[int, int]]:
    """Distinct pairs of indices (smaller first) of texts of one group that are likely similar.

    Candidates only: many pairs of similarity 0.5 and below are included, so check each pair. Texts
    shorter than a shingle are in no pair. The time grows with the square of the number of equal
    texts in a group.
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
            for position, second in enumerate(members):
                for first in members[:position]:
                    if (first, second) not in seen:
                        seen.add((first, second))
                        yield first, second


def _bands(hashes: Hashes, firsts: Indices) -> list[Hashes]:
    """For each band one hash per text. `firsts` is the index of each text's first n-gram."""
    rng = np.random.default_rng(_SEED)
    bands: list[Hashes] = []
    for _ in range(BANDS):
        band = np.zeros(len(firsts), np.uint64)
        for _ in range(ROWS):
            factor, shift = rng.integers(1, 2**63, 2, np.uint64)
            mixed = (hashes ^ shift) * (factor * np.uint64(2) + np.uint64(1))
            mixed ^= mixed >> np.uint64(32)
            band = (band + np.minimum.reduceat(mixed, firsts)) * _MULTIPLIER
        bands.append(band)
    return bands
