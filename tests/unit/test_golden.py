"""Golden trees: a change that alters one visit count, one seed or one word of a record fails here.

After a change that is meant to alter trees: RSTAR_GOLDEN=write pytest tests/unit/test_golden.py,
look at the difference, and say in the commit why it is right.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rstar_math.config import SearchConfig
from rstar_math.search import SearchComponents, Tree, run_strategy, to_record
from rstar_math.search.strategies import parse_strategies
from rstar_math.testing import ToyWorld
from tests.unit.toy import same_text

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
WORLD = ToyWorld(steps=3)
SCORED = SearchComponents(WORLD.policy, WORLD.executor, WORLD.scorer())
PLAIN = SearchComponents(WORLD.policy, WORLD.executor)
PROBLEM = WORLD.problems(1)[0]
GUIDED = SearchComponents(WORLD.policy, WORLD.executor, verifier=WORLD.verifier(PROBLEM))
BOTH = SearchComponents(WORLD.policy, WORLD.executor, WORLD.scorer(), WORLD.verifier(PROBLEM))

CASES: dict[str, tuple[str, SearchComponents, dict[str, Any]]] = {
    "mcts": ("mcts@6", PLAIN, {}),
    "mcts-uct": ("mcts@6", PLAIN, {"selection": "uct"}),
    "mcts-guided": ("mcts@6", GUIDED, {}),
    "mcts-scored": ("mcts@6", SCORED, {}),
    "mcts-scored-guided": ("mcts@6", BOTH, {}),
    "mcts-uct-zero": ("mcts@6", GUIDED, {"selection": "uct-zero"}),
    "mcts-puct": ("mcts@6", GUIDED, {"selection": "puct"}),
    "mcts-backup-all": ("mcts@6", SCORED, {"backup": "all"}),
    "mcts-in-flight": ("mcts@6", GUIDED, {"parallel_rollouts": 3}),
    "mcts-runs": ("mcts@2x3", SCORED, {}),
    "mcts-tokens": ("mcts@3", SCORED, {"token_budget": 1500}),
    "sc": ("sc@6", PLAIN, {}),
    "bon": ("bon@6", SCORED, {}),
    "beam": ("beam@3", SCORED, {}),
    "dvts": ("dvts@3", SCORED, {}),
    "value": ("value@2", SCORED, {}),
    "particles": ("particles@6", SCORED, {}),
    "particles-seldom": ("particles@6", SCORED, {"resample_below": 0.3, "seed": 2}),
    "particles-tokens": ("particles@4", SCORED, {"token_budget": 1200}),
    "asc": ("asc@12", PLAIN, {}),
}


def record(name: str) -> dict[str, Any]:
    """The tree and the choice of a case."""
    spec, parts, options = CASES[name]
    (strategy,) = parse_strategies(spec)
    tree = Tree(PROBLEM.question)
    config = SearchConfig(candidates=4, **options)
    choice = asyncio.run(run_strategy(tree, strategy, parts, config, group=same_text))
    return {"choice": [choice.answer, choice.node, choice.votes], "tree": to_record(tree)}


def read(text: str) -> Any:
    """A golden file, numbers to 9 digits: the last ones of a logarithm differ by machine."""
    return json.loads(text, parse_float=lambda number: round(float(number), 9))


@pytest.mark.parametrize("name", CASES)
def test_the_tree_is_the_golden_one(name: str) -> None:
    path = GOLDEN / f"{name}.json"
    found = json.dumps(record(name), indent=0, ensure_ascii=False) + "\n"
    if os.environ.get("RSTAR_GOLDEN") == "write":
        path.write_text(found, encoding="utf-8")
    assert read(found) == read(path.read_text(encoding="utf-8"))


def test_no_two_golden_trees_are_alike() -> None:
    """Each option that a case turns shows in its tree."""
    texts = {(GOLDEN / f"{name}.json").read_text(encoding="utf-8") for name in CASES}
    assert len(texts) == len(CASES)
