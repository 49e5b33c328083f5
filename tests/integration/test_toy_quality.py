"""Quality at equal cost in the world whose truth is known."""

import asyncio

from rstar_math.config import SearchConfig
from rstar_math.search import SearchComponents, Tree, run_strategy
from rstar_math.search.strategies import parse_strategies
from rstar_math.testing import ToyWorld
from tests.unit.toy import same_text

WORLD = ToyWorld(steps=4)
N = 40


def right(spec: str, *, scored: bool, tokens: int) -> int:
    """How many of N problems a strategy answers right."""
    (strategy,) = parse_strategies(spec)
    scorer = WORLD.scorer(noise=0.5) if scored else None
    parts = SearchComponents(WORLD.policy, WORLD.executor, scorer)
    config = SearchConfig(token_budget=tokens)

    async def once() -> int:
        hits = 0
        for problem in WORLD.problems(N):
            tree = Tree(problem.question)
            choice = await run_strategy(tree, strategy, parts, config, group=same_text)
            hits += choice.answer == problem.reference
        return hits

    return asyncio.run(once())


def test_with_a_scorer_mcts_finds_the_optimum_and_beats_votes_and_beams() -> None:
    ours = right("mcts@1000", scored=True, tokens=16_000)
    assert ours >= N - 2
    assert ours >= right("sc", scored=True, tokens=16_000) + 3
    ours = right("mcts@1000", scored=True, tokens=8_000)
    assert ours >= right("sc", scored=True, tokens=8_000) + 5
    assert ours >= right("beam@4", scored=True, tokens=8_000) + 5


def test_without_a_scorer_mcts_beats_self_consistency() -> None:
    ours = right("mcts@4", scored=False, tokens=4_000)
    assert ours >= right("sc", scored=False, tokens=4_000) + 5
