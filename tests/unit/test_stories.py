"""The generator of word problems (`tools/stories`), and the file of them that the package ships."""

import random
import re
from collections import Counter
from collections.abc import Callable

import pytest

from rstar_math.errors import InputError
from rstar_math.problems.annotated import parse_solution
from rstar_math.problems.sources import MAX_STORIES, STORIES, read_solutions, read_source
from tools.stories import SCHEMES, dress, stories
from tools.stories.__main__ import packed
from tools.stories.words import StoryText, Vocabulary

KNOWN = {"2", "3", "4", "5", "60", "100"}
"""Numbers that words stand for: twice, a third, four times, an hour's minutes, percent."""
SPELLED = {word: str(number) for number, word in dress.NUMBERS.items()}
TOLD = list(stories(3000, seed=7))


def test_every_solution_holds_and_ends_in_the_answer() -> None:
    for story in TOLD:
        problem = story.problem
        found = parse_solution(problem.question.text, story.solution, problem.reference_text or "")
        assert found.reason is None, problem
        assert found.steps[-1].answer == problem.reference


def test_answers_are_whole_and_positive_and_numbers_of_the_solution_are_in_the_question() -> None:
    for story in TOLD:
        assert int(story.problem.reference_text or "") > 0
        first = story.solution.split("<<")[1].split("=")[0]
        numbers = re.split(r"[-+*/]", first)
        words = re.findall(r"[\w-]+", story.problem.question.text.lower())
        given = {SPELLED.get(word, word) for word in words} | KNOWN
        assert all(number in given for number in numbers), story


def test_the_same_seed_tells_the_same_stories_and_a_larger_size_goes_on() -> None:
    assert list(stories(40, seed=7)) == TOLD[:40]
    assert list(stories(5, seed=8)) != TOLD[:5]


def test_no_two_stories_are_alike_and_all_schemes_take_turns() -> None:
    assert len({story.problem.question.text for story in TOLD}) == len(TOLD)
    levels = Counter(story.problem.level for story in TOLD)
    assert len(levels) >= 15
    assert min(levels.values()) >= 20
    assert len(SCHEMES) == 36


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.__name__)
def test_a_scheme_asks_for_more_than_one_thing(scheme: Callable[[Vocabulary], StoryText]) -> None:
    """Else the calculation could be learned from the story without its question."""
    asked = set()
    for seed in range(60):
        told = scheme(Vocabulary(random.Random(seed)))
        signs = "".join(c for line in told.lines for c in line.split("<<")[1] if c in "+-*/=")
        asked.add((told.kind, signs))
    assert len(asked) > 1


def test_the_shipped_file_is_what_the_generator_writes() -> None:
    assert STORIES.read_bytes() == packed(MAX_STORIES, 2)


def test_stories_are_a_source_with_solutions() -> None:
    text = "stories:words?size=12"
    problems, solutions = read_source(text), list(read_solutions(text))
    expected = list(stories(12, seed=2))
    assert problems == [story.problem for story in expected]
    assert [s.question for s in solutions] == [p.question.text for p in problems]
    assert [s.solution for s in solutions] == [story.solution for story in expected]


@pytest.mark.parametrize(
    "text",
    ["stories:novels", "stories:words?size=0", "stories:words?size=9001", "stories:words?seed=1"],
)
def test_an_unknown_source_of_stories_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="stories:words"):
        read_source(text)
