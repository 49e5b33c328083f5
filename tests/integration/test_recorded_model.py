"""Searches over what the embedded model really said, recorded once: the same trees at any
concurrency, in any order of arrival, with the real sandbox and the real grader.

To record anew (a minute or two with the embedded model):
RSTAR_GOLDEN=write pytest tests/integration/test_recorded_model.py
"""

import asyncio
import json
import os
from pathlib import Path

from rstar_math.config import Config, load_config
from rstar_math.llm.connect import connect
from rstar_math.protocols import Completer
from rstar_math.search import to_record
from rstar_math.search.strategies import parse_strategies
from rstar_math.solver.solver import Solver
from rstar_math.testing import Cassette
from rstar_math.types import Problem, Question

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SAID = Cassette(GOLDEN / "smollm2.cassette.jsonl")
TREES = GOLDEN / "smollm2.trees.json"
PROBLEMS = [
    Problem(Question("pens", "Ida has 6 pens and buys 2 packs of 5 pens. How many pens has she?")),
    Problem(
        Question("bus", "A bus with 31 people stops. 12 leave and 5 enter. How many are in it?")
    ),
    Problem(
        Question("rows", "A hall has 9 rows of 14 seats. 20 seats are taken. How many are free?")
    ),
]


def config(trees: int) -> Config:
    settings = ["search.rollouts=2", "search.candidates=4", f"search.parallel_problems={trees}"]
    return load_config("laptop", settings)


def found(model: Completer, trees: int) -> str:
    """The records of all trees of two strategies, as text."""

    async def once() -> str:
        records = {}
        async with Solver(config(trees), model=model) as solver:
            for strategy in parse_strategies("mcts,sc@4"):
                async for problem, solution in solver.map(PROBLEMS, strategy):
                    key = f"{strategy.name} {problem.id}"
                    records[key] = [to_record(solution.tree), str(solution.choice)]
        return json.dumps(records, sort_keys=True, indent=0, ensure_ascii=False) + "\n"

    return asyncio.run(once())


async def record() -> None:
    """Let the embedded model say what the searches ask for."""
    SAID.path.unlink(missing_ok=True)
    model = await connect(config(1).model)
    try:
        said = SAID.recording(model)
        async with Solver(config(3), model=said) as solver:
            for strategy in parse_strategies("mcts,sc@4"):
                async for _ in solver.map(PROBLEMS, strategy):
                    pass
    finally:
        await model.aclose()


def test_recorded_answers_give_the_golden_trees_at_any_concurrency() -> None:
    if os.environ.get("RSTAR_GOLDEN") == "write":
        asyncio.run(record())
        TREES.write_text(found(SAID.replaying(), 1), encoding="utf-8")
    golden = TREES.read_text(encoding="utf-8")
    assert found(SAID.replaying(), 1) == golden
    for seed in range(2):
        assert found(SAID.replaying(jitter_s=0.01, seed=seed), 64) == golden
    assert '"status": "ok"' in golden
    assert '"status": "error"' in golden
