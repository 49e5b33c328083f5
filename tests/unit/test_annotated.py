"""Annotated solutions become steps that compute what they say; anything doubtful is refused."""

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.problems.annotated import ParsedSolution, parse_solution
from rstar_math.prompts import TAGS

QUESTION = "Ada reads 12 pages a day for 5 days and then 20 more. How many pages is that?"


def converted(solution: str, answer: str = "80", question: str = QUESTION) -> ParsedSolution:
    return parse_solution(question, solution, answer)


def test_lines_become_steps_and_results_are_referred_to() -> None:
    found = converted(
        "She reads 12*5=<<12*5=60>>60 pages.\nThat is not all.\n"
        "With the rest it is 60+20=<<60+20=80>>80 pages.\n#### 80"
    )
    assert found.reason is None
    assert TAGS.render(found.steps) == (
        "<code>\n# She reads 12*5=60 pages.\nv1 = 12 * 5\n<step/>\n"
        "# That is not all.\n# With the rest it is 60+20=80 pages.\nv2 = v1 + 20\nprint(v2)\n"
        "<code/>\n<output>\n80\n</output>\nThe answer is \\boxed{80}.<answer/>\n"
    )


def test_a_number_of_the_question_stays_a_number() -> None:
    found = converted("<<4*5=20>>20 and <<60+20=80>>80\n#### 80")
    assert found.steps[0].code == "v1 = 4 * 5\nv2 = 60 + 20\nprint(v2)\n"


def test_where_the_solution_rounded_on_its_way_its_numbers_stay() -> None:
    found = converted("<<10/3=3.33>>3.33\n<<3.33*100=333>>333\n#### 333", "333")
    assert found.reason is None
    assert found.steps[1].code == "v2 = 3.33 * 100\nprint(v2)\n"


@pytest.mark.parametrize(
    ("mark", "code", "answer"),
    [
        ("200*50%=100", "200 * (50 / 100)", "100"),
        ("1,000+$5=1005", "1000 + 5", "1,005"),
        (".5*10=5", "0.5 * 10", "5"),
        ("3(4+5)=27", "3 * (4 + 5)", "27"),
        ("3x4=12", "3 * 4", "12"),
        ("007+1=8", "7 + 1", "8"),
        ("2^3=8", "2 ** 3", "8"),
    ],
)
def test_how_calculations_are_written(mark: str, code: str, answer: str) -> None:
    found = converted(f"It is <<{mark}>>it.\n#### {answer}", answer)
    assert found.reason is None
    assert found.steps[0].code == f"v1 = {code}\nprint(v1)\n"


@pytest.mark.parametrize(
    ("solution", "answer", "reason"),
    [
        ("It is 80.\n#### 80", "80", "no calculation is marked"),
        ("<<40+40=80>>80 and <<80+1=81>>81\n#### 80", "80", "the last value is not the answer"),
        ("<<40+41=80>>80\n#### 80", "80", "a mark does not hold"),
        ("<<7/2=3>>3\n#### 3", "3", "a mark rounds to a whole number"),
        ("<<2/3=1>>1\n#### 1", "1", "a mark rounds to a whole number"),
        ("<<x+1=80>>80\n#### 80", "80", "a mark is not arithmetic"),
        ("<<__import__('os')=80>>80\n#### 80", "80", "a mark is not arithmetic"),
        ("<<9**9**9=80>>80\n#### 80", "80", "a mark is not arithmetic"),
        ("<<80>>80\n#### 80", "80", "a mark has no equals sign"),
        ("<<80/0=80>>80\n#### 80", "80", "a mark is not arithmetic"),
        ("<<40+40=80>>80\n#### eighty", "eighty", "the answer is not a number"),
    ],
)
def test_what_is_refused_and_why(solution: str, answer: str, reason: str) -> None:
    found = converted(solution, answer)
    assert (found.steps, found.reason) == ((), reason)


NUMBERS = st.integers(1, 999)


@given(st.lists(st.tuples(st.sampled_from("+-*/"), NUMBERS), min_size=1, max_size=6), NUMBERS)
def test_python_prints_what_the_execution_says(
    operations: list[tuple[str, int]], start: int
) -> None:
    value: float = start
    lines = []
    for sign, number in operations:
        result = {
            "+": value + number,
            "-": value - number,
            "*": value * number,
            "/": value / number,
        }[sign]
        if abs(result) > 1e9 or (result and abs(result) < 1e-2):
            break
        stated = f"{result:.4f}".rstrip("0").rstrip(".")
        left = f"{value:.4f}".rstrip("0").rstrip(".")
        lines.append(f"So {left}{sign}{number}=<<{left}{sign}{number}={stated}>>{stated}.")
        value = float(stated)
    answer = f"{value:.4f}".rstrip("0").rstrip(".")
    found = parse_solution("?", "\n".join(lines) + f"\n#### {answer}", answer)
    if found.reason is not None:
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec("".join(step.code for step in found.steps if step.kind != "answer"), {})
    assert said.getvalue() == "".join(s.execution.stdout for s in found.steps if s.execution)
    assert float(said.getvalue()) == pytest.approx(value)
    parsed = TAGS.parse(TAGS.render(found.steps))
    assert [step.text for step in parsed] == [step.text for step in found.steps]
