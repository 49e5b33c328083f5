"""Word problems told by this package, with worked solutions: for a model's first lessons where few
annotated problems are free to train on.

    next(stories(1, seed=1)).problem.question.text

A story is a scheme of the literature on arithmetic word problems (changes, combinations,
comparisons, equal groups, rates) told with drawn words and numbers. Most bodies take several
questions, and many hold a number that the question has no use for, so that the answer cannot be
guessed from the numbers alone. The schemes were written from that literature and not from any set
of problems that is measured on.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from rstar_math.seeding import derive
from rstar_math.types import Problem, Question
from tools.stories import chains, changes, comparisons, groups, parts, trades, ways
from tools.stories.dress import dressed
from tools.stories.words import Told, Words

SCHEMES = (
    *changes.SCHEMES,
    *comparisons.SCHEMES,
    *groups.SCHEMES,
    *parts.SCHEMES,
    *chains.SCHEMES,
    *trades.SCHEMES,
    *ways.SCHEMES,
)
MOST_STORIES = 100_000
"""Most stories of one seed."""


@dataclass(frozen=True, slots=True)
class Story:
    """A problem and how it is solved."""

    problem: Problem
    """Its `level` is the scheme, with "twice" where more than one calculation is needed."""
    solution: str
    """With marked calculations and a last line `#### answer`, as in GSM8K."""


def stories(size: int, seed: int = 0) -> Iterator[Story]:
    """`size` stories (at most `MOST_STORIES`), no two alike; the schemes take turns. The same for
    the same seed, and the first of a larger size are those of a smaller."""
    seen: set[str] = set()
    number = 0
    while len(seen) < size:
        rng = random.Random(derive(seed, "story", number))
        told = SCHEMES[number % len(SCHEMES)](Words(rng))
        number += 1
        text = dressed(rng, told.body, told.question)
        if text not in seen:
            seen.add(text)
            yield _story(f"stories/{seed}/{len(seen) - 1}", text, told)


def _story(name: str, text: str, told: Told) -> Story:
    problem = Problem(Question(name, text), str(told.answer), "stories", told.kind)
    return Story(problem, "\n".join([*told.lines, f"#### {told.answer}"]))
