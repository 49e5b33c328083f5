"""Generators of reasoning-gym: made alike again, and judged by our grader as by their own score."""

from collections.abc import Iterator
from typing import Any

import pytest

from rstar_math.errors import InputError
from rstar_math.grading import Grader
from rstar_math.problems.generated import CHECKED, generate
from rstar_math.problems.sources import read_source
from rstar_math.types import Verdict

gym: Any = pytest.importorskip(
    "reasoning_gym", reason="needs reasoning-gym: pip install 'rstar-math[gym]'"
)
SIZE = 12


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader()
    yield grader
    grader.close()


def guesses(answer: str) -> list[str]:
    """The answer, and some that are near it and wrong."""
    if not answer.removeprefix("-").isdigit():
        return [answer, "0", "1/7", answer.replace("2", "3") if "2" in answer else f"9{answer}"]
    value = int(answer)
    return [answer, str(value + 1), str(value - 1), str(10 * value + 3), str(2 * value + 1)]


@pytest.mark.parametrize("name", CHECKED)
def test_the_grader_decides_as_the_generators_own_score(name: str, grader: Grader) -> None:
    made = gym.create_dataset(name, size=SIZE, seed=11)
    problems = list(generate(name, SIZE, 11))
    right = 0
    for problem, entry in zip(problems, made, strict=True):
        assert problem.question.text == entry["question"].strip()
        assert isinstance(problem.reference, str)
        for guess in guesses(problem.reference):
            ours = grader.compare_sync(guess, problem.reference).verdict is Verdict.RIGHT
            assert ours == (made.score_answer(guess, entry) == 1.0), (guess, problem.reference)
            right += ours
    assert right >= SIZE


def test_a_seed_makes_the_same_problems_again() -> None:
    first, again, other = (
        read_source(f"gym:chain_sum?size=20&seed={seed}&max_terms=4") for seed in (3, 3, 4)
    )
    assert first == again
    assert [p.question.text for p in first] != [p.question.text for p in other]
    assert first[0].id == "gym/chain_sum/3/0"
    assert read_source("gym:chain_sum?size=20&seed=3&max_terms=4", limit=5) == first[:5]


def test_options_that_a_generator_does_not_take_are_one_sentence() -> None:
    for text in ("gym:gcd?colour=red", "gym:gcd?min_numbers=9&max_numbers=2"):
        with pytest.raises(InputError, match="options"):
            read_source(text)
