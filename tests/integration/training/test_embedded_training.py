"""`rstar train` from the embedded model for real: SmolLM2-135M, read from its GGUF file."""

import asyncio
from pathlib import Path

import pytest

from rstar_math.checkpoints.folders import bundled_adapter, read_notes
from rstar_math.config import Config, load_config
from rstar_math.evolution.manifest import ManifestStore
from rstar_math.evolution.pipeline import evolve
from rstar_math.evolution.recipe import load_recipe
from rstar_math.evolution.report import evolution_state
from rstar_math.models.embedded import weights_file
from rstar_math.models.loading import bundled_checkpoint, load_policy
from rstar_math.ppm.remote import load_scorer
from rstar_math.training.rows import solution_row
from rstar_math.types import Question, Step
from tests.integration.training.test_preference_training import pairs
from tests.integration.training.test_training_cli import call
from tests.unit.training.tiny import question, solution

pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

pytestmark = pytest.mark.slow

BRIEF = ["--set", "max_steps=2", "--set", "batch_size=2", "--set", "micro_batch_size=2"]


def test_a_policy_and_a_ppm_start_from_the_embedded_model(tmp_path: Path) -> None:
    rows = [solution_row(question(n), solution(n)) for n in range(4)]
    (tmp_path / "sft.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    few = [row for n in range(4) for row in pairs(n)]
    (tmp_path / "preference.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in few))
    policy, ppm = tmp_path / "policy", tmp_path / "ppm"
    trained = call("train", "policy", str(tmp_path), "--out", str(policy), *BRIEF)
    assert trained["steps"] == 2
    assert 0 < float(str(trained["last_loss"])) < 5
    assert read_notes(policy)["base"] == "local"
    judged = call("train", "ppm", str(tmp_path), "--base", str(policy), "--out", str(ppm), *BRIEF)
    assert judged["steps"] == 2
    assert float(str(judged["first_loss"])) == pytest.approx(0.6931, abs=1e-3)
    file = str(tmp_path / "preference.jsonl")
    found = call(
        "eval-ppm", str(ppm), "--pairs", file, "--include-training-problems", "--limit", "2"
    )["pairs"]
    assert found["pairs"] == 2  # type: ignore[index]
    ours = call(
        "eval-ppm", "hf:trained", "--pairs", file, "--include-training-problems", "--limit", "2"
    )["pairs"]
    assert ours["pairs"] == 2  # type: ignore[index]


def test_training_can_go_on_from_what_this_package_taught_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RSTAR_CACHE", str(tmp_path))
    folder = bundled_checkpoint()
    assert read_notes(folder)["base"] == "local"
    (folder / "model.safetensors").write_bytes(b"cut short")
    assert bundled_checkpoint() == folder, "what is damaged is written anew"
    assert "GGUF" not in capfd.readouterr().err, "a bar of transformers"
    models = (load_policy(base)[0] for base in ("trained", str(weights_file("trained")), "local"))
    here, merged, before = (dict(model.named_parameters()) for model in models)
    moved = 0
    for name, weights in here.items():
        size = float(weights.detach().abs().max())
        assert weights.allclose(merged[name], atol=0.005 * size), name
        moved += not weights.allclose(before[name], atol=0.02 * size)
    assert moved > 50, "what was learned is more than rounding"


def test_the_packages_preference_model_gives_the_same_values_in_llama_cpp_and_here() -> None:
    asked = Question("1", "Tom has 5 apples and buys 7 more. How many apples has he?")
    codes = ["x = 5 + 7", "x = 5 - 7", "x = 7", "x = 5 * 7 * 5 * 7\nprint(x)"]
    steps = [(Step(prose="# Tom buys apples.\n", code=f"{code}\n"),) for code in codes]

    async def values(config: Config) -> list[float]:
        scorer = await load_scorer(config)
        try:
            return await scorer.score(asked, steps)
        finally:
            await scorer.aclose()

    settings = ["search.scorer=ppm", "search.ppm={}"]
    here, there = (
        asyncio.run(values(load_config(settings=[one.format(place) for one in settings])))
        for place in ("hf:trained", "trained")
    )
    assert here == pytest.approx(there, abs=0.03), "there the weights are Q8_0"
    assert len(set(here)) == len(codes)


RECIPE = """
base = "trained"
start = "policy"
first = false

[problems]
train = ["stories:words?size=30"]
held_out = 2

[[rounds]]
problems = 6
max_solution_steps = 2
rollouts = 4
candidates = 4
scorer = false

[model]
concurrency = 16
context_tokens = 512

[policy]
temperature = 0.8
max_step_tokens = 64
answer_samples = 1

[search]
max_depth = 8

[sft]
lora_rank = 4
learning_rate = 1e-4
max_steps = 2
batch_size = 2
micro_batch_size = 2

[preference]
lora_rank = 4
max_steps = 2
batch_size = 2
micro_batch_size = 2

[gate]
samples = 2
"""


def test_an_evolution_goes_on_from_what_is_shipped_and_says_which(tmp_path: Path) -> None:
    source = tmp_path / "recipe.toml"
    source.write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe(str(source))
    run = tmp_path / "run"
    asyncio.run(evolve(recipe, run))
    with ManifestStore.read(run) as manifests:
        found = evolution_state(manifests)
        assert found.complete
        first = found.rounds[1]
        assert first.searched == 6
        assert first.solved >= 1, "the shipped policy solves easy stories, asked by its own prompt"
        assert read_notes(run / "round-1" / "policy")["base"] == str(bundled_checkpoint())
        with bundled_adapter("policy") as (_, mark):
            inputs = {one["stage"]: one["inputs"] for one in manifests.all()}
            assert inputs["1/policy"]["from"] == f"base trained {mark}"
