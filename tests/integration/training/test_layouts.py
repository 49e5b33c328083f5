"""Exported files feed the trainers of TRL, and have the layouts that verl and OpenRLHF document."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.errors import ConfigError
from rstar_math.runs.store import RunStore
from tests.integration.test_training_data import made, toy_run
from tests.unit.training.tiny import save_tiny_policy
from tests.unit.training.trees import grown

pytest.importorskip("trl", reason="training needs trl: pip install 'rstar-math[train]'")

from datasets import load_dataset


def export(run: Path, out: Path, *args: str) -> Any:
    """An exported file, read by `datasets`."""
    result = CliRunner().invoke(
        app, ["export", str(run), *args, "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    kind = "parquet" if out.suffix == ".parquet" else "json"
    return load_dataset(kind, data_files=str(out), split="train", cache_dir=str(out.parent / "c"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("run") / "run.rstar", problems=3)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy"))


ONE_STEP: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("kind", ["solutions", "pairs", "outcomes", "scorer", "problems"])
def test_a_trainer_of_trl_takes_a_step_on_the_exported_rows(
    run: Path, policy: str, tmp_path: Path, kind: str, suffix: str
) -> None:
    import trl
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    exported = "pairs" if kind == "scorer" else kind
    args = [f"--{exported}", "--format", suffix]
    rows = export(run, tmp_path / f"rows.{suffix}", *args)
    assert len(rows) > 1
    rows = rows.select(range(min(len(rows), 4)))
    options = {**ONE_STEP, "output_dir": str(tmp_path / "out")}
    common = {"train_dataset": rows, "processing_class": AutoTokenizer.from_pretrained(policy)}
    trainer: Any
    if kind == "solutions":
        trainer = trl.SFTTrainer(policy, args=trl.SFTConfig(**options), **common)
    elif kind == "pairs":
        trainer = trl.DPOTrainer(policy, args=trl.DPOConfig(**options), **common)
    elif kind == "outcomes":
        trainer = trl.KTOTrainer(policy, args=trl.KTOConfig(**options), **common)
    elif kind == "scorer":
        model = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
        trainer = trl.RewardTrainer(model, args=trl.RewardConfig(**options), **common)
    else:
        config = trl.GRPOConfig(**options, num_generations=2, max_completion_length=4)
        seen: list[str] = []

        def reward(completions: list[str], reference: list[str], **_: Any) -> list[float]:
            seen.extend(reference)
            return [float(len(text)) for text in completions]

        trainer = trl.GRPOTrainer(policy, reward, args=config, **common)
    trainer.train()
    assert trainer.state.global_step == 1
    if kind == "problems":
        assert set(seen) <= set(rows["reference"])
        assert seen


def test_problems_and_solutions_in_the_layout_of_verl(run: Path, tmp_path: Path) -> None:
    rows = export(run, tmp_path / "rl.parquet", "--problems", "--layout", "verl")
    assert set(rows.column_names) == {
        "data_source",
        "prompt",
        "ability",
        "reward_model",
        "extra_info",
    }
    row = rows[1]
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    with RunStore.read(run) as store:
        problem = list(store.problems())[1]
    assert row["prompt"][-1]["content"] == problem.question.shown
    assert row["reward_model"] == {"style": "rule", "ground_truth": problem.reference}
    assert (row["data_source"], row["ability"]) == ("toy", "math")
    assert (row["extra_info"]["index"], row["extra_info"]["split"]) == (1, "train")
    solutions = export(run, tmp_path / "sft.parquet", "--solutions", "--layout", "verl")
    row = solutions[0]
    roles = [message["role"] for message in row["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert row["messages"][-1]["content"] == row["response"]
    assert row["messages"][1]["content"] == row["prompt"]


def test_the_layout_of_openrlhf(run: Path, tmp_path: Path) -> None:
    columns = {
        "problems": {"input", "answer", "datasource"},
        "solutions": {"input", "output"},
        "pairs": {"prompt", "chosen", "rejected"},
        "outcomes": {"input", "output", "label"},
    }
    for kind, names in columns.items():
        rows = export(run, tmp_path / f"{kind}.jsonl", f"--{kind}", "--layout", "openrlhf")
        assert set(rows.column_names) == names
        assert len(rows) > 0
    labels = load_dataset(
        "json", data_files=str(tmp_path / "outcomes.jsonl"), cache_dir=str(tmp_path / "c")
    )
    assert set(labels["train"]["label"]) == {True, False}


def test_layouts_that_do_not_exist_are_named(run: Path, tmp_path: Path) -> None:
    for args, word in (
        (("--pairs", "--layout", "verl"), "solutions"),
        (("--trees", "--layout", "verl"), "--trees"),
        (("--problems", "--layout", "verl", "--format", "jsonl"), "Parquet"),
        (("--problems", "--solutions"), "exactly one"),
    ):
        with pytest.raises(ConfigError, match=word):
            CliRunner().invoke(app, ["export", str(run), *args], catch_exceptions=False)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_exported_paths_have_the_values_of_all_scorers(tmp_path: Path, suffix: str) -> None:
    tree = grown({"a": {"a1": "+"}, "b": "-"})
    tree.nodes[1].other_scores = {"prm": 0.25, "ppm": -0.5}
    tree.nodes[2].other_scores = {"prm": 1.0}
    run = made(tmp_path / "run.rstar", {"mcts": tree})
    rows = export(run, tmp_path / f"paths.{suffix}", "--trajectories", "--format", suffix)
    first = next(row for row in rows if row["verdict"] == "right")
    assert [step["other_scores"] for step in first["steps"]] == [
        [{"scorer": "ppm", "value": -0.5}, {"scorer": "prm", "value": 0.25}],
        [{"scorer": "prm", "value": 1.0}],
    ]
