"""The gates of an evaluation: a planted cheat is caught, an honest search passes, and a prompt that
does not fit the model is told from wrong answers."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.config import load_config
from rstar_math.costs import track_cost
from rstar_math.errors import InputError
from rstar_math.evaluation.metrics import summarize
from rstar_math.evaluation.sanity import (
    CachingCompleter,
    SearchResult,
    baseline_answer,
    check_baseline,
    check_format,
    check_leakage,
    swap_references,
)
from rstar_math.protocols import Policy
from rstar_math.runs.journal import GrowingTrees
from rstar_math.runs.results import Result
from rstar_math.search import Choice
from rstar_math.search.strategies import Strategy, parse_strategies
from rstar_math.solver.solution import Solution
from rstar_math.solver.solver import MCTS, Solver
from rstar_math.testing import ScriptedCompleter, ToyWorld, serving
from rstar_math.types import Cost, Problem, Question, Step, Verdict
from tests.e2e.adder import answer
from tests.e2e.rstar import write_problems

WORLD = ToyWorld(steps=3)
TOYS = WORLD.problems(4)
CONFIG = load_config(None, ["search.rollouts=4", "search.candidates=4"])


class Cheat:
    """A policy that is handed the references through a back door, and says them now and then."""

    def __init__(self, inner: Policy, known: dict[str, str | None]) -> None:
        self._inner = inner
        self._known = known

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """Honest steps, and the reference among them in every third request."""
        steps = await self._inner.propose(question, prefix, k, seed=seed)
        if steps and seed % 3 == 0:
            known = self._known[question.id]
            steps[-1] = Step(prose=f"It is \\boxed{{{known}}}.\n", kind="answer", answer=known)
        return steps


async def searched(
    policy: Policy, problems: Sequence[Problem], strategy: Strategy
) -> list[SearchResult]:
    parts: dict[str, Any] = {"policy": policy, "executor": WORLD.executor}
    async with Solver(CONFIG, **parts) as solver:
        found = {p.id: s async for p, s in solver.map(problems, strategy)}
    return [(found[p.id].tree, found[p.id].choice) for p in problems]


@pytest.mark.parametrize("name", ["sc@4", "mcts", "mcts@2x3"])
def test_an_honest_search_passes_and_a_planted_cheat_is_caught(name: str) -> None:
    (strategy,) = parse_strategies(name)

    async def honest(problems: Sequence[Problem]) -> list[SearchResult]:
        return await searched(WORLD.policy, problems, strategy)

    async def cheating(problems: Sequence[Problem]) -> list[SearchResult]:
        known = {p.id: p.reference_text for p in problems}
        return await searched(Cheat(WORLD.policy, known), problems, strategy)

    assert asyncio.run(check_leakage(honest, TOYS, name)).state == "ok"
    gate = asyncio.run(check_leakage(cheating, TOYS, name))
    assert gate.state == "failed"
    assert gate.figures["differing"]
    assert "reference answers" in gate.message


def test_a_search_that_does_not_repeat_itself_is_not_called_a_cheat() -> None:
    rng = random.Random(3)

    async def shaky(problems: Sequence[Problem]) -> list[SearchResult]:
        found = await searched(WORLD.policy, problems, MCTS)
        return [(tree, Choice(str(rng.random()), None, 0.0, {})) for tree, _ in found]

    assert asyncio.run(check_leakage(shaky, TOYS, "mcts")).state == "unclear"
    bare = [Problem(p.question) for p in TOYS]
    with pytest.raises(InputError, match="reference answers"):
        asyncio.run(check_leakage(shaky, bare, "mcts"))


def test_every_reference_is_replaced_by_another() -> None:
    problems = [Problem(Question(str(i), "?"), r) for i, r in enumerate(["1", "1", "2", None])]
    found = swap_references(problems)
    assert [p.question for p in found] == [p.question for p in problems]
    pairs = zip(problems, found, strict=True)
    assert all(a.reference is None or a.reference != b.reference for a, b in pairs)
    assert found[3].reference is None
    assert swap_references(problems[:1])[0].reference not in ("1", None)


def test_a_prompt_that_does_not_fit_is_told_from_wrong_answers() -> None:
    def result(i: int, chosen: str | None, cost: Cost) -> Result:
        verdict = Verdict.RIGHT if chosen == "1" else Verdict.WRONG
        return Result(str(i), "greedy", Choice(chosen, None, 0.0, {}), verdict, cost, {})

    fits = [result(i, "1" if i else "2", Cost(samples=10, malformed=1)) for i in range(4)]
    gate = check_format(summarize("greedy", fits))
    assert (gate.state, gate.figures["right"], gate.figures["wrong"]) == ("ok", 3, 1)
    lost = [result(i, None, Cost(samples=10, malformed=3, truncated=4)) for i in range(4)]
    gate = check_format(summarize("greedy", lost))
    assert (gate.state, gate.figures["wrong"], gate.figures["unanswered"]) == ("warning", 0, 4)
    assert "does not fit this model" in gate.message
    assert gate.figures["lost"] == pytest.approx(0.7)


def test_the_model_alone_must_not_be_better_than_our_format() -> None:
    (gate,) = check_baseline([True] * 12 + [False] * 8, [False] * 20)
    assert gate.state == "warning"
    (gate,) = check_baseline([True] * 12 + [False] * 8, [True] * 13 + [False] * 7)
    assert gate.state == "ok"
    _, gate = check_baseline([True] * 12 + [False] * 8, [True] * 20, published=0.95)
    assert gate.state == "warning"
    _, gate = check_baseline([True] * 12 + [False] * 8, [True] * 20, published=0.55)
    assert gate.state == "ok"


def test_the_plain_baseline_reads_answers_in_plain_words() -> None:
    model = ScriptedCompleter(lambda prompt, n, seed: [" 2 + 2 = 4. The answer is 4.\nQuestion: x"])
    assert asyncio.run(baseline_answer(model, Question("q", "What is 2 + 2?"))) == "4"
    assert model.requests[0].temperature == 0
    assert model.requests[0].prompt.endswith("Question: What is 2 + 2?\nSolution:")
    silent = ScriptedCompleter(lambda prompt, n, seed: ["Hmm"])
    assert asyncio.run(baseline_answer(silent, Question("q", "What is 2 + 2?"))) is None


def test_a_remembered_request_costs_the_same_and_is_not_asked() -> None:
    inner = ScriptedCompleter(lambda prompt, n, seed: [f"{random.random()}"] * n)
    model = CachingCompleter(inner)

    async def ask(seed: int) -> tuple[str, Cost]:
        with track_cost() as cost:
            (found,) = await model.complete(
                "p", n=1, stop=(), max_tokens=9, temperature=1.0, seed=seed
            )
        return found.text, cost

    first, again, other = (asyncio.run(ask(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first[1].sampled_tokens == 1
    assert other[0] != first[0]
    assert model.calls == len(inner.requests) == 2


def checked(*args: object) -> tuple[int, dict[str, Any]]:
    run = CliRunner().invoke(app, ["eval", *map(str, args), "--json", "--check"])
    return run.exit_code, json.loads(run.stdout)


def test_check_passes_an_honest_evaluation_and_fails_a_cheating_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_problems(tmp_path, 4)
    few = ("--set", "search.rollouts=2", "--set", "search.candidates=2")
    with serving(answer) as fake:
        args = (file, "--strategy", "sc@2,mcts", "--model", fake.url, *few)
        code, report = checked(*args, "--published", "90")
        assert code == 0
        states = {gate["name"]: gate["state"] for gate in report["check"]}
        assert states["leakage, sc@2"] == states["leakage, mcts"] == "ok"
        assert states["baseline"] == "ok"
        assert states["published"] == "warning"  # the adder cannot speak plainly
        assert "strategies" in report

        honest = Solver.map

        async def leaky(
            self: Solver,
            problems: Iterable[Problem],
            strategy: Strategy = MCTS,
            *,
            guided: bool = False,
            growing: GrowingTrees | None = None,
        ) -> AsyncGenerator[tuple[Problem, Solution], None]:
            searches = honest(self, problems, strategy, guided=guided, growing=growing)
            async for problem, found in searches:
                told = Choice(problem.reference_text, None, 1.0, {})
                yield problem, Solution(found.question, found.tree, told)

        monkeypatch.setattr(Solver, "map", leaky)
        code, report = checked(*args)
    assert code == 1
    states = {gate["name"]: gate["state"] for gate in report["check"]}
    assert states["leakage, mcts"] == "failed"
