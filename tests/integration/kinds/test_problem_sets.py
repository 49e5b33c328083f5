"""`rstar problems check` and `rstar problems tests`, as a person runs them."""

import asyncio
import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.config import load_config
from rstar_math.problems import read_problems
from rstar_math.problems.jsonl import write_problems
from rstar_math.runs.results import run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search.tree import Tree
from rstar_math.search.voting import NO_CHOICE
from rstar_math.tasks import CallTest, ChoiceTask, CodeTask, HiddenTests, RightOptions
from rstar_math.types import Problem, Question, Step

LONG = "A gardener plants seven rows of nine tulips each and then digs up eleven of them again. "
TOP = Question("top", "The largest.", CodeTask("top", examples=(CallTest("top([1, 2])", "2"),)))
PROBLEMS = [
    Problem(Question("a", f"{LONG}How many tulips are left in the end?"), "52"),
    Problem(Question("b", f"{LONG}How many tulips are left in the end?"), "52"),
    Problem(Question("c", "What is 2 + 2?")),
    Problem(TOP, HiddenTests(())),
    Problem(Question("d", "Which?", ChoiceTask(("iron", "wood"))), RightOptions(("A",))),
    Problem(Question("e", "Which?", ChoiceTask(("gold", "silver"))), RightOptions(("B",))),
]


def rstar(*args: object) -> str:
    run = CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)
    assert run.exit_code == 0
    return run.stdout


def test_a_file_is_described_and_not_changed(tmp_path: Path) -> None:
    file, known = tmp_path / "all.jsonl", tmp_path / "known.jsonl"
    write_problems(file, PROBLEMS)
    write_problems(known, PROBLEMS[:1])
    before = file.read_bytes()
    report: dict[str, Any] = json.loads(
        rstar("problems", "check", file, "--known", known, "--json")
    )
    assert report["kinds"] == {"math": 3, "code": 1, "choice": 2}
    assert report["without_answer"] == ["c"]
    assert report["few_tests"] == ["top"]
    assert [d["id"] for d in report["duplicates"]] == ["b"]
    assert {match["id"] for match in report["overlap"]} == {"a", "b"}
    assert "calls of top: 1 public and 0 hidden tests" in report["first"]["code"]
    words = rstar("problems", "check", file)
    assert "3 math, 1 code, 2 choice" in words
    assert file.read_bytes() == before


def test_programs_that_agree_give_tests(tmp_path: Path) -> None:
    file, run_file, out = tmp_path / "a.jsonl", tmp_path / "a.rstar", tmp_path / "b.jsonl"
    write_problems(file, [PROBLEMS[3]])
    programs = ["max(a)", "sorted(a)[-1]", "sorted(a, reverse=True)[0]", "a[-1]"]
    tree = Tree(TOP)
    for body in programs:
        answer = f"def top(a):\n    return {body}\n"
        tree.add(0, Step(prose="Done.", kind="answer", answer=answer))
    with RunStore.open(run_file, run_conditions(load_config(None), guided=False)) as store:
        store.add_problems([PROBLEMS[3]])
        store.save("sc@4", tree, NO_CHOICE)
    rstar("problems", "tests", file, "--run", run_file, "--out", out)
    (problem,) = read_problems(out)
    assert isinstance(problem.reference, HiddenTests)
    assert len(problem.reference.tests) > 5
    assert problem.question == TOP
    from rstar_math.verification.judges import Judges

    async def verdicts() -> list[str]:
        async with Judges() as judges:
            return [
                await judges.judge(problem, f"def top(a):\n    return {body}\n")
                for body in programs
            ]

    assert asyncio.run(verdicts()) == ["right", "right", "right", "wrong"]
