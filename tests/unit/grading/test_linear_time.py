"""No regular expression and no reader of answers takes more than linear time."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import rstar_math.grading
from rstar_math.extraction import extract_answer
from rstar_math.grading.normalize import clean, join_thousands
from rstar_math.grading.rules import could_be_equal, extract_core, grade_exactly
from rstar_math.grading.units import strip_unit
from tests.growth import assert_linear

PIECES = [
    "1", "1,", "1.", "0.12", "1 ", "1,234", "12 345 ", "x", "x ", "a_", "x^2", "(", ")", "()",
    "[1,2]", "{", "}", "\\", "\\\\", "\\frac{1}{2}", "\\text{ a}", "\\text{", "\\boxed{",
    "\\left.", "\\sqrt", "$", "\\$", "°", "^\\circ", "^{", "{,}", "\\,", "%", "|", ":", "2:3",
    "=", "<", "!", "-", "+-", "'", "\"", "*", "**", "_", "~", "\n", " ", "\t", "kg ", "km/h ",
    "m^2 ", "5 kg ", "dollars ", "and ", "or ", "is ", "is the answer ", "the answer is ",
    "so x is ", "wait, ", "not ", "of ", "US$", "万", "个", "和", "，", "½", "²", "1/2 ", "1 1/2 ",
    "E", "e9", "9e9", "0x1", "np.float64(", "...", "\\dots", "\\overline{3}", "\\dot{1}", "A) ",
    "(A) ", "option B ", "one ", "twenty-", "hundred ", "p=5,", "f(x)=", "<|end|>", "</s>", "<|",
    "12:30 ", "am ", "noon ",
]  # fmt: skip


def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Every compiled pattern of the answer reader, by module and name."""
    names = [
        f"rstar_math.grading.{m.name}" for m in pkgutil.iter_modules(rstar_math.grading.__path__)
    ]
    for module in ["rstar_math.extraction", *names]:
        if module.endswith("worker"):
            continue  # a script, which has no patterns
        for name, value in vars(importlib.import_module(module)).items():
            for at, pattern in enumerate(_flatten(value)):
                yield f"{module.rpartition('.')[2]}.{name}[{at}]", pattern


def _flatten(value: object) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _flatten(each)


PATTERNS = dict(patterns())


def test_the_patterns_are_found() -> None:
    assert len(PATTERNS) > 80


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_linear(name: str) -> None:
    pattern = PATTERNS[name]
    for piece in PIECES:
        assert_linear(lambda text: sum(1 for _ in pattern.finditer(text)), piece, most=6_000)


@pytest.mark.parametrize("piece", PIECES)
def test_a_reader_of_answers_is_linear(piece: str) -> None:
    for function in (clean, join_thousands, strip_unit, extract_core):
        assert_linear(function, piece, most=3_000)
    assert_linear(extract_answer, piece, most=200_000)


@pytest.mark.parametrize("piece", PIECES)
def test_grading_outside_the_worker_is_short(piece: str) -> None:
    for text in (piece * 3_000, piece * (500 // len(piece))):
        assert_linear(lambda answer: grade_exactly(answer, "5"), piece, most=3_000)
        grade_exactly(text, text + "1")
        grade_exactly("2", text)
        could_be_equal(text, "1, 2")
