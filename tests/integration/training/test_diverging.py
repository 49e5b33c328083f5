"""A training that diverges ends with an error and writes no model; equal pairs are dropped; and the
way a step is cut into micro-batches, and gradient checkpointing, do not change what is learned."""

from pathlib import Path
from typing import Any

import pytest

from rstar_math.errors import InputError, TrainingError
from rstar_math.training.settings import PolicyTraining, PreferenceTraining
from tests.integration.training.test_policy_training import ROWS as SOLUTIONS
from tests.integration.training.test_preference_training import ROWS as PAIRS
from tests.unit.training.tiny import save_tiny_policy

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

STEPS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "epochs": 2,
    "batch_size": 6,
    "micro_batch_size": 3,
    "bf16": False,
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy")


def train(kind: str, base: Path, out: Path, **settings: Any) -> dict[str, Any]:
    from rstar_math.training.preference import train_preference
    from rstar_math.training.sft import train_policy

    if kind == "policy":
        return train_policy(SOLUTIONS, str(base), out, PolicyTraining(**settings))
    return train_preference(PAIRS[:40], str(base), out, PreferenceTraining(**settings))


@pytest.mark.parametrize("kind", ["policy", "ppm"])
def test_weights_that_are_no_numbers_end_the_training(
    policy: Path, tmp_path: Path, kind: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(policy)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "bad")
    AutoTokenizer.from_pretrained(policy).save_pretrained(tmp_path / "bad")
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match="step 1"):
        train(kind, tmp_path / "bad", out, **STEPS)
    assert not out.exists()


def test_a_training_that_diverges_is_not_gone_on_with_but_begun_anew_with_other_settings(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rstar_math.training import sft as module

    plain, out = module.sparse_loss, tmp_path / "out"
    calls: list[int] = []

    def bursting(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return plain(*args, **kwargs) * (float("inf") if len(calls) == 3 else 1)

    monkeypatch.setattr(module, "sparse_loss", bursting)
    steps = {**STEPS, "micro_batch_size": 6, "save_steps": 1}
    with pytest.raises(TrainingError, match="learning_rate"):
        train("policy", policy, out, **steps)
    assert not out.exists()
    saved = sorted(path.name for path in tmp_path.glob("out.training/checkpoint-*"))
    assert saved == ["checkpoint-1", "checkpoint-2"]
    with pytest.raises(TrainingError, match="learning_rate"):
        train("policy", policy, out, **steps)
    assert len(calls) == 3
    report = train("policy", policy, out, **{**steps, "learning_rate": 1e-3})
    assert report["steps"] == len(report["losses"]) == 4


@pytest.mark.parametrize("kind", ["policy", "ppm"])
@pytest.mark.parametrize("lora", [0, 4])
def test_micro_batches_and_checkpointing_do_not_change_what_is_learned(
    policy: Path, tmp_path: Path, kind: str, lora: int
) -> None:
    ways: list[dict[str, Any]] = [
        {"micro_batch_tokens": 128},
        {"micro_batch_tokens": 100_000},
        {"gradient_checkpointing": True},
    ]
    steps = {**STEPS, "lora_rank": lora}
    wanted = train(kind, policy, tmp_path / "plain", **steps)["losses"]
    for number, way in enumerate(ways):
        found = train(kind, policy, tmp_path / str(number), **steps, **way)["losses"]
        assert [one["loss"] for one in found] == pytest.approx(
            [one["loss"] for one in wanted], abs=2e-4
        )


def test_pairs_with_equal_sides_are_dropped_and_counted(policy: Path, tmp_path: Path) -> None:
    from rstar_math.training.preference import train_preference

    equal = [row.model_copy(update={"rejected": row.chosen}) for row in PAIRS[:3]]
    settings = PreferenceTraining(**STEPS)
    alone = train_preference(PAIRS[:24], str(policy), tmp_path / "a", settings)
    mixed = train_preference([*PAIRS[:24], *equal], str(policy), tmp_path / "b", settings)
    assert (alone["left_out_as_equal"], mixed["left_out_as_equal"]) == (0, 3)
    assert mixed["losses"] == alone["losses"]
    with pytest.raises(InputError, match="equal sides"):
        train_preference(equal, str(policy), tmp_path / "c", settings)


def test_a_preference_model_on_a_base_in_bfloat16_has_its_head_in_float32(
    policy: Path, tmp_path: Path
) -> None:
    from rstar_math.models.loading import load_value_model
    from tests.integration.training.checkpoint import weights

    out = tmp_path / "out"
    over = {
        **STEPS,
        "bf16": True,
        "lora_rank": 4,
        "base_dtype": "bfloat16",
        "epochs": 6,
        "held_out": 0.2,
    }
    report = train("ppm", policy, out, **over)
    assert report["last_loss"] < report["first_loss"] - 0.1
    found = {name: one.dtype for name, one in weights(out).items()}
    assert found.pop("score.weight") == torch.float32
    assert set(found.values()) == {torch.bfloat16}
    load_value_model(str(out))


def test_a_base_in_bfloat16_is_held_so_under_an_adapter(policy: Path, tmp_path: Path) -> None:
    from rstar_math.models.loading import load_policy
    from rstar_math.training.trainer import base_dtype
    from tests.integration.training.checkpoint import weights

    model, tokenizer = load_policy(str(policy), dtype=torch.bfloat16)
    half = tmp_path / "half"
    model.save_pretrained(half)
    tokenizer.save_pretrained(half)
    adapter = PolicyTraining(lora_rank=4, **{**STEPS, "bf16": True})
    assert base_dtype(str(policy), adapter) == torch.float32
    assert base_dtype(str(half), PolicyTraining()) == torch.float32
    forced = adapter.model_copy(update={"base_dtype": "bfloat16"})
    assert base_dtype(str(policy), forced) == torch.bfloat16
    out = tmp_path / "out"
    report = train(
        "policy", half, out, **{**STEPS, "bf16": True}, lora_rank=4, base_dtype="bfloat16"
    )
    assert report["last_loss"] < report["first_loss"]
    assert {one.dtype for one in weights(out).values()} == {torch.bfloat16}
