"""`rstar train` and `rstar eval-ppm` from files to figures, on a tiny model."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.config import SearchConfig
from rstar_math.errors import ConfigError, InputError, TrainingError
from rstar_math.runs.store import RunStore
from rstar_math.search import Choice, SearchComponents, Tree, sample_chains
from rstar_math.testing import ToyWorld
from rstar_math.training.rows import solution_row
from tests.integration.training.test_preference_training import ROWS
from tests.unit.training.tiny import question, save_tiny_policy, solution

pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

FAST = ["--set", "learning_rate=3e-3", "--set", "batch_size=8", "--set", "bf16=false"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy"))


def call(*args: str) -> dict[str, object]:
    result = CliRunner().invoke(app, [*args, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_policy_from_a_curated_folder_and_from_annotated_problems(
    policy: str, tmp_path: Path
) -> None:
    rows = [solution_row(question(n), solution(n)) for n in range(8)]
    (tmp_path / "sft.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    out = tmp_path / "policy"
    report = call("train", "policy", str(tmp_path), "--base", policy, "--out", str(out), *FAST)
    assert report["solutions"] == 8
    assert (out / "rstar.json").is_file()

    problems = [
        {"problem": f"{n} and 5?", "solution": f"<<{n}+5={n + 5}>>\n#### {n + 5}", "answer": n + 5}
        for n in range(6)
    ]
    file = tmp_path / "problems.jsonl"
    file.write_text("\n".join(map(json.dumps, [*problems, {**problems[0], "solution": "?"}])))
    args = ("--annotated", "--base", policy, "--out", str(tmp_path / "second"))
    assert call("train", "policy", str(file), *args, *FAST)["solutions"] == 6


def test_a_ppm_is_trained_and_measured(policy: str, tmp_path: Path) -> None:
    pairs = tmp_path / "preference.jsonl"
    pairs.write_text("".join(row.model_dump_json() + "\n" for row in ROWS))
    out = str(tmp_path / "ppm")
    args = ("--base", policy, "--out", out, "--set", "epochs=12", "--set", "held_out=0.3")
    trained = call("train", "ppm", str(tmp_path), *args, *FAST)
    bench = tmp_path / "bench.jsonl"
    lines = [
        {"id": str(n), "problem": "1 + 1?", "steps": ["Add.", f"It is {n}."], "label": n % 2 - 1}
        for n in range(6)
    ]
    bench.write_text("\n".join(map(json.dumps, lines)))
    found = call("eval-ppm", out, "--pairs", str(pairs), "--processbench", str(bench))
    ranked = found["pairs"]
    assert isinstance(ranked, dict)
    held = trained["held_out"]
    assert isinstance(held, dict)
    assert ranked["pairs"] == held["pairs"]
    assert ranked["accuracy"] == pytest.approx(held["accuracy"], abs=0.02)
    assert found["processbench"][str(bench)]["solutions"] == 6  # type: ignore[index]
    everything = call("eval-ppm", out, "--pairs", str(pairs), "--include-training-problems")[
        "pairs"
    ]
    assert everything["pairs"] == len(ROWS)  # type: ignore[index]


def test_what_is_missing_is_said(policy: str, tmp_path: Path) -> None:
    def fails(*args: str) -> None:
        CliRunner().invoke(app, [*args], catch_exceptions=False)

    with pytest.raises(InputError, match="rstar curate"):
        fails("train", "ppm", str(tmp_path), "--out", str(tmp_path / "x"))
    (tmp_path / "sft.jsonl").write_text('{"prompt": 3}\n')
    with pytest.raises(InputError, match=r"line 1.*prompt"):
        fails("train", "policy", str(tmp_path), "--out", str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="epochs"):
        fails("train", "policy", str(tmp_path), "--out", "x", "--set", "epochs=-1")
    with pytest.raises(InputError, match="No data to evaluate on"):
        fails("eval-ppm", policy)


def test_choosing_by_a_ppm_is_held_against_votes_on_the_same_samples(
    policy: str, tmp_path: Path
) -> None:
    from rstar_math.models.loading import load_value_model

    model, tokenizer = load_value_model(policy, fresh=True)
    model.save_pretrained(tmp_path / "ppm")
    tokenizer.save_pretrained(tmp_path / "ppm")
    world, run = ToyWorld(steps=2), tmp_path / "sampled.rstar"
    with RunStore.open(run, {"model.name": "toy"}) as store:
        store.add_problems(problems := world.problems(5))
        for problem in problems:
            tree = Tree(problem.question)
            parts = SearchComponents(world.policy, world.executor)
            asyncio.run(sample_chains(tree, 4, parts=parts, config=SearchConfig()))
            store.save("sc@4", tree, Choice(None, None, 0.0, {}))
    found: Any = call("eval-ppm", str(tmp_path / "ppm"), "--run", str(run))["choosing"]
    assert (found["problems"], found["strategy"]) == (5, "sc@4")
    assert found["scorer_tokens"] > 0
    weighted = found["against_majority"]["weighted vote"]
    # Its head is zero, so that all values are equal and weights change nothing.
    assert (weighted["difference"], weighted["p"]) == (0, 1)
    shown = CliRunner().invoke(app, ["eval-ppm", str(tmp_path / "ppm"), "--run", str(run)])
    assert "no evidence that selection by weighted vote beats" in " ".join(shown.output.split())
    with pytest.raises(InputError, match=r"sc@4\. Select one with --strategy"):
        call("eval-ppm", str(tmp_path / "ppm"), "--run", str(run), "--strategy", "mcts")


def test_a_folder_without_pairs_says_what_it_has(policy: str, tmp_path: Path) -> None:
    from rstar_math.training.curation import Curated, CurationConfig
    from rstar_math.training.dataset import DatasetSource, write_folder

    write_folder(tmp_path / "data", Curated(), DatasetSource("r", "0", {}, ()), CurationConfig())
    with pytest.raises(InputError, match="has no preference data in JSONL"):
        call("train", "ppm", str(tmp_path / "data"), "--base", policy, "--out", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_an_estimate_loads_no_weights_and_writes_nothing(policy: str, tmp_path: Path) -> None:
    rows = [solution_row(question(n), solution(n)) for n in range(8)]
    (tmp_path / "sft.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    (tmp_path / "preference.jsonl").write_text(
        "".join(row.model_dump_json() + "\n" for row in ROWS)
    )
    bare = tmp_path / "bare"
    shutil.copytree(policy, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    for kind in ("policy", "ppm"):
        for base in (policy, str(bare)):
            args = ("train", kind, str(tmp_path), "--base", base, "--estimate")
            found: Any = call(*args, "--set", "lora_rank=4", "--set", "micro_batch_tokens=512")
            assert found["fits"]
            need = dict(found["need"])
            assert need.pop("total") == sum(need.values())
            size = found["micro_batch"]
            assert size["rows"] * size["tokens"] <= 512
    shown = CliRunner().invoke(app, ["train", "policy", str(tmp_path), "--estimate"])
    assert "The training " in shown.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bare",
        "preference.jsonl",
        "sft.jsonl",
    ]
    with pytest.raises(ConfigError, match="--out"):
        CliRunner().invoke(app, ["train", "policy", str(tmp_path)], catch_exceptions=False)


def test_a_training_that_cannot_fit_is_refused_before_weights_are_read(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rstar_math.training import memory
    from rstar_math.training import sft as trainer

    rows = [solution_row(question(n), solution(n)) for n in range(8)]
    (tmp_path / "sft.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    monkeypatch.setattr(memory, "free_memory", lambda: (10**9, "memory"))
    monkeypatch.setattr(trainer, "load_policy", lambda *args, **kwargs: pytest.fail("loaded"))
    args = ["train", "policy", str(tmp_path), "--base", policy, "--out", str(tmp_path / "out")]
    with pytest.raises(TrainingError, match="memory is free"):
        CliRunner().invoke(app, args, catch_exceptions=False)
    assert not (tmp_path / "out").exists()
