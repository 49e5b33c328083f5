"""The step format of Markdown code blocks."""

import ast
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.errors import InputError
from rstar_math.prompts import FENCED, TAGS
from rstar_math.prompts.grammar import comment_text
from rstar_math.types import Execution, ExecutionStatus, Step

SEVEN = Execution(ExecutionStatus.OK, "7\n")
FIRST = Step(prose="# Three and four.\n", code="x = 3 + 4\n")
LAST = Step(prose="# Print it.\n", code="print(x)\n", kind="code", execution=SEVEN)
ANSWER = Step(prose="It is \\boxed{7}.", kind="answer", answer="7")
TEXT = (
    "```python\n# Three and four.\nx = 3 + 4\n# Print it.\nprint(x)\n```\n"
    "```output\n7\n```\nIt is \\boxed{7}."
)

names = st.sampled_from("abcxyz")
statements = st.builds(lambda n, v: f"{n} = {v}\n", names, st.integers(0, 99))
thoughts = st.text("abc def,.+", min_size=1, max_size=20).map(lambda t: f"# {t.strip() or 'a'}\n")
steps_of_a_block = st.lists(st.tuples(thoughts, statements), min_size=1, max_size=4)


def solution(blocks: list[list[tuple[str, str]]]) -> list[Step]:
    """Blocks of steps, each with an output."""
    steps = []
    for block in blocks:
        for number, (prose, code) in enumerate(block, 1):
            last = number == len(block)
            steps.append(Step(prose, code, "code" if last else "step", execution=SEVEN))
    return steps


@given(st.lists(steps_of_a_block, min_size=1, max_size=3), st.booleans())
def test_parse_is_the_inverse_of_render(
    blocks: list[list[tuple[str, str]]], answered: bool
) -> None:
    steps = solution(blocks) + ([ANSWER] if answered else [])
    before_they_ran = [replace(step, execution=None) for step in steps]
    assert FENCED.parse(FENCED.render(steps)) == before_they_ran
    for length in range(1, len(steps)):
        assert FENCED.render(steps).startswith(FENCED.render(steps[:length]))


def test_a_solution_in_full() -> None:
    assert FENCED.render([FIRST, LAST, ANSWER]) == TEXT
    kept = FENCED.parse(TEXT, outputs=True)
    assert kept == [FIRST, LAST, ANSWER]
    assert TAGS.render(kept).startswith("<code>\n# Three and four.\nx = 3 + 4\n<step/>\n")


@pytest.mark.parametrize(
    ("prefix", "text", "stop", "kind", "code"),
    [
        ([], "# A.\nx = 1", "\n#", "step", "x = 1\n"),
        ([], "# A.\nx = 1\n", "\n#", "step", "x = 1\n\n"),
        ([], "# A.\nprint(1)\n", "```\n", "code", "print(1)\n"),
        ([], "# A.\nprint(1)\n```", None, "code", "print(1)\n"),
        ([], "# A.\nprint(1)\n", None, "code", "print(1)\n"),
        ([], "# A.\nx = 1", None, "step", "x = 1\n"),
        ([], "```python\n# A.\nx = 1", "\n#", "step", "x = 1\n"),
        ([FIRST], "", "```\n", "code", ""),
        ([FIRST], "", None, "code", ""),
        ([FIRST, LAST], "So far.\n```python\n# A.\nprint(2)\n", "```\n", "code", "print(2)\n"),
        ([FIRST, LAST], "It is \\boxed{7}.\n", None, "answer", ""),
    ],
)
def test_how_a_text_ended_says_what_it_is(
    prefix: list[Step], text: str, stop: str | None, kind: str, code: str
) -> None:
    step = FENCED.parse_step(prefix, text, finished=True, stop=stop).step
    assert step is not None
    assert (step.kind, step.code) == (kind, code)


def test_prose_before_a_second_program_stays_where_it_was() -> None:
    text = "That is one part.\n```python\n# More.\nprint(x + 1)\n"
    step = FENCED.parse_step([FIRST, LAST], text, finished=True, stop="```\n").step
    assert step is not None
    assert step.code == "print(x + 1)\n"
    assert comment_text(step) == "That is one part.\nMore."
    whole = FENCED.render([FIRST, LAST, replace(step, execution=SEVEN)])
    assert whole.endswith(f"7\n```\n{text}```\n```output\n7\n```\n")
    assert FENCED.parse(whole)[2] == step


@pytest.mark.parametrize(
    ("prefix", "text", "finished"),
    [([], "# A.\nx = 1", False), ([], "  \n", True), ([FIRST, LAST], "", True)],
)
def test_what_holds_no_step_says_why(prefix: list[Step], text: str, finished: bool) -> None:
    sample = FENCED.parse_step(prefix, text, finished=finished)
    assert sample.step is None
    assert sample.problem


def test_a_whole_program_is_cut_before_its_comments_and_nowhere_else() -> None:
    program = (
        "# A loop.\ntotal = 0\nfor i in range(3):\n    # inside\n    total += i\n"
        "# Two lines of thought:\n# the second.\nif total > 1:\n    y = 1\n# otherwise\nelse:\n"
        "    y = 2\n# Show.\nprint(y)\n# done\n"
    )
    steps, problem = FENCED.parse_block([], program, finished=True, stop="```\n")
    assert problem is None
    assert [step.kind for step in steps] == ["step", "step", "code"]
    assert "".join(step.text for step in steps) == program
    for step in steps:
        ast.parse(step.code)


@given(st.lists(steps_of_a_block, min_size=1, max_size=1))
def test_a_block_holds_the_steps_that_would_be_sampled_one_by_one(
    blocks: list[list[tuple[str, str]]],
) -> None:
    steps = [replace(step, execution=None) for step in solution(blocks)]
    program = "".join(step.text for step in steps)
    cut, _ = FENCED.parse_block([], program, finished=True, stop="```\n")
    one_by_one: list[Step] = []
    rest = program
    while rest:
        at = rest.find("\n#", 1)
        text, stop = (rest[:at], "\n#") if at >= 0 else (rest, "```\n")
        rest = rest[at + 1 :] if at >= 0 else ""
        step = FENCED.parse_step(one_by_one, text, finished=True, stop=stop).step
        assert step is not None
        one_by_one.append(step)
    assert cut == one_by_one == steps


@pytest.mark.parametrize(
    "text", ["print(1)", "```python\nprint(1)", "```python\nprint(1)\n```\nno output", "Hello."]
)
def test_a_solution_that_is_not_well_formed_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        FENCED.parse(text)


def test_blocks_of_tagged_steps() -> None:
    text = "# A.\nx = 1\n<step/>\n# B.\nprint(x)\n"
    for stop in ("<code/>", None):
        steps, _ = TAGS.parse_block([], text, finished=True, stop=stop)
        assert [(step.kind, step.code) for step in steps] == [
            ("step", "x = 1\n"),
            ("code", "print(x)\n"),
        ]
    done = [replace(step, execution=SEVEN) for step in steps]
    (answer,), _ = TAGS.parse_block(done, "It is \\boxed{1}.\n", finished=True, stop="<answer/>")
    assert answer.answer == "1"
    assert TAGS.parse_block([], text, finished=False) == ([], "cut off at the token limit")
