"""rStar's rollouts: random moves, and only the end that a walk comes to counts."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import SearchConfig
from rstar_math.search import ROOT, Tree, grow, to_record
from rstar_math.types import Question, Step
from tests.unit.toy import DirectExecutor

QUESTION = Question("walks", "Which leaf?")
RSTAR = SearchConfig(
    rollouts=30, candidates=3, max_depth=3, selection="uct", tie_break="random", backup="rollout"
)


class Branching:
    """Two ways to think and one to answer at every node; answers are worth their confidence."""

    def __init__(self, worth: dict[str, float] | None = None) -> None:
        self.worth = worth or {}

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        name = "".join(step.prose for step in prefix)
        answer = f"{name}!"
        confidence = self.worth.get(answer, 0.5)
        end = Step(prose="!", kind="A2", answer=answer, confidence=confidence)
        return [Step(prose="a", kind="A1"), end, Step(prose="b", kind="A1")]


def grown(
    config: SearchConfig, worth: dict[str, float] | None = None, tree: Tree | None = None
) -> Tree:
    tree = tree or Tree(QUESTION)
    policy = Branching(worth)
    asyncio.run(grow(tree, policy=policy, executor=DirectExecutor(0.0), config=config))
    return tree


@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([1, 3, 8]))
def test_visits_are_walks_and_values_are_those_of_the_ends_walked_to(
    seed: int, rollouts: int, in_flight: int
) -> None:
    config = RSTAR.model_copy(
        update={"seed": seed, "rollouts": rollouts, "parallel_rollouts": in_flight}
    )
    tree = grown(config)
    for index, node in enumerate(tree.nodes):
        assert node.visits == node.rollouts
        if node.children:
            below = [tree.nodes[child] for child in node.children]
            assert node.visits == sum(child.visits for child in below)
            assert node.value_sum == pytest.approx(sum(child.value_sum for child in below))
        elif node.visits:
            assert node.q == (0.5 if node.answered else 0.0), index
    assert tree.nodes[ROOT].visits == tree.rollouts


def test_an_end_that_no_walk_came_to_has_no_value() -> None:
    tree = grown(RSTAR.model_copy(update={"rollouts": 1}))
    ends = [tree.nodes[index] for index in tree.answer_nodes()]
    assert sum(end.visits for end in ends) <= 1 < len(ends)


def test_a_good_end_is_walked_to_again_and_again() -> None:
    shallow = RSTAR.model_copy(update={"exploration": 0.1, "max_depth": 9})
    tree = grown(shallow, {"!": 1.0})
    best = max((tree.nodes[index] for index in tree.answer_nodes()), key=lambda node: node.visits)
    assert best.depth == 1
    assert best.visits > 10
    assert best.q == 1.0


def test_the_search_ends_where_nothing_is_left_to_explore() -> None:
    tree = grown(RSTAR.model_copy(update={"rollouts": 1000, "max_depth": 2}))
    assert tree.nodes[ROOT].closed
    assert tree.rollouts < 1000


def test_unexplored_children_are_taken_in_no_fixed_order() -> None:
    def first_move(seed: int) -> int:
        tree = grown(RSTAR.model_copy(update={"rollouts": 1, "seed": seed}))
        return next(child for child in tree.nodes[ROOT].children if tree.nodes[child].rollouts)

    moves = [first_move(seed) for seed in range(60)]
    assert {moves.count(child) > 8 for child in (1, 2, 3)} == {True}
    first = RSTAR.model_copy(update={"rollouts": 1, "tie_break": "first"})
    assert grown(first).nodes[1].rollouts == 1


def test_two_calls_of_grow_are_one_call() -> None:
    half = RSTAR.model_copy(update={"rollouts": 6})
    twice = grown(half, tree=grown(half))
    whole = grown(RSTAR.model_copy(update={"rollouts": 12}))
    first, second = to_record(twice), to_record(whole)
    first.pop("cost")
    second.pop("cost")
    assert first == second


def test_a_discount_makes_far_ends_worth_less() -> None:
    tree = grown(RSTAR.model_copy(update={"rollouts": 1, "discount": 0.5, "max_depth": 9}))
    end = next(index for index in tree.answer_nodes() if tree.nodes[index].visits)
    path = tree.path(end)
    assert [tree.nodes[i].value_sum for i in reversed(path)] == [
        0.5 * 0.5**up for up in range(len(path))
    ]
    assert tree.nodes[ROOT].value_sum == 0.5 * 0.5 ** len(path)
