"""What two problem texts have in common: their words, their figures, their n-grams.

A text is read as words: lower-case words, numbers, LaTeX commands, operators and, kept apart for
`Words.exact`, brackets. Case, space, punctuation, dollar signs and LaTeX that only sets type are
left out. Signs that change a problem's answer are not punctuation: 3 + 4 and 3 - 4 differ.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Hashes: TypeAlias = npt.NDArray[np.uint64]
Indices: TypeAlias = npt.NDArray[np.int64]

MASK = "#"
"""What stands for a number where numbers are masked."""

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
    """A problem text as words."""

    exact: tuple[str, ...]
    """With brackets: two texts with equal ones are the same problem."""
    plain: tuple[str, ...]
    """Without brackets: what n-grams are made of."""
    masked: tuple[str, ...]
    """As `plain`, each number, in digits or in words, as "#"."""
    figures: tuple[str, ...]
    """What is no word of prose, in order: numbers, operators, brackets, functions, letters."""
    numbers: tuple[str, ...]
    """The numbers, sorted."""


def words(text: str) -> Words:
    """A text as words; see the module. The exclamation mark of a sentence is dropped, that of a
    factorial is kept; one simple fraction in LaTeX and with a slash are the same."""
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
    """A text without the source of its drawings (Asymptote, as in MATH)."""
    return _DRAWING.sub(" ", text) if "[asy]" in text else text


def is_number(word: str) -> bool:
    """Whether a word is a number, in digits or in English."""
    return word[0].isdigit() or word[0] == "." or word in _NUMBER_WORDS


def is_prose(word: str) -> bool:
    """Whether a word is neither a number, a function nor a letter ("a" and "I" are words)."""
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
    """An escaped sign: braces and brackets hold sets and intervals, \\( and \\[ only set type."""
    return {"{": "(", "}": ")", "%": "%"}.get(sign, " ")


def _fraction(match: re.Match[str]) -> str:
    above, below = (part for part in match.groups() if part is not None)
    return f" {above}/{below} "


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name in _TYPESETTING:
        return " "
    return f" {_LATEX.get(match[0], name.removeprefix('d') if name == 'dfrac' else name)} "


@lru_cache(maxsize=1_000_000)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def ngrams(texts: Sequence[Sequence[str]], n: int) -> tuple[Hashes, Indices]:
    """Hashes of all n-grams of some texts, in order, and the index of the text of each.

    A text of fewer than n words has none. Equal n-grams have equal hashes, in any process.
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
    """Length of the longest common subsequence, in words (bit-parallel, after Hyyrö, 2004)."""
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | (1 << at)
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(first) - row.bit_count()


def longest_run(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """Where in `first` the longest run of words begins that `second` has too, and its length."""
    best = start = 0
    before: dict[int, int] = {}
    places: dict[str, list[int]] = {}
    for at, word in enumerate(second):
        places.setdefault(word, []).append(at)
    for at, word in enumerate(first):
        here = {place: before.get(place - 1, 0) + 1 for place in places.get(word, ())}
        longest = max(here.values(), default=0)
        if longest > best:
            best, start = longest, at - longest + 1
        before = here
    return start, best
