"""The tables that others may add to: strategies, selection rules, scorers."""

import asyncio
import math
from dataclasses import replace

import pytest

from rstar_math.config import Config, SearchConfig
from rstar_math.errors import ConfigError
from rstar_math.prompts.actions import ACTIONS, check_actions, load_actions
from rstar_math.search import SearchComponents, Tree, grow, run_strategy, to_record
from rstar_math.search.sampling import sample_chains
from rstar_math.search.selection import SELECTION_RULES, ChildStats, selection_rule
from rstar_math.search.strategies import (
    STRATEGIES,
    SearchHooks,
    StrategySpec,
    known_strategies,
    parse_strategies,
)
from rstar_math.solver.components import POLICIES, REVIEWERS, SCORERS, scorer_factory
from rstar_math.testing import ToyWorld
from tests.unit.toy import same_text

WORLD = ToyWorld()
PROBLEM = WORLD.problems(1)[0]


async def _twice(
    tree: Tree, size: int | None, parts: SearchComponents, config: SearchConfig, hooks: SearchHooks
) -> None:
    await sample_chains(tree, 2 * (size or 1), parts=parts, config=config)


TWICE = StrategySpec("twice as many programs as asked for", _twice, default_size=3)
NO_SPEC = "no strategy"
SECOND_A1 = replace(ACTIONS["A1"])


def least_visited(child: ChildStats, parent_visits: int, exploration: float) -> float:
    """Prefers the child with the fewest visits."""
    return -child.visits + (0.1 if child.depth == 1 else 0.0)


def test_every_entry_names_components_that_exist() -> None:
    for name, spec in STRATEGIES.items():
        assert spec.policy in POLICIES, name
        assert spec.scorer in ("none", "optional", "required", *SCORERS), name
        assert spec.review is None or spec.review in REVIEWERS, name
        assert name in known_strategies()
        (parsed,) = parse_strategies(name)
        assert parse_strategies(parsed.name) == [parsed]


def test_a_strategy_from_another_module() -> None:
    (strategy,) = parse_strategies(f"{__name__}:TWICE@4")
    parts = SearchComponents(WORLD.policy, WORLD.executor)
    tree = Tree(PROBLEM.question)
    asyncio.run(run_strategy(tree, strategy, parts, SearchConfig(), group=same_text))
    assert tree.rollouts == 8
    assert strategy.name == f"{__name__}:TWICE@4"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nonesuch", "sc@8"),
        ("no.such.module:SPEC", "cannot be imported"),
        (f"{__name__}:NO_SPEC", "StrategySpec"),
        (f"{__name__}:MISSING", "cannot be imported"),
        ("greedy@3", "takes no size"),
        ("sc@8x2", "takes no runs"),
    ],
)
def test_a_wrong_strategy_is_refused(name: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        _ = [one.spec for one in parse_strategies(name)]


def grown(selection: str, **options: object) -> Tree:
    tree = Tree(PROBLEM.question)
    config = SearchConfig.model_validate({"rollouts": 12, "candidates": 4, "selection": selection})
    asyncio.run(
        grow(tree, policy=WORLD.policy, executor=WORLD.executor, config=config, **options)  # type: ignore[arg-type]
    )
    return tree


def test_a_selection_rule_from_another_module_or_as_a_function() -> None:
    named = grown(f"{__name__}:least_visited")
    given = grown("uct", select=least_visited)
    assert to_record(named) == to_record(given)
    assert to_record(named) != to_record(grown("uct-zero"))


def test_auto_is_uct_with_values_and_puct_without() -> None:
    assert selection_rule("auto", valued=True) is SELECTION_RULES["uct"]
    assert selection_rule("auto", valued=False) is SELECTION_RULES["puct"]
    assert SELECTION_RULES["uct"](ChildStats(None, 0), 3, 2.0) == math.inf
    with pytest.raises(ConfigError, match="uct-zero"):
        selection_rule("last")


def test_an_unknown_scorer_is_refused() -> None:
    with pytest.raises(ConfigError, match="module:factory"):
        scorer_factory("best")
    assert Config().search.scorer == "none"


def test_an_action_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(ConfigError, match="Unknown action 'A9'"):
        load_actions(["A1", "A9"])
    with pytest.raises(ConfigError, match="A1, A2, A3"):
        check_actions(["A4", "A5"])
    with pytest.raises(ConfigError, match="not an Action"):
        load_actions([f"{__name__}:NO_SPEC"])
    with pytest.raises(ConfigError, match="name of another action"):
        load_actions([f"{__name__}:SECOND_A1"])
    assert "A9" not in ACTIONS
