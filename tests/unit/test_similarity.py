"""How problem texts are read, and what they have in common."""

import difflib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.problems.similarity import (
    common_words,
    longest_run,
    ngrams,
    split_words,
    without_drawings,
)

few_words = st.lists(st.sampled_from("abcd"), max_size=12)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 4?", "  what IS 3+4 ."),
        ("What is $\\frac{1}{2}$ of 6?", "What is 1/2 of 6?"),
        ("Find $\\frac12 x$", "find 1/2 x"),
        ("Let $\\left( x \\right) \\le 3$.", "Let (x) <= 3"),
        ("It costs \\$1,234.", "It costs $1234"),
        ("A 9-kilometer walk!", "a 9 kilometer walk"),
        ("Find \\[x^{10}.\\]", "Find $x^10$"),
        ("$5 \\text{ cm}$ wide", "5 cm wide"),
        ("Evaluate $\\log_82$.", "Evaluate $\\log_8 2$."),
        ("Tom’s “dog”", "Tom's dog"),
        ("3 × 4 − 2", "$3\\times 4-2$"),
    ],
)
def test_dress_does_not_matter(one: str, other: str) -> None:
    assert split_words(one).exact == split_words(other).exact


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 4?", "What is 3 - 4?"),
        ("What is $88 \\div (4 \\div 2)$?", "What is $88 \\div 4 \\div 2$?"),
        ("Compute $\\sin 60^\\circ$.", "Compute $\\sin(-60^\\circ)$."),
        ("where $k > 0$", "where $k < 0$"),
        ("$\\sqrt{2}x$", "$\\sqrt{2x}$"),
        ("$x^{2y}$", "$x^2y$"),
        ("1.5 apples", "15 apples"),
        ("5! = ?", "5 = ?"),
        ("on $[0, 1)$", "on $(0, 1)$"),
    ],
)
def test_signs_that_change_the_answer_matter(one: str, other: str) -> None:
    assert split_words(one).exact != split_words(other).exact


def test_a_text_is_read_in_four_ways() -> None:
    read = split_words("Tom has seven (7) apples, and x + 2 pears.")
    assert read.plain == ("tom", "has", "seven", "7", "apples", "and", "x", "+", "2", "pears")
    assert read.masked == ("tom", "has", "#", "#", "apples", "and", "x", "+", "#", "pears")
    assert read.figures == ("seven", "(", "7", ")", "x", "+", "2")
    assert read.numbers == ("2", "7", "seven")


def test_drawings_can_be_left_out() -> None:
    text = "Find $AX$. [asy] draw((0,0)--(1,1)); [/asy] Round it."
    assert split_words(without_drawings(text)).plain == ("find", "ax", "round", "it")


@given(st.text())
def test_any_text_can_be_read_and_case_and_space_do_not_matter(text: str) -> None:
    read = split_words(text)
    assert len(read.masked) == len(read.plain) <= len(read.exact)
    assert split_words(f"  {text}\n").exact == read.exact


def test_ngrams_tell_whose_they_are() -> None:
    hashes, owners = ngrams([["a", "b", "c"], ["a"], ["b", "c", "a", "b"]], 2)
    assert owners.tolist() == [0, 0, 2, 2, 2]
    ab, bc, bc2, ca, ab2 = hashes.tolist()
    assert ab == ab2
    assert bc == bc2
    assert len({ab, bc, ca}) == 3
    assert ngrams([], 3)[0].dtype == np.uint64


@given(few_words, few_words)
def test_common_words_are_a_longest_common_subsequence(one: list[str], other: list[str]) -> None:
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            best = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else best
    assert common_words(one, other) == table[-1][-1]


@given(few_words, few_words)
def test_the_longest_run_is_the_longest_match(one: list[str], other: list[str]) -> None:
    start, length = longest_run(one, other)
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    assert length == matcher.find_longest_match().size
    assert " ".join(one[start : start + length]) in " ".join(other)
