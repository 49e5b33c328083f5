"""An evolution whose searches run on a Ray cluster comes to what it comes to on one machine.

Skipped where Ray is not installed: pip install 'rstar-math[ray]'.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="training needs trl: pip install 'rstar-math[train]'")

from rstar_math.evolution.pipeline import evolve
from rstar_math.evolution.recipe import load_recipe
from tests.e2e.rstar import rstar
from tests.integration.cluster.conftest import NODE
from tests.integration.outcomes import outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SETTINGS = (
    'problems.train=["toy:tasks?size=60&seed=1"]',
    "problems.held_out=4",
    "sft.epochs=8",
    "rounds.1.problems=20",
    "rounds.2.problems=6",
    "rounds.3.problems=4",
    "rounds.3.retry_rollouts=[2]",
    "preference.epochs=1",
    "preference.held_out=0.3",
    "gate.samples=2",
    'evaluation.benchmarks=[{source="toy:tasks?size=4&seed=2"}]',
    'evaluation.system=["mcts@2"]',
)


def test_on_a_cluster_it_comes_to_the_same(cluster: Any, tmp_path: Path) -> None:
    asyncio.run(evolve(load_recipe("smoke", SETTINGS), tmp_path / "local"))
    first, second = cluster.add_node(**NODE), cluster.add_node(**NODE)
    try:
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        args = ("smoke", "--run", tmp_path / "far", "--cluster", cluster.address, *settings)
        done = rstar("evolve", *args, "--json", timeout_s=900)
        assert done.returncode == 0, done.stderr
    finally:
        cluster.remove_node(first)
        cluster.remove_node(second)
    assert outcome(tmp_path / "far") == outcome(tmp_path / "local")
