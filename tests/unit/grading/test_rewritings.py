"""Answers made from a grammar: equal in every notation, different after a change of one number."""

import re
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from rstar_math.grading import grade
from rstar_math.types import Verdict

NUMBERS = st.integers(2, 97)


def integer(a: int, b: int, c: int) -> str:
    return str(a * b + c)


def fraction(a: int, b: int, c: int) -> str:
    return rf"\frac{{{a}}}{{{97 + b}}}"


def root(a: int, b: int, c: int) -> str:
    return rf"{a}\sqrt{{{b}}} + {c}"


def polynomial(a: int, b: int, c: int) -> str:
    return f"{a}x^2 + {b}x + {c}"


def product(a: int, b: int, c: int) -> str:
    return rf"(x + {a})(y + {b}) + {c}"


def point(a: int, b: int, c: int) -> str:
    return rf"({a}, \frac{{{b}}}{{101}}, {c})"


def interval(a: int, b: int, c: int) -> str:
    return rf"[{a}, {a + b}) \cup ({a + b + c}, \infty)"


def values(a: int, b: int, c: int) -> str:
    return f"{{{a}, {a + b}, {a + b + c}}}".replace("{", r"\{").replace("}", r"\}")


def assignment(a: int, b: int, c: int) -> str:
    return f"x = {a} + {b}k, y = {c}"


def logarithm(a: int, b: int, c: int) -> str:
    return rf"{a}\ln {b} + \sin {c}"


SHAPES: list[Callable[[int, int, int], str]] = [
    integer, fraction, root, polynomial, product, point, interval, values, assignment, logarithm,
]  # fmt: skip


def spread(text: str) -> str:
    """Spaces around operators."""
    return re.sub(r"(?<=[\w})])\s*([+=,])\s*", r"  \1  ", text)


def tight(text: str) -> str:
    """No space that is not needed."""
    return re.sub(r"(?<![A-Za-z]) | (?![A-Za-z0-9])", "", text)


def display_fractions(text: str) -> str:
    return text.replace(r"\frac", r"\dfrac")


def slashes(text: str) -> str:
    return re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text)


def sized_brackets(text: str) -> str:
    return re.sub(r"(?<!\\)([(\[])", r"\\left\1", re.sub(r"(?<!\\)([)\]])", r"\\right\1", text))


def python_notation(text: str) -> str:
    text = re.sub(r"\\sqrt\{(\d+)\}", r"*sqrt(\1)", slashes(text))
    text = re.sub(r"\\ln (\d+)", r"*log(\1)", text)
    text = re.sub(r"\\sin (\d+)", r"sin(\1)", text)
    text = re.sub(r"(\d)([xk])", r"\1*\2", text.replace(")(", ")*("))
    return text.replace("^", "**").replace(r"\infty", "oo")


def reversed_sum(text: str) -> str:
    """The last number first, in a sum."""
    match = re.fullmatch(r"([^=,{[]+) \+ (\d+)|(.*\S) \+ (\\sin \d+)", text)
    if match is None or (text.startswith(("(", "[")) and "," in text):
        return text
    first, last = match.group(1) or match.group(3), match.group(2) or match.group(4)
    return f"{last} + {first}"


REWRITINGS: list[Callable[[str], str]] = [
    spread,
    tight,
    display_fractions,
    slashes,
    sized_brackets,
    python_notation,
    reversed_sum,
    lambda text: f"${text}$",
    lambda text: rf"\boxed{{{text}}}",
    lambda text: rf"The final answer is \({text}\).",
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SHAPES), NUMBERS, NUMBERS, NUMBERS)
def test_an_answer_equals_itself_in_every_notation(
    shape: Callable[[int, int, int], str], a: int, b: int, c: int
) -> None:
    answer = shape(a, b, c)
    for rewrite in REWRITINGS:
        other = rewrite(answer)
        assert grade(other, answer).verdict is Verdict.RIGHT, other
        assert grade(answer, other).verdict is Verdict.RIGHT, other


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SHAPES), NUMBERS, NUMBERS, NUMBERS, st.integers(0, 9))
def test_an_answer_with_another_number_is_not_right(
    shape: Callable[[int, int, int], str], a: int, b: int, c: int, which: int
) -> None:
    answer = shape(a, b, c)
    numbers = list(re.finditer(r"\d+", answer))
    chosen = numbers[which % len(numbers)]
    changed = answer[: chosen.start()] + str(int(chosen.group()) + 1) + answer[chosen.end() :]
    assert grade(changed, answer).verdict is not Verdict.RIGHT, changed
    for rewrite in REWRITINGS:
        assert grade(rewrite(changed), answer).verdict is not Verdict.RIGHT, changed
