"""The composition: a scripted policy with the real sandbox and the real grader."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from rstar_math.config import Config, load_config
from rstar_math.errors import ConfigError, InputError, ModelUnreachableError
from rstar_math.search import to_record
from rstar_math.search.strategies import Strategy, parse_strategies
from rstar_math.solver.solver import MCTS, Solver, solve
from rstar_math.testing import ScriptedCompleter, ScriptedPolicy, ToyWorld
from rstar_math.types import Problem, Question, Step, Verdict
from tests.unit.toy import NUMBERS, script

PROBLEMS = [Problem(Question(f"p{i}", "Add 3, 5, 7 and 2."), "17") for i in range(12)]


def config(trees: int) -> Config:
    settings = ["search.rollouts=4", "search.candidates=4", f"search.parallel_problems={trees}"]
    return load_config(None, settings)


def found(trees: int, strategy: Strategy, problems: Sequence[Problem], *, guided: bool) -> str:
    """All trees and choices of a map, as text, ordered by problem."""

    async def once() -> str:
        async with Solver(config(trees), policy=ScriptedPolicy(script)) as solver:
            results = {}
            async for problem, solution in solver.map(problems, strategy, guided=guided):
                results[problem.id] = [to_record(solution.tree), str(solution.choice)]
        return json.dumps(results, sort_keys=True)

    return asyncio.run(once())


@pytest.mark.parametrize("strategy", [MCTS, Strategy("sc", 4), Strategy("greedy")])
def test_the_same_trees_at_any_concurrency(strategy: Strategy) -> None:
    one = found(1, strategy, PROBLEMS, guided=False)
    assert found(12, strategy, PROBLEMS, guided=False) == one
    assert len(json.loads(one)) == len(PROBLEMS)


WORLD = ToyWorld(steps=3)
TOYS = WORLD.problems(6)


def toyed(name: str, problems: Sequence[Problem], *, guided: bool = False) -> str:
    """All trees and choices of a map in the toy world, with a scorer, as text."""
    (strategy,) = parse_strategies(name)

    async def once() -> str:
        parts: dict[str, Any] = {"policy": WORLD.policy, "executor": WORLD.executor}
        async with Solver(config(4), scorer=WORLD.scorer(), **parts) as solver:
            results = {}
            async for problem, solution in solver.map(problems, strategy, guided=guided):
                results[problem.id] = [to_record(solution.tree), str(solution.choice)]
        return json.dumps(results, sort_keys=True)

    return asyncio.run(once())


@pytest.mark.parametrize(
    "name", ["greedy", "sc@4", "bon@4", "beam@3", "dvts@3", "value", "mcts", "mcts@2x3"]
)
def test_references_change_nothing_in_an_evaluation(name: str) -> None:
    """The firewall: two runs that differ only in the reference answers are equal, byte by byte."""
    false = [Problem(problem.question, "999") for problem in TOYS]
    assert toyed(name, TOYS) == toyed(name, false)


def test_references_do_change_a_guided_search() -> None:
    false = [Problem(problem.question, "999") for problem in TOYS]
    assert toyed("mcts", TOYS, guided=True) != toyed("mcts", false, guided=True)


def test_a_slow_consumer_holds_back_the_search() -> None:
    """No more problems are begun than are in flight: results do not pile up."""
    begun: list[str] = []

    def problems() -> Iterator[Problem]:
        for problem in WORLD.problems(40):
            begun.append(problem.id)
            yield problem

    async def once() -> None:
        parts: dict[str, Any] = {"policy": WORLD.policy, "executor": WORLD.executor}
        async with Solver(config(3), **parts) as solver:
            taken = 0
            async for _ in solver.map(problems()):
                taken += 1
                await asyncio.sleep(0.01)
                assert len(begun) <= taken + 2 * 3

    asyncio.run(once())
    assert len(begun) == 40


def test_a_question_and_a_strategy_may_be_plain_text() -> None:
    async def once() -> None:
        async with Solver(config(1), policy=ScriptedPolicy(script)) as solver:
            solution = await solver.solve("Add 3, 5, 7 and 2.", "sc@4")
            same = await solver.solve(solution.question, Strategy("sc", 4))
            assert solution.answer == same.answer is not None
            assert solution.question.text == "Add 3, 5, 7 and 2."
            with pytest.raises(ConfigError, match="Unknown strategy"):
                await solver.solve("1 + 1?", "magic")
            with pytest.raises(InputError, match="surrogates"):
                await solver.solve("half \ud83d")

    asyncio.run(once())


def test_a_policy_and_a_discriminator_of_your_own() -> None:
    async def once() -> str | None:
        peer = ScriptedCompleter(lambda prompt, n, seed: [" The answer is 4."] * n)
        policy = ScriptedPolicy(script)
        async with Solver(config(1), policy=policy, discriminator=peer) as solver:
            return (await solver.solve("2 + 2?", "peer")).answer

    assert asyncio.run(once()) == "4"


def test_judging_is_a_thing_of_its_own() -> None:
    async def once() -> None:
        async with Solver(config(1), policy=ScriptedPolicy(script)) as solver:
            assert await solver.judge("34/2", str(sum(NUMBERS))) is Verdict.RIGHT
            assert await solver.judge("18", "17") is Verdict.WRONG
            assert await solver.judge(None, "17") is Verdict.WRONG

    asyncio.run(once())


class Failing:
    """A policy that fails for one question and is slow for another."""

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        if question.id == "p1":
            await asyncio.sleep(0.05)
            raise ModelUnreachableError("gone")
        if question.id == "p2":
            await asyncio.sleep(30)
        return [Step(prose="It is \\boxed{1}", kind="answer", answer="1")]


def test_what_was_finished_is_given_out_before_the_error() -> None:
    async def once() -> list[str]:
        given: list[str] = []

        async def consume(solver: Solver) -> None:
            async for problem, _ in solver.map(PROBLEMS):
                given.append(problem.id)
                await asyncio.sleep(0.02)

        async with Solver(config(12), policy=Failing()) as solver:
            with pytest.raises(ModelUnreachableError):
                await consume(solver)
        return given

    assert sorted(asyncio.run(once())) == sorted({p.id for p in PROBLEMS} - {"p1", "p2"})


def test_leaving_a_map_early_leaves_nothing_running() -> None:
    async def once() -> set[str]:
        async with Solver(config(3), policy=Failing()) as solver:
            results = solver.map(problem for problem in PROBLEMS if problem.id != "p1")
            async for _ in results:
                break
            await results.aclose()
        return {t.get_name() for t in asyncio.all_tasks() if t is not asyncio.current_task()}

    assert asyncio.run(once()) == set()


def test_the_sync_door_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="one strategy"):
        solve("1+1?", strategy="greedy,mcts")
    with pytest.raises(ConfigError, match="a model or a config"):
        solve("1+1?", model="local", config=Config())
    with pytest.raises(InputError, match="surrogates"):
        solve("half \ud83d")


def judged(prompt: str, n: int, seed: int) -> list[str]:
    """A model that adds 3, 5 and 7: steps, sub-questions, and judgements of both. It slips in every
    second sample, and its judgements know it."""
    last = prompt.rpartition("\n\n")[2]
    if prompt.endswith("useful?"):
        return [" Yes" if "3 and 5" in last or "Now we can" in last else " No"] * n
    if prompt.endswith("):"):
        return [" impossible" if "99" in last else " sure"] * n
    if last.startswith("Problem:"):
        if prompt.endswith("\nAnswer:"):
            return [" It is 15. The answer is 15.\nQuestion:"] * n
        return [
            " What is 3 and 5?\nAnswer: It is 8. The answer is 8.\nQuestion:",
            " Is it late?\nAnswer: It is 9. The answer is 9.\nQuestion:",
        ] * (n // 2)
    if prompt.endswith("</output>\n"):
        said = prompt.rpartition("<output>\n")[2].split("\n")[0]
        return [f"It is \\boxed{{{said}}}.\n<answer/>"] * n
    return ["# Add.\nprint(3 + 5 + 7)\n<code/>", "# Add.\nprint(99)\n<code/>"] * (n // 2)


@pytest.mark.parametrize("name", ["tot@2", "rap@4", "bon@4", "beam@2"])
def test_a_model_that_judges_itself(name: str) -> None:
    (strategy,) = parse_strategies(name)
    settings = ["search.scorer=self", "search.self_check=false", "search.candidates=2"]

    async def once() -> None:
        model = ScriptedCompleter(judged)
        how = load_config(None, [*settings, "search.max_depth=3"])
        async with Solver(how, model=model) as solver:
            found = await solver.solve(Question("sum", "Add 3, 5 and 7."), strategy)
        assert found.answer == "15", found.choice
        assert found.tree.cost.scorer_tokens > 0
        assert found.tree.cost.sampled_tokens < sum(len(r.prompt) for r in model.requests)
        scores = [node.score for node in found.tree.nodes if node.score is not None]
        assert scores
        assert max(scores) > min(scores) >= -1

    asyncio.run(once())


def test_a_solver_takes_a_model_or_a_policy() -> None:
    with pytest.raises(ConfigError, match="a model or a policy"):
        Solver(model=ScriptedCompleter(judged), policy=WORLD.policy)

    async def once() -> None:
        async with Solver(config(1), policy=WORLD.policy) as solver:
            with pytest.raises(ConfigError, match="needs a model"):
                await solver.solve(TOYS[0].question, Strategy("rap", 2))

    asyncio.run(once())
