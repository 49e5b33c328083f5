"""Letters in free-form answers: a table of answers that we wrote, in both directions."""

import asyncio
import json
from pathlib import Path

import pytest

from rstar_math.tasks import ChoiceTask, RightOptions
from rstar_math.types import Problem, Question, Verdict
from rstar_math.verification.choices import MAX_CHARS, read_choice
from rstar_math.verification.judges import Judges
from rstar_math.verification.texts import equal_texts, normalize

ROWS = json.loads((Path(__file__).parents[2] / "data" / "choice_answers.json").read_text())


def test_free_form_answers_are_graded_right_in_both_directions() -> None:
    async def verdicts() -> list[bool]:
        good = []
        async with Judges() as judges:
            for number, row in enumerate(ROWS):
                task = ChoiceTask(tuple(row["options"]), row["several"])
                for letters in ("A", "B", "C", "D", "AC"):
                    if len(letters) > 1 and not task.several:
                        continue
                    problem = Problem(
                        Question(str(number), "?", task), RightOptions(tuple(letters))
                    )
                    verdict = await judges.judge(problem, row["text"])
                    right = row["letters"] == letters
                    good.append((verdict is Verdict.RIGHT) == right)
        return good

    good = asyncio.run(verdicts())
    assert len(ROWS) >= 200
    assert sum(good) / len(good) >= 0.99


def test_answers_with_the_same_letters_vote_together() -> None:
    task = ChoiceTask(("wood", "copper", "wool"), several=True)

    async def groups() -> list[int]:
        async with Judges() as judges:
            return await judges.grouper(Question("q", "?", task))(
                ["A, B", "copper and wood", "B", "unsure", "The answers are A and B.", "unsure"]
            )

    assert asyncio.run(groups()) == [0, 0, 1, 2, 0, 2]


def test_a_long_hostile_text_is_read_in_parts() -> None:
    task = ChoiceTask(("x", "y"), several=True)
    for piece in ("A, ", "(A) and ", "the answer is ", "option A is not ", "A" * 50 + " "):
        text = piece * (3 * MAX_CHARS // len(piece))
        assert read_choice(text + "\nThe answer is B.", task) is not None


@pytest.mark.parametrize(
    ("form", "first", "second", "same"),
    [
        ("words", "The Nile.", "nile", True),
        ("words", "São Paulo", "sao paulo", True),
        ("words", "red", "blue", False),
        ("words", "**Hydrogen**", "hydrogen", True),
        ("words", "C++", "C", False),
        ("words", "-5", "5", False),
        ("words", "1,000", "1000", True),
        ("yesno", "Yes, it can.", "yes", True),
        ("yesno", "True", "yes", True),
        ("yesno", "No.", "yes", False),
        ("yesno", "The answer is no", "no", True),
        ("yesno", "maybe", "no", False),
        ("name", "Dr. Marie Curie", "Curie, Marie", True),
        ("name", "J. R. Tolkien", "John Ronald Tolkien", True),
        ("name", "Pierre Curie", "Marie Curie", False),
        ("name", "Curie", "Marie Curie", False),
        ("date", "July 4, 1776", "1776-07-04", True),
        ("date", "4th of July 1776", "4 July 1776", True),
        ("date", "13/07/1776", "1776-07-13", True),
        ("date", "03/04/2001", "2001-04-03", False),
        ("date", "July 1776", "1776-07", True),
        ("date", "1776", "1777", False),
        ("date", "30 February 2001", "2001-03-02", False),
    ],
)
def test_short_texts_have_normal_forms(form: str, first: str, second: str, same: bool) -> None:
    assert equal_texts(first, second, form) is same  # type: ignore[arg-type]
    assert equal_texts(second, first, form) is same  # type: ignore[arg-type]
    assert equal_texts(first, first, form)  # type: ignore[arg-type]
    assert normalize(normalize(first)) == normalize(first)
