"""Small word problems with solutions marked as in GSM8K, from fourteen patterns: what a model of
some 100,000 weights can learn in seconds, and the better the more solutions it sees.

    list(toy_tasks(3, seed=1))[0].problem.question.text
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from rstar_math.seeding import derive
from rstar_math.types import Problem, Question


@dataclass(frozen=True, slots=True)
class Task:
    """A problem and how it is solved."""

    problem: Problem
    solution: str
    """With marked calculations and a last line `#### answer`."""


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
MOST_TASKS = 1000
"""Most tasks of one seed: there are some thousand."""
_FIRST, _SECOND, _THIRD = (17, 18, 19), (3, 5), (1, 2)
"""Numbers that tell by themselves in which place they stand, and whose results all have two digits;
few other calculations come to the same, so that a right answer is seldom luck."""
_WHO = ("Ann", "Bob", "Eve", "Tom")
_WHAT = ("pears", "books", "coins", "cards")
_WORDS = {"+": "Put them together.", "-": "Take them away.", "*": "Count all bags."}
_VALUE = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def toy_tasks(size: int, seed: int = 0) -> Iterator[Task]:
    """`size` tasks, no two alike (at most `MOST_TASKS`); half of them take two calculations, as
    `level` says. The same for the same seed."""
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
