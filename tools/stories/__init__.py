"""Generates word problems with worked solutions, as training data that is free to use.

    next(stories(1, seed=1)).problem.question.text

Each story follows a scheme from the literature on arithmetic word problems (changes, combinations,
comparisons, equal groups, rates) with random words and numbers. Most story texts allow several
questions, and many contain an irrelevant number, so the answer cannot be guessed from the numbers
alone. The schemes come from this literature, not from any benchmark.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from rstar_math.seeding import derive
from rstar_math.types import Problem, Question
from tools.stories import chains, changes, comparisons, groups, parts, trades, ways
from tools.stories.dress import vary_wording
from tools.stories.words import StoryText, Vocabulary

SCHEMES = (
    *changes.SCHEMES,
    *comparisons.SCHEMES,
    *groups.SCHEMES,
    *parts.SCHEMES,
    *chains.SCHEMES,
    *trades.SCHEMES,
    *ways.SCHEMES,
)
MAX_STORIES = 100_000
"""Maximum number of stories per seed."""


@dataclass(frozen=True, slots=True)
class Story:
    """A problem with a worked solution."""

    problem: Problem
    """Its `level` is the scheme, followed by "twice" if it needs several calculations."""
    solution: str
    """Lines with marked calculations and a last line `#### answer`, as in GSM8K."""


def stories(size: int, seed: int = 0) -> Iterator[Story]:
    """`size` different stories (at most `MAX_STORIES`), one scheme after the other.

    Equal seeds give equal stories. A larger size begins with the stories of a smaller size.
    """
    seen: set[str] = set()
    number = 0
    while len(seen) < size:
        rng = random.Random(derive(seed, "story", number))
        draft = SCHEMES[number % len(SCHEMES)](Vocabulary(rng))
        number += 1
        text = vary_wording(rng, draft.body, draft.question)
        if text not in seen:
            seen.add(text)
            yield _story(f"stories/{seed}/{len(seen) - 1}", text, draft)


def _story(name: str, text: str, draft: StoryText) -> Story:
    problem = Problem(Question(name, text), str(draft.answer), "stories", draft.kind)
    return Story(problem, "\n".join([*draft.lines, f"#### {draft.answer}"]))
