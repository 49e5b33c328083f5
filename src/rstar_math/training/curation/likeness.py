"""When two solutions, or two steps, are too much alike to count as two."""

import ast
import warnings
from collections.abc import Sequence
from functools import lru_cache

from rstar_math.types import Step

_LONGEST = 4000
"""Longest code of a step that is parsed, in characters; a bound on what hostile code can cost."""


def program_form(steps: Sequence[Step]) -> str:
    """What a solution computes, in a normal form: its statements as syntax trees, in order.

    Comments, blank space, kinds of quotes and brackets without effect make no difference, nor does
    where the steps are cut or what is said before and after the code; names and the order of
    statements do. Code that does not parse counts with its blank space made even; a solution
    without code counts by its words.
    """
    forms = [form for step in steps if step.code and (form := _statements(step.code))]
    return "\n".join(forms) if forms else _even("".join(step.text for step in steps))


@lru_cache(maxsize=65536)
def _statements(code: str) -> str:
    """A step's statements; "" if it has none."""
    if len(code) > _LONGEST:
        return _even(code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = ast.parse(code)
        return "\n".join(map(ast.dump, parsed.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _even(code)


def _even(text: str) -> str:
    return " ".join(text.split())


def edit_distance(one: str, other: str) -> int:
    """Fewest characters to insert, delete or replace to make one text the other.

    Bit-parallel (Myers, J. ACM 46, 1999, in Hyyro's form): one long addition a character.
    """
    if not one or not other:
        return len(one) + len(other)
    at: dict[str, int] = {}
    for place, char in enumerate(one):
        at[char] = at.get(char, 0) | 1 << place
    full = (1 << len(one)) - 1
    last = 1 << (len(one) - 1)
    up, down, distance = full, 0, len(one)
    for char in other:
        match = at.get(char, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        right_up = down | ~(diagonal | up) & full
        right_down = up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up = (right_up << 1 | 1) & full
        right_down = right_down << 1 & full
        up = right_down | ~(diagonal | right_up) & full
        down = right_up & diagonal
    return distance
