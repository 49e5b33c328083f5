"""Finds false arithmetic in the words of a solution, such as "52 - 18 = 28".

The code of a step is executed, but its prose and comments are not. A solution can therefore be
right and still state a false calculation.
"""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from rstar_math.types import Step

_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_MARKED = rf"[$€£]?\s?(?:{_NUMBER})"
_OPERATOR = r"[-+*/×÷−]"
_STATEMENT = re.compile(
    r"(?<![\w.,)\]%/*×÷^+−=-])(?<![\dxX)\]%/*×÷^+−=-] )"
    r"(?<!times )(?<!plus )(?<!minus )(?<!of )(?<!by )(?<!over )"
    rf"(?P<left>{_MARKED}(?:\s?{_OPERATOR}\s?{_MARKED}){{1,6}})"
    rf"\s?=\s?(?P<right>{_MARKED})(?![\w%]|[.,]\d|\s?[-+*/×÷^−(])"
)
"""A chain of two to seven numbers, "=" and a number. Brackets, percentages, powers, variables, and
words between the numbers are not matched."""
_TOKEN = re.compile(rf"{_NUMBER}|{_OPERATOR}")
_ASIDE = re.compile(r"[^#\n]*#(.*)")
"""A line of code with a comment. A "#" inside a string is taken for one; that only adds text."""


def false_statements(steps: Sequence[Step]) -> list[str]:
    """Return the false arithmetic statements in the prose and comments of a solution, in order.

    A statement with a rounded result is true.
    """
    return [
        match[0].strip()
        for step in steps
        for text in _texts(step)
        for match in _STATEMENT.finditer(text)
        if _is_false(match["left"], match["right"])
    ]


def _texts(step: Step) -> Iterator[str]:
    """Yield the prose of a step and the comments of its code."""
    yield step.prose
    for line in step.code.splitlines():
        if comment := _ASIDE.fullmatch(line):
            yield comment[1]


def _is_false(left: str, right: str) -> bool:
    """Return whether a chain of numbers and operators differs from the stated result.

    The tolerance is one unit of the last stated digit, which covers rounding and truncation.
    """
    value = _value(_TOKEN.findall(left))
    (stated,) = _TOKEN.findall(right)
    digits = stated.partition(".")[2]
    return value is not None and abs(value - _number(stated)) >= Fraction(1, 10 ** len(digits))


def _value(tokens: Sequence[str]) -> Fraction | None:
    """Return the value of numbers and operators in turn; None for a division by zero.

    Products and quotients come first, from left to right.
    """
    terms = [_number(tokens[0])]
    for operator, text in zip(tokens[1::2], tokens[2::2], strict=True):
        number = _number(text)
        if operator in "*×":
            terms[-1] *= number
        elif operator in "/÷":
            if not number:
                return None
            terms[-1] /= number
        else:
            terms.append(number if operator == "+" else -number)
    return sum(terms, Fraction(0))


def _number(text: str) -> Fraction:
    """Return the value of a number with or without thousands separators."""
    return Fraction(text.replace(",", ""))
