"""What a notebook needs: a call inside a running event loop, completion, HTML, a table."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rstar_math
from rstar_math.concurrency import run_blocking
from rstar_math.config import SearchConfig
from rstar_math.errors import InputError
from rstar_math.runs.store import RunStore
from rstar_math.runs.table import ResultRow, read_run
from rstar_math.search import Tree, majority, votes_of
from rstar_math.search.expansion import SearchComponents
from rstar_math.search.sampling import sample_chains
from rstar_math.search.voting import Choice
from rstar_math.solver.solution import Solution
from rstar_math.testing import ToyWorld
from rstar_math.types import Cost, Problem, Question, Step, Verdict

from .toy import same_text


async def double(number: int) -> int:
    await asyncio.sleep(0)
    if number < 0:
        raise InputError("negative")
    return 2 * number


def test_a_coroutine_runs_inside_and_outside_an_event_loop() -> None:
    async def cell() -> int:
        return run_blocking(double(4))

    assert run_blocking(double(3)) == 6
    assert asyncio.run(cell()) == 8


def test_an_error_inside_an_event_loop_reaches_the_caller() -> None:
    async def cell() -> int:
        return run_blocking(double(-1))

    with pytest.raises(InputError, match="negative"):
        asyncio.run(cell())


INTERRUPTED = """
import asyncio
from rstar_math.concurrency import run_blocking

async def work():
    try:
        print("started", flush=True)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

async def cell():
    run_blocking(work())

try:
    asyncio.new_event_loop().run_until_complete(cell())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_an_interrupt_cancels_the_coroutine() -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"cancelled\ninterrupted\n"


def test_completion_lists_the_public_names() -> None:
    assert set(rstar_math.__all__) <= set(dir(rstar_math))


async def toy_solution() -> Solution:
    world = ToyWorld(steps=2)
    problem = world.problems(1)[0]
    tree = Tree(problem.question)
    parts = SearchComponents(world.policy, world.executor)
    await sample_chains(tree, 8, parts=parts, config=SearchConfig())
    return Solution(problem.question, tree, await majority(votes_of(tree), same_text))


def test_a_solution_shows_its_answer_votes_path_and_tree() -> None:
    solution = asyncio.run(toy_solution())
    assert solution.answer is not None
    assert f"answer={solution.answer!r}" in repr(solution)
    page = solution._repr_html_()
    assert solution.answer in page
    assert "<svg" in page
    assert page.count("<pre>") >= 3


def test_a_solution_escapes_what_a_model_wrote() -> None:
    tree = Tree(Question("q", "<script>alert(1)</script>"))
    end = tree.add(0, Step(prose="<img src=x onerror=alert(2)>", answer="<b>"))
    solution = Solution(tree.question, tree, Choice("<b>", end, 1.0, {"<b>": 1.0}))
    page = solution._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page


def test_a_solution_without_an_answer_says_so() -> None:
    tree = Tree(Question("q", "1 + 1?"))
    solution = Solution(tree.question, tree, Choice(None, None, 0.0, {}))
    assert "No answer" in solution._repr_html_()
    assert "answer=None" in repr(solution)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run.rstar"
    problems = [Problem(Question(f"p{i}", f"{i} + {i}?"), str(2 * i), "sums") for i in range(3)]
    with RunStore.open(path, {}) as store:
        store.add_problems(problems)
        for strategy in ("greedy", "sc@8"):
            for problem in problems:
                tree = Tree(problem.question)
                tree.cost = Cost(sampled_tokens=7)
                choice = Choice("<i>0</i>", None, 1.0, {"<i>0</i>": 1.0})
                store.save(strategy, tree, choice, Verdict.WRONG)
    return path


def test_a_run_has_one_row_per_problem_and_strategy(run: Path) -> None:
    table = read_run(run)
    assert [(row.strategy, row.problem) for row in table] == [
        (strategy, f"p{i}") for strategy in ("greedy", "sc@8") for i in range(3)
    ]
    assert {row.sampled_tokens for row in table} == {7}
    assert {row.verdict for row in table} == {"wrong"}
    assert "6 results" in repr(table)
    assert "<i>" not in table._repr_html_()


def test_a_run_becomes_a_data_frame(run: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = read_run(run).to_pandas()
    assert list(frame.columns) == list(ResultRow.model_fields)
    assert len(frame) == 6
    assert frame.groupby("strategy").sampled_tokens.sum().to_dict() == {"greedy": 21, "sc@8": 21}
