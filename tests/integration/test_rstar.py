"""rStar put together: the real grader, a model that talks, actions, discriminator and baselines."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.toy_talk import Talker, sum_problem
from rstar_math.config import Config, load_config
from rstar_math.errors import ConfigError, ContextLengthError
from rstar_math.policies.completions import ChainDiscriminator
from rstar_math.search import to_record
from rstar_math.search.strategies import parse_strategies
from rstar_math.solver.solution import Solution
from rstar_math.solver.solver import Solver
from rstar_math.testing import ScriptedCompleter, ScriptedPolicy
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
    one = text(found("gen@6,rstar@6", settings=["search.parallel_problems=1"]))
    assert text(found("gen@6,rstar@6", settings=["search.parallel_problems=8"])) == one


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
        assert (bill.discriminator_tokens > 0) == (name == "rstar@6"), name
        assert (bill.scorer_tokens > 0) == (name == "verify@6"), name
        assert bill.sampled_tokens > bill.discriminator_tokens
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
    solved = found("gen@12", settings=[f"actions.enabled={allowed}"])["gen@12"]
    steps = [n.step.kind for s in solved.values() for n in s.tree.nodes if n.step is not None]
    assert set(steps) == kinds
    assert all(s.answer is not None for s in solved.values())


@pytest.mark.parametrize("splits", [1, 8])
def test_a_token_budget_is_kept_with_the_second_model_in_it(splits: int) -> None:
    settings = ["search.token_budget=3000", f"mutual.splits={splits}"]
    for name, solved in found("gen@6,rstar@6,verify@6", settings=settings).items():
        for solution in solved.values():
            assert 2700 <= solution.tree.cost.sampled_tokens < 3700, name
            if name == "rstar@6":
                assert solution.tree.cost.discriminator_tokens > 100


def test_a_budget_ends_with_a_second_model_that_says_nothing() -> None:
    async def once() -> list[Solution]:
        settings = config("search.token_budget=1500")
        silent = ScriptedCompleter(lambda prompt, n, seed: [])
        first = ScriptedCompleter(Talker(0.5))
        async with Solver(settings, model=first, discriminator=silent) as solver:
            (strategy,) = parse_strategies("rstar@4")
            return [s async for _, s in solver.map(PROBLEMS[:3], strategy)]

    for solution in asyncio.run(once()):
        assert solution.answer is not None
        assert solution.tree.cost.sampled_tokens < 2500


def test_a_second_model_that_cannot_be_asked_is_on_the_bill_and_nobodys_word() -> None:
    def refuse(prompt: str, n: int, seed: int) -> list[str]:
        raise ContextLengthError("too long")

    async def once() -> Solution:
        first, second = ScriptedCompleter(Talker(0.5)), ScriptedCompleter(refuse)
        async with Solver(config(), model=first, discriminator=second) as solver:
            (strategy,) = parse_strategies("rstar@4")
            return await solver.solve(PROBLEMS[0].question, strategy)

    solution = asyncio.run(once())
    assert solution.tree.cost.unscorable > 0
    assert not solution.tree.has_discriminator_votes
    assert solution.answer is not None


def test_a_peer_that_was_shown_the_answer_agrees_only_if_it_says_so() -> None:
    begun = "10 - 2 = 8. Final Answer: The final answer is $\\boxed{8}$."
    said = {
        " No wait. The answer is 7.": "7",
        " I hope it is correct.": None,
    }
    for text, answer in said.items():
        completer = ScriptedCompleter(lambda prompt, n, seed, text=text: [text])  # type: ignore[misc]
        peer = ChainDiscriminator(completer, config().actions, config().mutual)
        assert asyncio.run(peer.complete_answers(PROBLEMS[0].question, begun, 1, seed=0)) == [
            answer
        ]
    straddling = ScriptedCompleter(lambda prompt, n, seed: [" 8."])
    peer = ChainDiscriminator(straddling, config().actions, config().mutual)
    open_end = "10 - 2 = 8. So the answer is"
    assert asyncio.run(peer.complete_answers(PROBLEMS[0].question, open_end, 1, seed=0)) == ["8"]


@pytest.mark.parametrize("allowed", ["[]", "['A4']", "['A4','A5']"])
def test_actions_that_can_never_end_a_path_are_refused(allowed: str) -> None:
    async def once() -> None:
        settings = config(f"actions.enabled={allowed}")
        async with Solver(settings, model=ScriptedCompleter(Talker(1.0))):
            pass

    with pytest.raises(ConfigError, match="A1, A2"):
        asyncio.run(once())


def test_the_verdict_belongs_to_the_grader_not_to_the_search() -> None:
    solution = found("rstar@6", PROBLEMS[:1])["rstar@6"][PROBLEMS[0].id]
    assert all(node.verdict is None for node in solution.tree)
    assert Verdict.RIGHT.value not in text({"rstar": {"0": solution}})


def test_a_policy_of_ones_own_has_no_words_for_the_actions() -> None:
    async def once() -> None:
        async with Solver(config(), policy=ScriptedPolicy(script)) as solver:
            await solver.solve(PROBLEMS[0].question, parse_strategies("rstar@2")[0])

    with pytest.raises(ConfigError, match="needs a model"):
        asyncio.run(once())


def test_an_unknown_family_of_prompts_is_an_error_at_once() -> None:
    async def once() -> Any:
        settings = config("actions.prompt_set=nosuch")
        async with Solver(settings, model=ScriptedCompleter(Talker(1.0))) as solver:
            return await solver.solve(PROBLEMS[0].question, parse_strategies("rstar@2")[0])

    with pytest.raises(ConfigError, match="nosuch"):
        asyncio.run(once())
