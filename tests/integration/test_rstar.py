"""rStar put together: the real grader, a model that talks, actions, discriminator and baselines."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rstar_math.config import Config, load_config
from rstar_math.errors import ConfigError
from rstar_math.search import to_record
from rstar_math.search.strategy import parse_strategies
from rstar_math.solver import Solution, Solver
from rstar_math.testing import ScriptedCompleter, ScriptedPolicy, Talker, sum_problem
from rstar_math.types import Cost, Problem, Verdict
from tests.unit.toy import script

PROBLEMS = [sum_problem(index) for index in range(8)]
SMALL = [
    "actions.votes=4",
    "actions.sub_votes=3",
    "actions.candidates=2",
    "search.seed=3",
]
ALL = "zero,cot,cot@6,gen@6,rstar@6,verify@6,peer,peer@6"


def config(*settings: str) -> Config:
    return load_config("rstar", [*SMALL, *settings])


def found(
    names: str,
    problems: Sequence[Problem] = PROBLEMS,
    *,
    first: float = 0.6,
    second: float = 0.6,
    settings: Sequence[str] = (),
) -> dict[str, dict[str, Solution]]:
    """What strategies find, by strategy and problem."""

    async def once() -> dict[str, dict[str, Solution]]:
        found: dict[str, dict[str, Solution]] = {}
        async with Solver(
            config(*settings),
            model=ScriptedCompleter(Talker(first)),
            discriminator=ScriptedCompleter(Talker(second, seed=1)),
        ) as solver:
            for strategy in parse_strategies(names):
                solved = {p.id: s async for p, s in solver.map(problems, strategy)}
                found[strategy.name] = solved
        return found

    return asyncio.run(once())


def text(solutions: dict[str, dict[str, Solution]]) -> str:
    """Trees, choices and bills as text."""
    plain = {
        name: {key: [to_record(s.tree), str(s.choice)] for key, s in sorted(solved.items())}
        for name, solved in solutions.items()
    }
    return json.dumps(plain, sort_keys=True)


def test_references_change_nothing() -> None:
    """The firewall: runs that differ only in the reference answers are equal, byte by byte."""
    others = [replace(p, reference=str(n)) for n, p in enumerate(PROBLEMS)]
    without = [replace(p, reference=None) for p in PROBLEMS]
    one = text(found(ALL))
    assert text(found(ALL, others)) == one
    assert text(found(ALL, without)) == one


def test_the_same_at_any_concurrency() -> None:
    one = text(found("gen@6,rstar@6", settings=["search.trees=1"]))
    assert text(found("gen@6,rstar@6", settings=["search.trees=8"])) == one


def test_a_perfect_model_is_right_by_every_strategy() -> None:
    solutions = found(ALL, first=1.0, second=1.0)
    references = {p.id: p.reference for p in PROBLEMS}
    answers = {
        name: {key: s.answer for key, s in solved.items()} for name, solved in solutions.items()
    }
    assert answers == dict.fromkeys(answers, references)
    assert len(answers) == 8


def test_the_second_model_is_asked_by_rstar_and_peer_alone() -> None:
    for name, solved in found(ALL).items():
        bill = Cost.total(s.tree.cost for s in solved.values())
        assert (bill.peer_tokens > 0) == (name == "rstar@6"), name
        assert (bill.scorer_tokens > 0) == (name == "verify@6"), name
        assert bill.sampled_tokens > bill.peer_tokens
    lone = found("peer", first=0.0, second=1.0)["peer"]
    assert {key: s.answer for key, s in lone.items()} == {p.id: p.reference for p in PROBLEMS}


def test_a_good_second_model_helps_a_bad_first_one() -> None:
    problems = [sum_problem(index) for index in range(30)]
    solutions = found("gen@6,rstar@6", problems, first=0.35, second=0.95)
    right = {
        name: sum(solved[p.id].answer == p.reference for p in problems)
        for name, solved in solutions.items()
    }
    assert right["rstar@6"] >= right["gen@6"] + 3, right


def test_the_tree_obeys_the_grammar_and_its_depth() -> None:
    follows = {
        None: {"A1", "A2", "A3", "A5"},
        "A1": {"A1", "A2"},
        "A3": {"A1", "A2", "A3", "A4"},
        "A4": {"A1", "A2", "A3"},
        "A5": {"A1", "A2", "A3"},
    }
    kinds = set()
    for solution in found("gen@12")["gen@12"].values():
        nodes = solution.tree.nodes
        for node in nodes[1:]:
            assert node.step is not None
            parent = nodes[node.parent].step
            assert node.step.kind in follows[parent.kind if parent else None]
            assert node.depth <= 5
            kinds.add(node.step.kind)
    assert kinds == {"A1", "A2", "A3", "A4", "A5"}


@pytest.mark.parametrize(
    ("allowed", "kinds"),
    [("['A3']", {"A3"}), ("['A3','A4','A5']", {"A3", "A4", "A5"}), ("['A1','A2']", {"A1", "A2"})],
)
def test_the_papers_ablation_by_configuration(allowed: str, kinds: set[str]) -> None:
    solved = found("gen@12", settings=[f"actions.allowed={allowed}"])["gen@12"]
    steps = [n.step.kind for s in solved.values() for n in s.tree.nodes if n.step is not None]
    assert set(steps) == kinds
    assert all(s.answer is not None for s in solved.values())


def test_a_token_budget_is_shared_with_the_second_model() -> None:
    solved = found("gen@6,rstar@6", settings=["search.tokens=1500"])
    for name, part in (("gen@6", 1.0), ("rstar@6", 0.75)):
        for solution in solved[name].values():
            own = solution.tree.cost.sampled_tokens - solution.tree.cost.peer_tokens
            assert 1500 * part <= own < 1500 * part + 600, name


def test_the_verdict_belongs_to_the_grader_not_to_the_search() -> None:
    solution = found("rstar@6", PROBLEMS[:1])["rstar@6"][PROBLEMS[0].id]
    assert all(node.verdict is None for node in solution.tree)
    assert Verdict.RIGHT.value not in text({"rstar": {"0": solution}})


def test_a_policy_of_ones_own_has_no_words_for_the_actions() -> None:
    async def once() -> None:
        async with Solver(config(), policy=ScriptedPolicy(script)) as solver:
            await solver.solve(PROBLEMS[0].question, parse_strategies("rstar@2")[0])

    with pytest.raises(ConfigError, match="words of its own"):
        asyncio.run(once())


def test_an_unknown_family_of_prompts_is_an_error_at_once() -> None:
    async def once() -> Any:
        settings = config("actions.family=nosuch")
        async with Solver(settings, model=ScriptedCompleter(Talker(1.0))) as solver:
            return await solver.solve(PROBLEMS[0].question, parse_strategies("rstar@2")[0])

    with pytest.raises(ConfigError, match="nosuch"):
        asyncio.run(once())
