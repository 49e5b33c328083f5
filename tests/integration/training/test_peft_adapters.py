"""Adapters as folders for vLLM: PEFT loads them on their base, and what vLLM does not load is
refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.checkpoints.vllm_export import write_peft_adapter
from rstar_math.cli import app
from rstar_math.errors import ConfigError, InputError
from tests.integration.training.families import save_adapted, save_tiny

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy of Qwen2, and one and a preference model that have an adapter of
    it."""
    root = tmp_path_factory.mktemp("peft")
    save_tiny(root / "policy", "qwen2")
    save_adapted(root / "policy", root / "tuned")
    save_adapted(root / "policy", root / "ppm", scorer=True)
    return root


def logits(model: Any) -> Any:
    with torch.inference_mode():
        return model.eval()(torch.arange(5, 40)[None]).logits


def test_the_folder_on_its_base_is_the_merged_model(made: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    written = write_peft_adapter(made / "tuned", tmp_path / "adapter")
    assert (written.base, written.rank) == (str(made / "policy"), 4)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    merged = logits(AutoModelForCausalLM.from_pretrained(made / "tuned"))
    assert (logits(base) - merged).abs().max() > 0.1
    found = logits(PeftModel.from_pretrained(base, tmp_path / "adapter"))
    assert (found - merged).abs().max() < 1e-3


def test_what_vllm_does_not_load_is_refused(made: Path, tmp_path: Path) -> None:
    def refused(folder: Path, match: str) -> None:
        with pytest.raises(InputError, match=match):
            write_peft_adapter(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def altered(name: str, **config: object) -> Path:
        shutil.copytree(made / "tuned", tmp_path / name)
        file = tmp_path / name / "adapter" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return tmp_path / name

    refused(made / "policy", "without LoRA")
    refused(made / "ppm", "runner pooling")
    refused(altered("dora", use_dora=True), "use_dora")
    refused(altered("whole", modules_to_save=["lm_head"]), "modules_to_save")
    refused(altered("patterns", rank_pattern={"q_proj": 2}), "rank_pattern")
    refused(altered("torn", r=None), "damaged")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        write_peft_adapter(made / "tuned", tmp_path / "there")


def test_the_command_says_how_the_folder_is_served(made: Path, tmp_path: Path) -> None:
    def call(*args: object) -> str:
        result = CliRunner().invoke(app, ["deploy", *map(str, args)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    peft = ("--adapter", "--format", "peft")
    told = " ".join(call(made / "tuned", *peft, "--out", tmp_path / "mine").split())
    assert "--lora-modules mine=" in told
    assert "--max-lora-rank" not in told
    large = save_adapted(made / "policy", tmp_path / "large", rank=20)
    assert "--max-lora-rank 32" in " ".join(call(large, *peft, "--out", tmp_path / "b").split())
    found = json.loads(call(large, *peft, "--out", tmp_path / "c", "--json"))
    assert (found["format"], found["rank"]) == ("peft", 20)
    for args in (
        (made / "tuned", "--format", "peft", "--out", tmp_path / "d"),
        (made / "tuned", *peft, "--out", tmp_path / "d.gguf"),
        (made / "tuned", *peft, "--kind", "f16", "--out", tmp_path / "d"),
    ):
        with pytest.raises(ConfigError):
            call(*args)
    assert not (tmp_path / "d").exists()
