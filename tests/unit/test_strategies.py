"""The strategies beside MCTS, budgets, runs and early stopping, in a world whose values are
known."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import SearchConfig
from rstar_math.costs import add_cost
from rstar_math.errors import ConfigError, RequestError
from rstar_math.search import (
    ROOT,
    Choice,
    SearchComponents,
    Tree,
    from_record,
    run_strategy,
    to_record,
)
from rstar_math.search.budget import TokenBudget
from rstar_math.search.stopping import is_decided, lead_probability
from rstar_math.search.strategies import Strategy, parse_strategies
from rstar_math.search.voting import Vote, best, majority, top_k_of_runs, weighted
from rstar_math.seeding import derive
from rstar_math.testing import ToyWorld
from rstar_math.types import Cost, Question, Step
from tests.unit.toy import DirectExecutor, same_text

WORLD = ToyWorld(steps=4)
PARTS = SearchComponents(WORLD.policy, WORLD.executor, WORLD.scorer())
EVERY = ["greedy", "sc@8", "bon@8", "beam@4", "dvts@4", "tot", "rap@6", "value@2", "mcts@6"]
EVERY += ["particles@6"]
EVERY_RUN = [*EVERY, "asc@8", "mcts@4x3", "beam@2x2", "value@1x2", "particles@3x2"]


def pursued(
    name: str, parts: SearchComponents = PARTS, problem: int = 0, **options: Any
) -> tuple[Tree, Choice]:
    tree = Tree(WORLD.problems(problem + 1)[problem].question)
    (strategy,) = parse_strategies(name)
    config = SearchConfig(**options)
    choice = asyncio.run(run_strategy(tree, strategy, parts, config, group=same_text))
    return tree, choice


def valid(tree: Tree) -> None:
    """The invariants of any tree."""
    assert json.dumps(to_record(from_record(to_record(tree)))) == json.dumps(to_record(tree))
    for index, node in enumerate(tree):
        assert all(tree.nodes[child].parent == index for child in node.children)
        assert node.failure is None or not node.children or index == ROOT
        if index:
            above = tree.nodes[node.parent]
            assert index in above.children
            assert node.depth == above.depth + 1
            assert node.parent == ROOT or node.run == above.run


@pytest.mark.parametrize("name", EVERY_RUN)
def test_every_strategy_gives_a_valid_tree_and_the_same_one_again(name: str) -> None:
    tree, choice = pursued(name)
    valid(tree)
    again, same = pursued(name)
    assert (to_record(again), same) == (to_record(tree), choice)
    assert pursued(name, seed=1)[0].nodes[1:] != tree.nodes[1:]
    assert tree.cost.sampled_tokens > 0
    if name != "greedy":
        assert choice.answer is not None
        assert choice.node in tree.answer_nodes()


@pytest.mark.parametrize("name", [name for name in EVERY_RUN if name not in ("greedy", "asc@8")])
@pytest.mark.parametrize("tokens", [400, 1000, 3000])
def test_every_strategy_spends_a_token_budget_and_hardly_more(name: str, tokens: int) -> None:
    one_request, several = 8 * 30, 8 * 60
    for flying in (1, 6):
        tree, _ = pursued(name.partition("x")[0], token_budget=tokens, parallel_rollouts=flying)
        valid(tree)
        slack = several if name.startswith(("sc", "bon")) else one_request
        assert tokens <= tree.cost.sampled_tokens < tokens + slack


@pytest.mark.parametrize("name", ["beam@4", "dvts@2", "value", "mcts"])
def test_a_budget_that_is_too_small_for_a_tree_still_gives_an_answer(name: str) -> None:
    long = ToyWorld(steps=8, right=0.8, slip=0.2, trap=0, fails=0, dead=0)
    parts = SearchComponents(long.policy, long.executor, long.scorer())
    (strategy,) = parse_strategies(name)
    for problem in long.problems(10):
        tree = Tree(problem.question)
        config = SearchConfig(token_budget=100, candidates=4)
        choice = asyncio.run(run_strategy(tree, strategy, parts, config, group=same_text))
        valid(tree)
        assert choice.answer is not None
        assert tree.cost.sampled_tokens < 100 + 4 * 30 + 8 * 30
    steps = [node.depth for node in tree if node.answered]
    assert steps == [9], "one path, followed to its end"


def test_an_allowance_reckons_with_what_is_paid_and_what_is_under_way() -> None:
    allowance = TokenBudget(100)
    assert allowance.reserve(8) == 8, "before anything is paid nothing is known"
    allowance.commit(8, 40)
    assert not allowance.exhausted
    assert allowance.reserve(8) == 8
    assert allowance.reserve(8) == 4, "60 tokens are enough for 12 samples of 5"
    assert allowance.reserve(8) == 1, "nothing is left, and a search that asks must get something"
    assert allowance.reserve(8, minimum=0) == 0
    allowance.commit(8, 16)
    assert allowance.reserve(100, minimum=0) == 8, "44 tokens at 3.5 each, of which 5 are under way"
    allowance.commit(13, 44)
    assert allowance.exhausted
    endless = TokenBudget(None)
    endless.commit(endless.reserve(3), 10**9)
    assert endless.reserve(7) == 7
    assert not endless.exhausted


def test_a_budget_for_chains_is_kept_closely() -> None:
    for problem in range(5):
        tree, _ = pursued("sc", problem=problem, token_budget=1000)
        assert 1000 <= tree.cost.sampled_tokens < 1300


def test_a_model_with_nothing_to_say_does_not_hold_up_a_budget() -> None:
    silent = ToyWorld(steps=1, right=0, slip=0, trap=0, fails=0, dead=0)
    parts = SearchComponents(silent.policy, silent.executor, silent.scorer())
    for name in EVERY:
        tree = Tree(silent.problems(1)[0].question)
        (strategy,) = parse_strategies(name)
        config = SearchConfig(token_budget=10_000, max_depth=3)
        choice = asyncio.run(run_strategy(tree, strategy, parts, config, group=same_text))
        assert choice.answer is None
        assert tree.failures() == {"no next step": 1}


def test_runs_are_kept_apart_and_under_seeds_of_their_own() -> None:
    tree, _ = pursued("mcts@4x3")
    runs = {node.run for node in tree.nodes[1:]}
    assert runs == {0, 1, 2}
    assert tree.rollouts == 12
    firsts = [
        {node.step for node in tree.nodes[1:] if node.run == run and node.depth == 1}
        for run in runs
    ]
    assert firsts[0] != firsts[1] != firsts[2]
    assert tree.nodes[ROOT].visits == len(tree.answer_nodes())
    alone, _ = pursued("mcts@4")
    assert alone.nodes[ROOT].closed is False


def test_rollouts_in_flight_spread_and_keep_all_that_is_true_of_a_tree() -> None:
    one, _ = pursued("mcts@12")
    many, _ = pursued("mcts@12", parallel_rollouts=6)
    for tree in (one, many):
        valid(tree)
        assert tree.rollouts == tree.nodes[ROOT].rollouts == 12
        for node in tree:
            assert node.rollouts == 0 or node.expanded or node.closed
    assert to_record(many) == to_record(pursued("mcts@12", parallel_rollouts=6)[0])
    assert to_record(many) != to_record(one)
    flat, _ = pursued("mcts@6", parallel_rollouts=6, max_depth=2)
    walked = [node.rollouts for node in flat.nodes[1:] if node.depth == 1 and not node.failure]
    assert max(walked) <= 1 + 6 // len(walked)


def test_searches_by_score_alone_want_a_scorer() -> None:
    for name in ("bon@4", "beam@4", "dvts@2", "value@1", "tot", "rap", "particles"):
        with pytest.raises(ConfigError, match=r"search\.scorer=self"):
            pursued(name, SearchComponents(WORLD.policy, WORLD.executor))


def test_a_beam_keeps_the_best_and_narrows_with_each_end() -> None:
    tree, choice = pursued("beam@3", candidates=6)
    layers: dict[int, list[int]] = {}
    for index, node in enumerate(tree.nodes[1:], start=1):
        layers.setdefault(node.depth, []).append(index)
    for depth, layer in sorted(layers.items()):
        went_on = [index for index in layer if tree.nodes[index].expanded]
        left_out = [i for i in layer if not tree.nodes[i].closed and i not in went_on]
        assert len(went_on) <= 3, depth
        if went_on and left_out:
            scores = [tree.nodes[i].score or 0.0 for i in went_on]
            assert min(scores) >= max(tree.nodes[i].score or 0.0 for i in left_out)
    assert 1 <= tree.rollouts <= 3
    top = max(tree.answer_nodes(), key=lambda end: tree.nodes[end].score or -2)
    assert choice.node == top


def test_best_first_expands_the_best_open_path_of_any_depth() -> None:
    tree, _ = pursued("value@2")
    assert tree.rollouts == 2
    taken = [n for n in tree.nodes[1:] if n.expanded]
    waiting = [n for n in tree.nodes[1:] if not n.expanded and not n.closed]
    assert taken
    assert waiting
    last = max(taken, key=lambda node: max(node.children, default=0))
    older = [n for n in waiting if tree.nodes.index(n) < min(last.children, default=0)]
    assert all((last.score or 0) >= (n.score or 0) for n in older)


def ballot(answer: str, value: float | None = None, run: int = 0, node: int = 1) -> Vote:
    return Vote(answer, node, value=value, run=run)


def chosen(rule: Any, *cast: Vote, **options: Any) -> Choice:
    found: Choice = asyncio.run(rule(cast, same_text, **options))
    return found


def test_the_rules_by_hand() -> None:
    cast = [ballot("a", 0.1, 0), ballot("a", 0.2, 0), ballot("b", 0.9, 1), ballot("c", -1.0, 2)]
    assert chosen(majority, *cast).answer == "a"
    assert chosen(best, *cast).answer == "b"
    assert chosen(best, *cast).share == 0.25
    assert chosen(weighted, *cast).votes == {"a": pytest.approx(1.15), "b": 0.95, "c": 0.0}
    runs = [ballot("a", 0.1, 0), ballot("x", 0.8, 0), ballot("x", 0.3, 1), ballot("b", 0.9, 2)]
    assert chosen(top_k_of_runs, *runs, keep=3).votes == {"x": 2.0, "b": 1.0}
    assert chosen(top_k_of_runs, *runs, keep=1).answer == "b"
    assert chosen(best, ballot("a"), ballot("b", -1.0)).answer == "b"
    for rule in (majority, best, weighted, top_k_of_runs):
        assert chosen(rule) == Choice(None, None, 0.0, {})


def test_all_against_is_still_a_choice() -> None:
    assert chosen(weighted, ballot("a", -1.0)).answer == "a"
    assert chosen(weighted, ballot("a", -1.0)).share == 0.0


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(0, 12))
def test_decided_is_exactly_that_no_votes_to_come_can_change_it(
    votes: list[int], more: int
) -> None:
    ranked = sorted(votes, reverse=True)
    others = ranked[1:] or [0]
    assert is_decided(votes, more) == (ranked[0] > max(others) + more)


def test_the_probability_of_the_lead_by_hand() -> None:
    assert lead_probability([]) == 0.0
    assert lead_probability([3, 3]) == pytest.approx(0.5)
    assert lead_probability([3, 1]) == pytest.approx(0.8125)
    assert lead_probability([3.9, 0.2]) == lead_probability([3, 1])
    assert lead_probability([20, 1]) > 0.999
    grid = [(p + 0.5) / 20_000 for p in range(20_000)]
    mass = [p**5 * (1 - p) ** 2 for p in grid]
    upper = sum(m for p, m in zip(grid, mass, strict=True) if p > 0.5)
    assert lead_probability([5, 2]) == pytest.approx(upper / sum(mass), abs=1e-4)


def agreeing(steps: int = 1) -> SearchComponents:
    """A world whose model is nearly always right."""
    world = ToyWorld(steps=steps, right=0.97, slip=0.03, trap=0, fails=0, dead=0)
    return SearchComponents(world.policy, world.executor)


def stopped(name: str, **options: Any) -> tuple[Tree, Choice]:
    tree = Tree(ToyWorld(steps=1).problems(1)[0].question)
    (strategy,) = parse_strategies(name)
    config = SearchConfig(**options)
    choice = asyncio.run(run_strategy(tree, strategy, agreeing(), config, group=same_text))
    return tree, choice


def test_stopping_when_decided_does_not_change_the_answer() -> None:
    whole, answer = stopped("sc@40", candidates=4)
    early, same = stopped("sc@40", candidates=4, confidence=1.0)
    assert same.answer == answer.answer
    assert early.stop_reason == "decided"
    assert 20 < early.rollouts < whole.rollouts == 40
    assert early.cost.saved_tokens == pytest.approx(
        whole.cost.sampled_tokens - early.cost.sampled_tokens, rel=0.2
    )


@pytest.mark.parametrize("name", ["sc@40", "mcts@40", "mcts@40x2"])
def test_stopping_when_sure_spares_more(name: str) -> None:
    whole, answer = stopped(name, candidates=4)
    early, same = stopped(name, candidates=4, confidence=0.95)
    assert same.answer == answer.answer
    if whole.rollouts > 20:
        assert early.stop_reason == "confident"
        assert early.cost.sampled_tokens < whole.cost.sampled_tokens / 2
        assert early.cost.saved_tokens > 0
    assert from_record(to_record(early)).stop_reason == early.stop_reason


def test_a_settled_answer_ends_a_token_budget_too() -> None:
    early, _ = stopped("sc", candidates=4, token_budget=5000, confidence=0.95)
    assert early.stop_reason == "confident"
    assert early.cost.sampled_tokens + early.cost.saved_tokens == 5000


def test_an_unsettled_answer_uses_the_whole_budget() -> None:
    split = ToyWorld(steps=1, right=0.4, slip=0.6, trap=0, fails=0, dead=0)
    tree = Tree(split.problems(1)[0].question)
    parts = SearchComponents(split.policy, split.executor)
    config = SearchConfig(candidates=4, confidence=1.0)
    asyncio.run(run_strategy(tree, Strategy("sc", 16), parts, config, group=same_text))
    assert (tree.stop_reason, tree.rollouts, tree.cost.saved_tokens) == (None, 16, 0)


@pytest.mark.parametrize(
    "text", ["sc@0", "mcts@4x0", "bogus", "greedy@2", "sc@8x2", "beam@", "mcts@4x"]
)
def test_bad_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_strategies(text)


def test_names_are_read_back() -> None:
    names: Sequence[str] = [
        "greedy",
        "sc@8",
        "bon@4",
        "beam@8",
        "dvts@8",
        "tot@5",
        "mcts",
        "mcts@16x4",
    ]
    assert [s.name for s in parse_strategies(",".join(names))] == names
    assert [s.name for s in parse_strategies("sc,tot,rap")] == ["sc@8", "tot@5", "rap@10"]


class Mute:
    """A model behind a server that fails some requests and never says what it sampled."""

    def __init__(self, fails: int) -> None:
        self.fails = fails
        self.asked = 0

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        self.asked += 1
        if self.asked <= self.fails:
            raise RequestError("one of many")
        add_cost(Cost(calls=1, samples=k, sampled_tokens=0 if self.fails < 0 else 10 * k))
        return [Step(prose=f"{seed}", kind="answer", answer="7")]


@pytest.mark.parametrize("name", ["sc@8", "mcts@2"])
def test_a_failed_first_request_does_not_end_a_budget(name: str) -> None:
    tree, choice = pursued(name, SearchComponents(Mute(1), WORLD.executor), token_budget=200)
    assert choice.answer == "7"
    assert tree.cost.sampled_tokens >= 200


@pytest.mark.parametrize("name", ["sc@8", "mcts@2"])
def test_a_server_that_counts_nothing_does_not_hold_a_budget_for_ever(name: str) -> None:
    policy = Mute(-1)
    pursued(name, SearchComponents(policy, WORLD.executor), token_budget=50_000)
    assert policy.asked < 20


def test_best_first_search_comes_to_an_end_where_nothing_ends() -> None:
    class Endless:
        async def propose(
            self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
        ) -> list[Step]:
            return [Step(code=f"a = {seed + i}\n") for i in range(k)]

        async def score(
            self, question: Question, prefixes: Sequence[Sequence[Step]]
        ) -> list[float]:
            return [0.0 for _ in prefixes]

    endless = Endless()
    tree, _ = pursued("value@1", SearchComponents(endless, DirectExecutor(), endless), rollouts=4)
    assert max(node.depth for node in tree) == 16
    assert len(tree) <= 1 + 8 * 4 * 16


def test_runs_are_decided_together() -> None:
    """The first run is sure of itself; the later ones, of which there are more, are not with it."""

    class Turning:
        async def propose(
            self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
        ) -> list[Step]:
            first = seed == derive(derive(0, "run", 0), question.id, ROOT)
            return [Step(prose="It is", kind="answer", answer="A" if first else "B")] * k

    for confidence_ in (None, 1.0):
        parts = SearchComponents(Turning(), WORLD.executor)
        tree, choice = pursued("mcts@2x15", parts, confidence=confidence_)
        assert choice.answer == "B"
    assert tree.stop_reason == "decided"
    assert max(node.run for node in tree) < 14


def test_going_on_with_chains_makes_new_ones() -> None:
    tree, _ = pursued("sc@3")
    config = SearchConfig()
    asyncio.run(run_strategy(tree, Strategy("sc", 3), PARTS, config, group=same_text))
    assert {node.run for node in tree.nodes[1:]} == set(range(6))
    texts = [
        [node.step.text for node in tree.nodes[1:] if node.run == run and node.step]
        for run in range(6)
    ]
    assert len({tuple(chain) for chain in texts}) > 3


def test_a_budget_sets_the_number_of_chains_and_the_name_says_so() -> None:
    found = parse_strategies("sc@8,bon,greedy,mcts@4")
    names = [strategy.within_budget().name for strategy in found]
    assert names == ["sc@budget", "bon@budget", "greedy", "mcts@4"]
    (same,) = parse_strategies("sc@budget")
    assert same == found[0].within_budget()
    assert not same.is_greedy
    with pytest.raises(ConfigError, match="does not sample chains"):
        parse_strategies("mcts@budget")


def test_a_budget_must_be_given() -> None:
    (strategy,) = parse_strategies("sc@budget")
    tree = Tree(WORLD.problems(1)[0].question)
    search = run_strategy(tree, strategy, PARTS, SearchConfig(), group=same_text)
    with pytest.raises(ConfigError, match="needs a token budget"):
        asyncio.run(search)
