"""Sorting answers into classes of equal ones, in well under n^2 comparisons."""

from collections.abc import Awaitable, Callable, Sequence

from rstar_math.grading.judgement import Judgement
from rstar_math.grading.rules import bucket, may_equal
from rstar_math.types import Verdict

Compare = Callable[[str, str], Awaitable[Judgement]]


async def group_answers(answers: Sequence[str], compare: Compare) -> list[int]:
    """Class numbers from 0 in order of first appearance; see `Grader.group`.

    Answers with one exact value or one normal form meet in a dictionary; the others are compared
    only with the first members of those classes that a rough value at fixed points does not rule
    out.
    """
    known: dict[str, int] = {}
    by_bucket: dict[object, int] = {}
    firsts: list[str] = []
    for answer in answers:
        if answer in known:
            continue
        key = bucket(answer)
        number = by_bucket.get(key) if key is not None else None
        if number is None:
            number = await _matching_class(answer, firsts, compare)
        if number is None:
            number = len(firsts)
            firsts.append(answer)
        known[answer] = number
        if key is not None:
            by_bucket.setdefault(key, number)
    return [known[answer] for answer in answers]


async def _matching_class(answer: str, firsts: Sequence[str], compare: Compare) -> int | None:
    for number, first in enumerate(firsts):
        if may_equal(answer, first) and (await compare(answer, first)).verdict is Verdict.RIGHT:
            return number
    return None
