"""Generated problems: small tasks of our own, and the generators of reasoning-gym."""

import difflib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.seeding import derive
from rstar_math.types import Problem, Question


@dataclass(frozen=True, slots=True)
class Task:
    """A problem with a worked solution."""

    problem: Problem
    solution: str
    """Lines with marked calculations (`<<17+3=20>>`) and a last line `#### answer`."""


_ONE = (
    ("{who} has {a} {what} and gets {b} more.", "+"),
    ("{who} finds {b} {what} and has {a} at home.", "+"),
    ("{who} puts {a} {what} next to {b} others.", "+"),
    ("{who} has {a} {what} and gives {b} away.", "-"),
    ("Of {a} {what} {who} loses {b}.", "-"),
    ("{who} sells {b} out of {a} {what}.", "-"),
    ("There are {a} bags with {b} {what} each.", "*"),
    ("{b} {what} lie in each of {a} boxes.", "*"),
)
_TWO = (
    ("{who} has {a} {what}, gets {b} more and then {c} more.", "++"),
    ("{who} has {a} {what}, gets {b} more and gives {c} away.", "+-"),
    ("{who} has {a} {what}, gives {b} away and gets {c} more.", "-+"),
    ("{who} has {a} {what}, loses {b} and gives {c} away.", "--"),
    ("There are {a} bags with {b} {what} each and {c} loose ones.", "*+"),
    ("Of {a} bags with {b} {what} each {c} {what} are gone.", "*-"),
)
MAX_TASKS = 1000
"""Largest size; there are a few thousand different tasks."""
_FIRST, _SECOND, _THIRD = (17, 18, 19), (3, 5), (1, 2)
"""Each number shows its place, all results have two digits, and few other calculations give the
same result, so a right answer is rarely luck."""
_WHO = ("Ann", "Bob", "Eve", "Tom")
_WHAT = ("pears", "books", "coins", "cards")
_WORDS = {"+": "Put them together.", "-": "Take them away.", "*": "Count all bags."}
_VALUE = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def toy_tasks(size: int, seed: int = 0) -> Iterator[Task]:
    """`size` different tasks (at most `MAX_TASKS`); equal seeds give equal tasks.

    About half of them need two calculations; `Problem.level` says which.
    """
    seen: set[str] = set()
    number = 0
    while len(seen) < size:
        rng = random.Random(derive(seed, "toy task", number))
        number += 1
        hard = rng.random() < 0.5
        pattern, signs = rng.choice(_TWO if hard else _ONE)
        a, b, c = rng.choice(_FIRST), rng.choice(_SECOND), rng.choice(_THIRD)
        names = {"who": rng.choice(_WHO), "what": rng.choice(_WHAT)}
        text = (pattern + " How many {what} are there now?").format(a=a, b=b, c=c, **names)
        if text in seen:
            continue
        seen.add(text)
        value, lines = a, []
        for sign, other in zip(signs, (b, c), strict=False):
            result = _VALUE[sign](value, other)
            lines.append(f"{_WORDS[sign]} <<{value}{sign}{other}={result}>>")
            value = result
        name = f"toy/{seed}/{len(seen) - 1}"
        level = "two steps" if hard else "one step"
        problem = Problem(Question(name, text), str(value), "toy", level)
        yield Task(problem, "\n".join([*lines, f"#### {value}"]))


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
"""Generators whose answers the grader can check, and what they ask."""


def generate(
    name: str, size: int, seed: int, options: Mapping[str, Any] | None = None
) -> Iterator[Problem]:
    """`size` problems of a reasoning-gym generator; equal seeds and versions give equal problems.

    `options` are passed to the generator. Raises `InputError` for an unknown generator or option,
    `MissingDependencyError` without reasoning-gym.
    """
    if name not in CHECKED:
        close = difflib.get_close_matches(name, CHECKED, 1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(CHECKED)}."
        raise InputError(f"The grader cannot check answers of the generator {name!r}; {hint}")
    try:
        gym: Any = import_module("reasoning_gym")
    except ImportError as error:
        raise MissingDependencyError(
            f"gym:{name} needs reasoning-gym; run: pip install 'rstar-math[gym]'."
        ) from error
    try:
        made = gym.create_dataset(name, size=size, seed=seed, **(options or {}))
    except (TypeError, AssertionError, ValueError) as error:
        raise InputError(
            f"The generator {name!r} does not accept these options ({error}); see its "
            "configuration in reasoning-gym."
        ) from error
    for number in range(size):
        entry = made[number]
        question = Question(f"gym/{name}/{seed}/{number}", str(entry["question"]).strip())
        yield Problem(question, str(entry["answer"]), f"gym/{name}")
