"""False calculations in the words of a solution."""

import pytest

from rstar_math.training.curation.arithmetic import false_statements
from rstar_math.types import Step

TRUE = [
    "52 - 18 = 34",
    "so 3 * 4 + 2 = 14 apples",
    "1,200 + 300 = 1,500",
    "$42 - $20 = $22",
    "10 / 3 = 3.33",
    "10 / 3 = 3",
    "20 / 3 = 7",
    "2 × 3 = 6 and 6 ÷ 2 = 3",
    "4,000 / 50 = 80",
]
NOT_READ = [
    "x = 5",
    "2x + 3 = 9",
    "(2 + 3) * 4 = 20",
    "50% * 8 = 4",
    "2^3 = 8 and 2 ** 3 = 8",
    "3 apples + 4 apples = 9",
    "5 + 3 = 2 * 4",
    "1 + 2 = 3 + 4 - 4",
    "7 / 0 = 1",
    "a - 3 = 4",
    "f(2) - 3 = 4",
    "5 = 4 + 1",
    "1 + 1 = 2x",
    "5 x 3 - 1 = 14",
    "half of 6 + 2 = 5",
    "2 1/2 = 2.5",
]
FALSE = [
    ("Ben has 52 - 18 = 28 cards.", "52 - 18 = 28"),
    ("3 * 4 + 2 = 18", "3 * 4 + 2 = 18"),
    ("$1,200 + $300 = $1,600.", "$1,200 + $300 = $1,600"),
    ("10 / 3 = 3.5", "10 / 3 = 3.5"),
    ("6 + 2 = 2", "6 + 2 = 2"),
]


@pytest.mark.parametrize("text", TRUE + NOT_READ)
def test_true_and_unreadable_statements_are_not_false(text: str) -> None:
    assert false_statements([Step(prose=text)]) == []


@pytest.mark.parametrize(("text", "statement"), FALSE)
def test_false_statements_in_prose_and_comments(text: str, statement: str) -> None:
    assert false_statements([Step(prose=text)]) == [statement]
    assert false_statements([Step(code=f"a = 1  # {text}\nprint(a)\n")]) == [statement]


def test_code_itself_is_not_read() -> None:
    assert false_statements([Step(code="assert not 1 + 1 == 3\nx = '2 + 2 = 5'\n")]) == []
