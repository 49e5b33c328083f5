"""Grading with exact arithmetic, without any worker."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar_math.grading.nodes import LimitExceeded, ParseError
from rstar_math.grading.normalize import clean
from rstar_math.grading.rules import (
    NO_ANSWER,
    NO_REFERENCE,
    canonical_form,
    canonical_key,
    could_be_equal,
    grade_exactly,
    normal_form,
    parse_answer,
)
from rstar_math.types import Verdict

_TABLE = json.loads(
    (Path(__file__).parents[2] / "data" / "grading_cases.json").read_text(encoding="utf-8")
)
_MATHS = "0123456789+-*/^()[]{}\\ .,=<>|_xyei$%!°:;fracsqtpuo∞√½π"


@pytest.mark.parametrize("why", _TABLE)
def test_what_needs_no_engine_is_judged_as_written(why: str) -> None:
    for gold, pred, want in _TABLE[why]:
        result = grade_exactly(pred, gold)
        if result is not None:
            assert (result.verdict is Verdict.RIGHT) == (want == "right"), (
                gold,
                pred,
                result,
            )


def test_most_of_the_table_needs_no_engine() -> None:
    pairs = [(pred, gold) for rows in _TABLE.values() for gold, pred, _ in rows]
    assert sum(grade_exactly(*pair) is not None for pair in pairs) > 0.7 * len(pairs)


def test_every_group_of_the_table_has_wrong_twins() -> None:
    for why, rows in _TABLE.items():
        verdicts = {want for _, _, want in rows}
        assert verdicts - {"right"}, why


@given(st.text(alphabet=_MATHS, max_size=40), st.text(alphabet=_MATHS, max_size=40))
def test_no_text_makes_the_rules_fail(pred: str, gold: str) -> None:
    grade_exactly(pred, gold)
    could_be_equal(pred, gold)
    normal_form(pred)


@given(st.text(max_size=60))
def test_any_unicode_is_cleaned_and_equal_to_itself(text: str) -> None:
    clean(text)
    result = grade_exactly(text, text)
    assert result is not None
    assert result.verdict is Verdict.RIGHT or result in (NO_ANSWER, NO_REFERENCE)


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_exact_numbers_are_equal_exactly(a: Fraction, b: Fraction) -> None:
    for pred, gold in ((f"{a}", f"{b}"), (f"\\frac{{{a.numerator}}}{{{a.denominator}}}", f"{b}")):
        result = grade_exactly(pred, gold)
        assert result is not None
        assert (result.verdict is Verdict.RIGHT) == (a == b)


@given(st.floats(min_value=1e-8, max_value=1e8), st.floats(min_value=-3e-6, max_value=3e-6))
def test_prints_are_equal_to_one_in_a_million(value: float, change: float) -> None:
    other = value * (1 + change)
    gap = abs(Fraction(repr(value)) - Fraction(repr(other)))
    result = grade_exactly(repr(other), repr(value))
    assert result is not None
    if result.verdict is Verdict.RIGHT:
        assert gap * 10**6 <= max(Fraction(repr(value)), Fraction(repr(other)))


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_order_counts_in_tuples_alone(items: list[int], rng: object) -> None:
    turned = items[::-1]
    loose = grade_exactly(", ".join(map(str, turned)), ", ".join(map(str, items)))
    assert loose is not None
    assert loose.verdict is Verdict.RIGHT
    tight = grade_exactly(f"({', '.join(map(str, turned))})", f"({', '.join(map(str, items))})")
    assert tight is not None
    assert (tight.verdict is Verdict.RIGHT) == (turned == items)


@settings(max_examples=60)
@given(st.integers(0, 10**12))
def test_a_number_is_one_in_every_dress(value: int) -> None:
    dresses = [
        f"{value:,}",
        f"${value}",
        f"{value}.0",
        f"\\boxed{{{value}}}",
        f"{value} eggs",
        f"x={value}",
    ]
    for dress in (
        *dresses,
        f"$\\text{{{value}}}$",
        f"{value}\\%",
        f"{value}^\\circ",
        f"{value:,}".replace(",", "{,}"),
    ):
        result = grade_exactly(dress, str(value))
        assert result is not None
        assert result.verdict is Verdict.RIGHT, dress
        other = grade_exactly(dress, str(value + 1))
        assert other is not None
        assert other.verdict is Verdict.WRONG, dress


def test_a_canonical_key_holds_equal_answers_only() -> None:
    assert canonical_key("1/2") == canonical_key("0.5") == canonical_key("\\frac{2}{4}")
    assert canonical_key("(1,2)") != canonical_key("\\{1,2\\}")
    assert canonical_key("5_{") is None


def test_the_caps_refuse_before_any_work() -> None:
    for text in ("1" * 2000, "(" * 100 + "1" + ")" * 100, "2^{" * 100 + "1" + "}" * 100):
        with pytest.raises((LimitExceeded, ParseError)):
            parse_answer(text)


def test_a_form_does_not_depend_on_the_writing() -> None:
    assert canonical_form(parse_answer("x^2+2x+1")) == canonical_form(
        parse_answer("1 + 2*x + x**2")
    )
    assert canonical_form(parse_answer("\\frac{1}{2}")) == canonical_form(
        parse_answer("0.5")
    ).removeprefix("~")
