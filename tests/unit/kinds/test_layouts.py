"""Rows of public data sets are recognised by their columns. The rows here are our own."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from rstar_math.errors import InputError
from rstar_math.problems.jsonl import parse_problem
from rstar_math.problems.layouts import shuffle_options
from rstar_math.problems.sources import read_source
from rstar_math.tasks import (
    AcceptedTexts,
    CallTest,
    ChoiceTask,
    CodeTask,
    HiddenTests,
    RightOptions,
    StreamTest,
    TextTask,
)
from rstar_math.types import Problem, Question

HUMANEVAL = {
    "task_id": "Own/0",
    "prompt": 'import math\n\ndef half(x):\n    return x / 2\n\ndef area(r):\n    """Area of a '
    'disc.\n    >>> area(0)\n    0.0\n    >>> area(half(2)) > 3\n    True\n    """\n',
    "entry_point": "area",
    "canonical_solution": "    return math.pi * r * r\n",
    "test": "def check(candidate):\n    assert abs(candidate(2) - 12.566) < 0.01\n"
    "    assert candidate(0) == 0.0, 'zero'\n    assert candidate(1) == math.pi\n"
    "    assert not candidate(0)\n    for x in range(3):\n        assert candidate(x) == x * x\n",
}
MBPP = {
    "task_id": 7,
    "text": "Write a function for the common items.",
    "code": "def common(a, b): return tuple(set(a) & set(b))",
    "test_list": [
        "assert set(common((3, 4), (4, 5))) == set((4,))",
        "assert common((1,), (2,)) == ()",
        "assert (5,) == common((5,), (5,))",
    ],
    "test_setup_code": "import re",
    "challenge_test_list": ["assert common((), ()) == ()"],
}


