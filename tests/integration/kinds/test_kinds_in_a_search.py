"""Code problems and choices in whole searches: solved, voted, judged, curated, checked for leaks,
trained on in an evolution."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.config import load_config
from rstar_math.policies.completions import StepPolicy
from rstar_math.problems import read_problems
from rstar_math.prompts.rendering import Renderer
from rstar_math.runs.results import SearchedProblem, run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.solver.solution import Solution
from rstar_math.solver.solver import Solver
from rstar_math.tasks import CallTest, CodeTask, HiddenTests
from rstar_math.testing import ScriptedCompleter, serving
from rstar_math.training.curation.curate import curate
from rstar_math.training.rows import PreferenceRow, SftRow, rows_of
from rstar_math.types import Problem, Question, Step, Verdict
from rstar_math.verification.judges import Judges
from rstar_math.viewer.result import problem_html, result_html

SECRET = "double(918273645)"
DOUBLE = Problem(
    Question(
        "double", "Double a number.", CodeTask("double", examples=(CallTest("double(2)", "4"),))
    ),
    HiddenTests((CallTest(SECRET, "1836547290"), CallTest("double(0)", "0"))),
)
BODIES = ("2 * x", "x + x", "x ** 2", "x + 2", "x << 1", "3 * x")
"""Ways to double a number. The third and the fourth are right only for the public test."""
CONFIG = load_config(None, ["search.rollouts=6", "search.candidates=4"])


def program(number: int) -> str:
    return f"def double(x):\n    return {BODIES[number % len(BODIES)]}\n"


def coder(prompt: str, n: int, seed: int) -> list[str]:
    """A model that writes a function as one step, tries it, and says that it is right."""
    said = prompt.rpartition("Question:")[2]
    if "<output>" in said:
        return [" The output is right. \\boxed{done}<answer/>"] * n
    if "def double" in said:
        return ["# Try it.\nprint(double(2))\n<code/>"] * n
    return [f"# Way {seed + i}.\n{program(seed + i)}<step/>" for i in range(n)]


def served(body: Mapping[str, Any]) -> list[str]:
    """The same model behind a server."""
    return coder(str(body["prompt"]), body["n"], body["seed"])


def solved(strategy: str, *, guided: bool = False) -> tuple[Solution, Verdict]:
    async def work() -> tuple[Solution, Verdict]:
        async with Solver(CONFIG, model=ScriptedCompleter(coder)) as solver:
            [(_, solution)] = [s async for s in solver.map([DOUBLE], strategy, guided=guided)]
            return solution, await solver.judge(solution.answer, DOUBLE)

    return asyncio.run(work())


@pytest.mark.parametrize("strategy", ["sc@12", "mcts@6"])
def test_programs_are_the_answers_of_code_problems(strategy: str) -> None:
    solution, verdict = solved(strategy)
    assert verdict is Verdict.RIGHT
    assert solution.answer is not None
    assert "def double" in solution.answer
    assert len(solution.choice.votes) < len(
        solution.tree.answer_nodes()
    )  # equal ones vote together
    if strategy.startswith("mcts"):
        values = {node.score for node in solution.tree.nodes if node.answered}
        assert values <= {1.0, -1.0}
        assert 1.0 in values  # the public test values the programs


def test_curation_takes_programs_as_it_takes_numbers() -> None:
    solution, _ = solved("mcts@6", guided=True)
    searched = SearchedProblem(DOUBLE, (("mcts", solution.tree),))

    async def work() -> Any:
        async with Judges() as judges:
            return await curate([searched], judges.grouper)

    curated = asyncio.run(work())
    rows = [row for row in rows_of(curated, "sft") if isinstance(row, SftRow)]
    pairs = [row for row in rows_of(curated, "preference") if isinstance(row, PreferenceRow)]
    assert rows
    assert pairs
    for row in (*rows, *pairs):
        assert "double(2) returns 4" in row.question
        assert "918273645" not in row.model_dump_json()
    assert all("def double" in row.answer for row in rows)


def test_a_mislabelled_code_problem_is_suspected() -> None:
    wrong = replace(DOUBLE, reference=HiddenTests((CallTest("double(5)", "11"),)))

    async def work() -> Any:
        async with Solver(CONFIG, model=ScriptedCompleter(coder)) as solver, Judges() as judges:
            [(_, one)] = [s async for s in solver.map([wrong], "mcts@8", guided=True)]
            found = SearchedProblem(wrong, (("mcts", one.tree),))
            config = {"noise_min_programs": 2, "noise_min_share": 0.51}
            from rstar_math.training.curation.records import CurationConfig

            return await curate([found], judges.grouper, CurationConfig(**config))

    curated = asyncio.run(work())
    assert not curated.solutions


def write(folder: Path) -> Path:
    from rstar_math.problems.jsonl import write_problems

    write_problems(folder / "code.jsonl", [DOUBLE])
    return folder / "code.jsonl"


def checked(file: Path, url: str) -> dict[str, str]:
    args = ["eval", str(file), "--strategy", "sc@2,mcts@2", "--model", url, "--check", "--json"]
    run = CliRunner().invoke(app, [*args, "--set", "search.candidates=2"])
    report = json.loads(run.stdout)
    return {check["name"]: check["state"] for check in report["check"]}


def test_a_hidden_test_in_a_prompt_is_found_by_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path)
    with serving(served) as fake:
        states = checked(file, fake.url)
        assert states["leakage, sc@2"] == states["leakage, mcts@2"] == "ok"
        assert all("918273645" not in json.dumps(request) for request in fake.requests)

        told: dict[str, str] = {}
        honest_map, honest_prompt = Solver.map, Renderer.prompt

        def leaky_map(self: Solver, problems: Any, *args: Any, **options: Any) -> Any:
            problems = list(problems)
            told.update({p.id: repr(p.reference) for p in problems})
            return honest_map(self, problems, *args, **options)

        def leaky_prompt(
            self: Renderer, question: Question, steps: Any, partial: str | None = None
        ) -> str:
            hint = replace(question, text=f"{question.text} Hint: {told.get(question.id)}")
            return honest_prompt(self, hint, steps, partial)

        monkeypatch.setattr(Solver, "map", leaky_map)
        monkeypatch.setattr(Renderer, "prompt", leaky_prompt)
        states = checked(file, fake.url)
        assert states["leakage, sc@2"] == states["leakage, mcts@2"] == "failed"


def test_choices_are_read_grouped_and_judged(tmp_path: Path) -> None:
    examples = Path(__file__).parents[3] / "examples" / "problems" / "science.jsonl"
    problems = read_problems(examples)
    assert len(problems) == 40
    answers = ["\\boxed{%s}", "The answer is %s.", "(%s)", "%s is correct."]

    def model(prompt: str, n: int, seed: int) -> list[str]:
        asked = prompt.rpartition("Question:")[2]
        if "<output>" not in asked:
            return ['# Think.\nprint("?")\n<code/>'] * n
        problem = next(p for p in problems if p.question.text in asked)
        right = str(problem.reference)
        return [f" {answers[(seed + i) % 4] % right}<answer/>" for i in range(n)]

    async def work() -> list[Verdict]:
        async with Solver(CONFIG, model=ScriptedCompleter(model)) as solver:
            found = [pair async for pair in solver.map(problems, "sc@4")]
            for _, solution in found:
                assert len(solution.choice.votes) == 1
            return [await solver.judge(s.answer, p) for p, s in found]

    assert asyncio.run(work()) == [Verdict.RIGHT] * 40


def test_prompts_follow_the_kind_of_problem() -> None:
    model = ScriptedCompleter(coder)
    policy = StepPolicy(model, CONFIG.policy)
    asyncio.run(policy.propose(DOUBLE.question, (), 1, seed=0))
    asyncio.run(policy.propose(Question("m", "What is 6 * 7?"), (), 1, seed=0))
    assert "count_vowels" in model.requests[0].prompt
    assert "Example: double(2) returns 4" in model.requests[0].prompt
    assert "count_vowels" not in model.requests[1].prompt
    block = Step("# a\n", "x = 1\n", "code")
    (step,) = asyncio.run(
        StepPolicy(
            ScriptedCompleter(lambda prompt, n, seed: [" It is right.<answer/>"]), CONFIG.policy
        ).propose(DOUBLE.question, [block], 1, seed=0)
    )
    assert re.fullmatch(r"x = 1\s*", step.answer or "")


def test_a_page_shows_the_program_and_no_hidden_test(tmp_path: Path) -> None:
    solution, verdict = solved("sc@2")
    with RunStore.open(tmp_path / "a.rstar", run_conditions(CONFIG, guided=False)) as store:
        store.add_problems([DOUBLE])
        store.save("sc@2", solution.tree, solution.choice, verdict)
        (result,) = store.results("sc@2")
        html = result_html(result, store.tree("double", "sc@2"), {})
    assert '<div class="highlight">' in html or "<pre>" in html
    question = problem_html(DOUBLE)
    assert "double(2) returns 4" in question
    assert "2 hidden tests" in question
    assert "918273645" not in html + question
