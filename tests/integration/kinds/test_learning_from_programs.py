"""A round of an evolution learns from code problems: its data, its preference model, its gate."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="training needs trl: pip install 'rstar-math[train]'")

from rstar_math.config import load_config
from rstar_math.config.sections import GradingConfig
from rstar_math.evolution.gates import rerank
from rstar_math.evolution.manifest import ManifestStore
from rstar_math.evolution.recipe import load_recipe
from rstar_math.evolution.stages import write_training_data
from rstar_math.runs.results import run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import parse_strategy
from rstar_math.solver.solver import Solver
from rstar_math.testing import ScriptedCompleter
from rstar_math.training.preference import train_preference
from rstar_math.training.rows import PreferenceRow, read_rows
from rstar_math.training.settings import PreferenceTraining
from rstar_math.types import Verdict
from tests.integration.kinds.test_kinds_in_a_search import DOUBLE, coder
from tests.unit.training.tiny import save_tiny_policy


def search(path: Path, strategy: str, *, guided: bool, ppm: Path | None = None) -> None:
    """Search the code problem with the scripted model, and store the tree."""
    settings = ["search.rollouts=6", "search.candidates=6"]
    if ppm is not None:
        settings += ["search.scorer=ppm", f"search.ppm=hf:{ppm}"]
    config = load_config(None, settings)

    async def work() -> None:
        async with Solver(config, model=ScriptedCompleter(coder)) as solver:
            [(_, found)] = [s async for s in solver.map([DOUBLE], strategy, guided=guided)]
            if ppm is not None:
                values = {node.score for node in found.tree.nodes[1:]}
                assert len(values) > 1
                assert found.answer is not None
            verdict = await solver.judge(found.answer, DOUBLE)
        with RunStore.open(path, run_conditions(config, guided=guided)) as store:
            store.add_problems([DOUBLE])
            store.save(parse_strategy(strategy).name, found.tree, found.choice, verdict)

    asyncio.run(work())


def test_a_round_learns_from_programs(tmp_path: Path) -> None:
    guided, samples = tmp_path / "guided.rstar", tmp_path / "samples.rstar"
    search(guided, "mcts@6", guided=True)
    search(samples, "sc@12", guided=False)
    recipe = load_recipe("smoke", ('train_on="current_round"',))
    run = tmp_path / "run"
    with ManifestStore.open(run, recipe.model_dump(mode="json")) as manifests:
        (run / "round-2").mkdir()
        found = asyncio.run(write_training_data(manifests, recipe, 2, [guided]))
        assert found["solutions"] >= 1
        assert found["pairs"] >= 1
        rows = read_rows(manifests.path("round-2", "pairs.jsonl"), PreferenceRow)
    assert all("double(2) returns 4" in row.question for row in rows)
    base = tmp_path / "base"
    save_tiny_policy(base)
    settings = PreferenceTraining(max_steps=1, batch_size=2, micro_batch_size=2, bf16=False)
    train_preference(rows, str(base), tmp_path / "ppm", settings)
    search(tmp_path / "scored.rstar", "mcts@2", guided=False, ppm=tmp_path / "ppm")
    chosen = asyncio.run(rerank(samples, "sc@12", [DOUBLE], None, GradingConfig()))
    assert chosen.oracle == {DOUBLE.id: True}
    with RunStore.read(samples) as store:
        (result,) = store.results("sc@12")
    assert (result.verdict is Verdict.RIGHT) == chosen.majority[DOUBLE.id]