def packed(cases: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def read(row: dict[str, Any]) -> Problem:
    return parse_problem(row, "row 1")


def test_humaneval_and_mbpp() -> None:
    problem = read(HUMANEVAL)
    task = problem.question.task
    assert problem.id == "Own/0"
    assert isinstance(task, CodeTask)
    assert (task.function, task.examples) == ("area", (CallTest("area(0)", "0.0"),))
    assert "def half" in task.setup
    assert problem.reference == HiddenTests(
        (
            CallTest("area(2)", "12.566", 0.01),
            CallTest("area(0)", "0.0"),
            CallTest("bool(area(0))", "False"),
        )
    )
    problem = read(MBPP)
    task = problem.question.task
    assert isinstance(task, CodeTask)
    assert (task.function, task.setup) == ("common", "import re")
    assert task.examples == (CallTest("set(common((3, 4), (4, 5)))", "set((4,))"),)
    assert problem.reference == HiddenTests(
        (
            CallTest("common((1,), (2,))", "()"),
            CallTest("common((5,), (5,))", "(5,)"),
            CallTest("common((), ())", "()"),
        )
    )


def test_livecodebench_with_packed_tests_and_nothing_is_unpickled_but_text() -> None:
    stream = {"input": "1 2\n", "output": "3\n", "testtype": "stdin"}
    row: dict[str, Any] = {
        "question_id": "own_1",
        "question_content": "Add.",
        "difficulty": "easy",
        "starter_code": "",
        "public_test_cases": json.dumps([stream]),
        "private_test_cases": packed([{**stream, "input": "5 5\n", "output": "10\n"}]),
    }
    problem = read(row)
    assert (problem.id, problem.level) == ("own_1", "easy")
    assert problem.question.task == CodeTask(examples=(StreamTest("1 2\n", "3\n"),))
    assert problem.reference == HiddenTests((StreamTest("5 5\n", "10\n"),))
    method = {"input": '[1, 2]\n"x"', "output": "[2]", "testtype": "functional"}
    row |= {
        "public_test_cases": json.dumps([method]),
        "private_test_cases": json.dumps([method]),
        "metadata": json.dumps({"func_name": "pick"}),
        "starter_code": "class Solution:\n    def pick(self, a, b):\n",
    }
    task = read(row).question.task
    assert isinstance(task, CodeTask)
    assert task.examples == (CallTest("Solution().pick([1, 2], 'x')", "[2]"),)
    assert task.tuples_are_lists
    hostile = base64.b64encode(zlib.compress(pickle.dumps(print))).decode()
    with pytest.raises(InputError, match="unpacked"):
        read({**row, "private_test_cases": hostile})


CHOICES = [
    ({"question": "Q?", "options": ["x", "y", "z"], "answer": "C", "answer_index": 2}, "z"),
    ({"question": "Q?", "choices": ["x", "y", "z"], "answer": 1, "subject": "own"}, "y"),
    (
        {
            "id": "own_2",
            "question": "Q?",
            "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        "y",
    ),
    (
        {
            "question": {"stem": "Q?", "choices": [{"text": t, "label": t.upper()} for t in "xyz"]},
            "answerKey": "X",
        },
        "x",
    ),
    ({"input": "Q?", "target_scores": {"x": 0, "y": 0, "z": 1}}, "z"),
    (
        {
            "inputs": "Q?",
            "multiple_choice_targets": ["x", "y", "z"],
            "multiple_choice_scores": [1, 0, 0],
        },
        "x",
    ),
    ({"input": "Q?\nOptions:\n(A) x\n(B) y\n(C) z\n", "target": "(B)"}, "y"),
    (
        {
            "Question": "Q?",
            "Correct Answer": "y\n",
            "Incorrect Answer 1": "x",
            "Incorrect Answer 2": "z",
            "Incorrect Answer 3": "w",
            "Record ID": "rec1",
        },
        "y",
    ),
]


@pytest.mark.parametrize(("row", "right"), CHOICES)
def test_layouts_of_choices(row: dict[str, Any], right: str) -> None:
    problem = read(row)
    task, reference = problem.question.task, problem.reference
    assert problem.question.text.startswith("Q?")
    assert isinstance(task, ChoiceTask)
    assert {"x", "y", "z"} <= set(task.options)
    assert isinstance(reference, RightOptions)
    assert [task.options["ABCD".index(letter)] for letter in reference.letters] == [right]


def test_several_right_answers_truth_values_and_plain_targets() -> None:
    several = read({"input": "Q?", "target_scores": {"x": 1, "y": 0, "z": 1}})
    assert several.reference == RightOptions(("A", "C"))
    truth = read({"question": "Is it so", "answer": True, "passage": "It is."})
    assert truth.question.task == TextTask("yesno")
    assert truth.reference == AcceptedTexts(("yes",))
    assert read({"input": "Is it?", "target": "No"}).reference == AcceptedTexts(("No",))
    assert read({"input": "1 + 1?", "target": "2"}).reference == "2"
    assert read({"question": "1 + 1?", "answer": "2"}).question.task is None


def test_shuffled_options_take_the_reference_along(tmp_path: Path) -> None:
    task = ChoiceTask(("a", "b", "c", "d", "all of the above"), several=True)
    orders = set()
    for seed in range(30):
        problem = shuffle_options(Problem(Question("q", "?", task), RightOptions(("B", "D"))), seed)
        assert isinstance(problem.question.task, ChoiceTask)
        options, reference = problem.question.task.options, problem.reference
        assert isinstance(reference, RightOptions)
        assert {options["ABCDE".index(x)] for x in reference.letters} == {"b", "d"}
        assert options[4] == "all of the above"
        orders.add(options)
    assert len(orders) > 10
    fixed = ChoiceTask(("a", "b", "both A and B"))
    same = shuffle_options(Problem(Question("q", "?", fixed), RightOptions(("C",))), 1)
    assert same.question.task == fixed
    rows = [
        {"id": str(n), "problem": "?", "options": ["a", "b", "c"], "answer": "A"} for n in range(20)
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    once, again = (read_source(f"{tmp_path}/c.jsonl?shuffle=3") for _ in range(2))
    assert once == again
    assert len({str(problem.reference) for problem in once}) == 3
