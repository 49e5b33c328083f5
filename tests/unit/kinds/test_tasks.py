"""A question holds no reference; tasks, references and images survive every file."""

import base64
import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest

from rstar_math.errors import InputError
from rstar_math.evaluation.sanity import swap_references
from rstar_math.problems import read_problems
from rstar_math.problems.jsonl import write_problems
from rstar_math.runs.results import default_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search.records import from_record, to_record
from rstar_math.search.tree import Tree
from rstar_math.search.voting import NO_CHOICE
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
from rstar_math.types import Image, Problem, Question
from rstar_math.verification.values import (
    UnreadableValueError,
    decode,
    equal_outputs,
    parse_literal,
)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
EXAMPLE = CallTest("add(1, 2)", "3")
PROBLEMS = [
    Problem(Question("m", "6 * 7?"), "42", "mine", "1"),
    Problem(
        Question(
            "f",
            "Add.",
            CodeTask(
                "add", "import math\n", (CallTest("add(1, 2)", "3"),), ("add(4, 4)",), 2.0, 64
            ),
        ),
        HiddenTests((CallTest("add(918273, 1)", "918274", 1e-6),)),
    ),
    Problem(
        Question("s", "Sum.", CodeTask(examples=(StreamTest("1 2\n", "3\n"),))),
        HiddenTests((StreamTest("918273 1\n", "918274\n"),)),
    ),
    Problem(Question("c", "Which?", ChoiceTask(("iron", "wood"))), RightOptions(("A",))),
    Problem(Question("d", "Which?", ChoiceTask(("x", "y", "z"), True)), RightOptions(("A", "C"))),
    Problem(Question("t", "Who?", TextTask("name")), AcceptedTexts(("Ada", "Ada Lovelace"))),
    Problem(Question("i", "What is shown?", None, (Image("image/png", PNG),)), "1"),
    Problem(Question("u", "Which?", ChoiceTask(("p", "q")))),
]


def types_of(kind: Any, seen: set[Any]) -> set[Any]:
    """All types that the fields of a dataclass can hold."""
    for part in typing.get_args(kind):
        types_of(part, seen)
    if isinstance(kind, type) and kind not in seen:
        seen.add(kind)
        if dataclasses.is_dataclass(kind):
            for hint in typing.get_type_hints(kind).values():
                types_of(hint, seen)
    return seen


def test_no_field_of_a_question_can_hold_a_reference() -> None:
    reachable = types_of(Question, set())
    assert {CodeTask, ChoiceTask, TextTask, CallTest, Image} <= reachable
    assert not reachable & {HiddenTests, RightOptions, AcceptedTexts, Problem}
    for problem in PROBLEMS[1:3]:
        assert "918274" not in repr(problem.question) + problem.question.shown
    with pytest.raises(TypeError):
        Problem(Question("m", "6 * 7?"), HiddenTests(()))


def test_problems_of_all_kinds_survive_a_file_and_a_run(tmp_path: Path) -> None:
    write_problems(tmp_path / "all.jsonl", PROBLEMS)
    assert read_problems(tmp_path / "all.jsonl") == PROBLEMS
    with RunStore.open(tmp_path / "a.rstar", default_conditions()) as store:
        store.add_problems(PROBLEMS)
        store.add_problems(PROBLEMS)
        for problem in PROBLEMS:
            store.save("mcts", Tree(problem.question), NO_CHOICE)
    with RunStore.read(tmp_path / "a.rstar") as store:
        assert store.problems() == PROBLEMS
        assert [store.tree(p.id, "mcts").question for p in PROBLEMS] == [
            p.question for p in PROBLEMS
        ]
    changed = dataclasses.replace(PROBLEMS[2], question=Question("s", "Sum.", CodeTask()))
    with (
        RunStore.open(tmp_path / "a.rstar", default_conditions()) as store,
        pytest.raises(InputError),
    ):
        store.add_problems([changed])


def test_a_run_of_mathematical_problems_has_the_old_tables(tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "a.rstar", default_conditions()) as store:
        store.add_problems(PROBLEMS[:1])
        tables = {row[0] for row in store._rows("SELECT name FROM sqlite_master")}
    assert "tasks" not in tables
    record = to_record(Tree(PROBLEMS[0].question))
    assert record["question"] == {"id": "m", "text": "6 * 7?"}
    assert from_record(to_record(Tree(PROBLEMS[1].question))).question == PROBLEMS[1].question


def test_swapped_references_are_of_the_same_kind_and_different() -> None:
    swapped = swap_references(PROBLEMS)
    for old, new in zip(PROBLEMS, swapped, strict=True):
        assert new.question == old.question
        assert type(new.reference) is type(old.reference)
        assert new.reference != old.reference or old.reference is None


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"kind": "code", "function": "f", "tests": [{"stdin": "", "stdout": ""}]}, "call"),
        ({"kind": "code", "tests": [{"call": "f()", "returns": "1"}]}, "function"),
        ({"kind": "code", "function": "not a name", "tests": []}, "function"),
        ({"kind": "code", "tests": [], "time_s": -1}, "time_s"),
        ({"kind": "code", "tests": {}}, "tests"),
        ({"options": ["a"], "answer": "A"}, "options"),
        ({"options": ["a", "b"], "answer": "E"}, "letters"),
        ({"kind": "text", "form": "poem", "answer": "x"}, "form"),
        ({"answer": "1", "images": ["https://example.org/a.png"]}, "picture"),
        ({"answer": "1", "images": ["missing.png"]}, "missing.png"),
        ({"answer": "1", "images": ["data:image/png;base64,AAAA"]}, "PNG"),
    ],
)
def test_a_bad_row_names_what_is_wrong(row: dict[str, Any], word: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps({"problem": "?", **row}) + "\n")
    with pytest.raises(InputError, match=word):
        read_problems(tmp_path / "bad.jsonl")


def test_images_are_read_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(PNG)
    row = {"problem": "What?", "answer": "1", "images": ["dot.png"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (problem,) = read_problems(tmp_path / "a.jsonl")
    assert problem.question.images == (Image("image/png", PNG),)


def test_what_is_shown_has_options_and_public_tests_once() -> None:
    shown = PROBLEMS[3].question.shown
    assert "A. iron" in shown
    assert "B. wood" in shown
    assert Question("c", shown, PROBLEMS[3].question.task).shown == shown
    assert "add(1, 2) returns 3" in PROBLEMS[1].question.shown
    doctest = Question("f", "def add(a, b):\n    >>> add(1, 2)\n    3", PROBLEMS[1].question.task)
    assert "returns" not in doctest.shown


@pytest.mark.parametrize(
    "text", ["__import__('os')", "[x for x in 'a']", "2**10**10", "a", "(", "f()"]
)
def test_only_literals_are_values(text: str) -> None:
    with pytest.raises(UnreadableValueError):
        parse_literal(text)


@pytest.mark.parametrize(
    "text",
    ["", "1", "[" * 5000, '{"x": 1}', '{"i": "7"}', '{"s": [{"l": []}]}', '{"i": 3, "f": "0"}'],
)
def test_a_malformed_result_is_no_value(text: str) -> None:
    with pytest.raises(UnreadableValueError):
        decode(text)


def test_outputs_are_compared_by_lines_of_words() -> None:
    assert equal_outputs("1  2 \n\n", "1 2\n")
    assert not equal_outputs("1\n2\n", "1 2\n")
    assert not equal_outputs("1.0\n", "1\n")
    assert equal_outputs("0.3333\n", "0.33333\n", 1e-3)
    assert not equal_outputs("nan\n", "0.5\n", 1e-3)
