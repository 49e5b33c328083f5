"""Problems made by reasoning-gym's generators (an optional package).

Only generators whose answers our grader decides as theirs does, by `tests/integration`: one exact
number, right or not. Left out are those with a score of their own that takes many answers
(countdown, sudoku), roundings (coin_flip, decimal_arithmetic), other alphabets
(base_conversion: 1e5 in base 16) and demands on the form that equality does not see
(fraction_simplification).
"""

import difflib
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from rstar_math.errors import InputError, MissingExtra
from rstar_math.types import Problem, Question

CHECKED: Mapping[str, str] = {
    "aiw": "siblings, friends and colleagues counted (Alice in Wonderland)",
    "basic_arithmetic": "an expression of the four operations",
    "binary_alternation": "fewest swaps that make a binary text alternate",
    "chain_sum": "a chain of sums and differences",
    "circuit_logic": "output of a logic circuit, 0 or 1",
    "complex_arithmetic": "the four operations on complex numbers",
    "count_bits": "ones of a binary number",
    "count_primes": "primes of an interval",
    "dice": "a probability as a fraction",
    "gcd": "greatest common divisor",
    "gsm_symbolic": "word problems in the manner of GSM8K",
    "largest_island": "largest connected part of a grid",
    "lcm": "least common multiple",
    "leg_counting": "legs of a list of animals",
    "letter_counting": "occurrences of a letter",
    "maze": "steps of a shortest way",
    "products": "a product of two numbers",
    "rectangle_count": "rectangles of a drawing",
    "rotten_oranges": "time until all of a grid is reached",
    "self_reference": "solutions of statements about themselves",
    "simple_equations": "a linear equation in one unknown",
    "simple_geometry": "the last angle of a polygon",
}
"""Generators that may be named, and what they ask."""


def generate(
    name: str, size: int, seed: int, options: Mapping[str, Any] | None = None
) -> Iterator[Problem]:
    """`size` problems of a generator; the same for the same seed and version of reasoning-gym.

    `options` are the generator's own. Raises `InputError` for a generator or an option that is
    not known, `MissingExtra` without reasoning-gym.
    """
    if name not in CHECKED:
        close = difflib.get_close_matches(name, CHECKED, 1)
        hint = f"did you mean {close[0]}?" if close else f"take one of {', '.join(CHECKED)}."
        raise InputError(
            f"The generator {name!r} is not among those whose answers the grader can check; {hint}"
        )
    try:
        gym: Any = import_module("reasoning_gym")
    except ImportError as error:
        raise MissingExtra(
            f"gym:{name} needs reasoning-gym; type: pip install 'rstar-math[gym]'."
        ) from error
    try:
        made = gym.create_dataset(name, size=size, seed=seed, **(options or {}))
    except (TypeError, AssertionError, ValueError) as error:
        raise InputError(
            f"The generator {name!r} does not take these options ({error}); leave them out, or see "
            "its configuration in reasoning-gym."
        ) from error
    for number in range(size):
        entry = made[number]
        question = Question(f"gym/{name}/{seed}/{number}", str(entry["question"]).strip())
        yield Problem(question, str(entry["answer"]), f"gym/{name}")
