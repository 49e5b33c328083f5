"""How many searches are under way at once."""

import pytest

from rstar_math.config import load_config
from rstar_math.search.strategies import parse_strategies
from rstar_math.solver.solver import Solver


@pytest.mark.parametrize(
    ("strategy", "model", "settings", "wanted"),
    [
        ("greedy", "local", ["model.concurrency=32"], 32),
        ("greedy", "http://localhost:1/v1", ["model.concurrency=32"], 64),
        ("sc@16", "local", ["model.concurrency=32"], 4),
        ("mcts", "local", ["model.concurrency=32", "search.candidates=8"], 2),
        ("mcts", "local", ["search.parallel_problems=7"], 7),
    ],
)
def test_a_model_is_kept_busy(strategy: str, model: str, settings: list[str], wanted: int) -> None:
    solver = Solver(load_config("laptop", settings, model=model))
    assert solver.max_concurrent_searches(parse_strategies(strategy)[0]) == wanted
