"""Trained models as GGUF files: llama.cpp gives what transformers gives, and files that do not fit
are refused in a sentence."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.checkpoints.folders import bundled_weights
from rstar_math.checkpoints.gguf_adapters import write_adapter
from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.checkpoints.tensors import read_header
from rstar_math.cli import app
from rstar_math.config import ModelConfig
from rstar_math.errors import ConfigError, InputError, ModelRejectedError
from rstar_math.llm.connect import connect
from rstar_math.llm.local import LocalModel
from rstar_math.ppm.remote import RemotePPM
from rstar_math.training.rows import solution_row
from rstar_math.training.settings import PolicyTraining, PreferenceTraining
from tests.integration.training.test_preference_training import ROWS as PAIRS
from tests.unit.training.tiny import question, save_tiny_policy, solution

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

ROOT = Path(__file__).resolve().parents[3]
TEXT = "Question: What is 4 + 7?\n<code>\n# Name the numbers.\na = 4\nb = 17\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy, and a policy and a preference model that were trained from it with
    LoRA for a few big steps; each as a GGUF file too."""
    from rstar_math.training.preference import train_preference
    from rstar_math.training.sft import train_policy

    root = tmp_path_factory.mktemp("models")
    save_tiny_policy(root / "policy")
    steps: dict[str, Any] = {"learning_rate": 0.03, "max_steps": 3, "bf16": False, "lora_rank": 4}
    rows = [solution_row(question(n), solution(n)) for n in range(8)]
    base = str(root / "policy")
    train_policy(rows, base, root / "tuned", PolicyTraining(batch_size=4, **steps))
    train_preference(PAIRS[:48], base, root / "ppm", PreferenceTraining(batch_size=4, **steps))
    for name in ("policy", "tuned", "ppm"):
        write_gguf(root / name, root / f"{name}.gguf", kind="f32")
    for name in ("tuned", "ppm"):
        write_adapter(root / name, root / f"{name}-adapter.gguf", kind="f32")
    return root


def plain_logprobs(folder: Path, tokens: Sequence[int]) -> Any:
    """What transformers gives for the next token."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)


def furthest(file: Path, folder: Path, adapter: Path | None = None) -> float:
    """The largest difference between llama.cpp's and transformers' log-probabilities of the 40
    likeliest next tokens; asserts that both see the same tokens."""
    from tokenizers import Tokenizer

    async def work() -> tuple[list[int], list[dict[str, Any]]]:
        named = str(adapter) if adapter else None
        config = ModelConfig(url=str(file), concurrency=1, context_tokens=256, adapter=named)
        model = await connect(config)
        assert isinstance(model, LocalModel)
        try:
            post = model._client.post
            told: Any = await post("/tokenize", {"content": TEXT}, outside_v1=True)
            body = {"prompt": TEXT, "n_predict": 1, "n_probs": 40, "temperature": 0}
            said: Any = await post("/completion", body, outside_v1=True)
            return told["tokens"], said["completion_probabilities"][0]["top_logprobs"]
        finally:
            await model.aclose()

    tokens, found = asyncio.run(work())
    assert tokens == Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    plain = plain_logprobs(folder, tokens)
    return max(abs(float(entry["logprob"]) - float(plain[entry["id"]])) for entry in found)


def test_a_policy_s_file_gives_what_transformers_gives(models: Path, tmp_path: Path) -> None:
    assert furthest(models / "policy.gguf", models / "policy") < 1e-2
    assert furthest(models / "tuned.gguf", models / "tuned") < 1e-2
    small = write_gguf(models / "tuned", tmp_path / "small.gguf")
    assert furthest(small, models / "tuned") < 0.2
    assert small.stat().st_size < 0.5 * (models / "tuned.gguf").stat().st_size


def test_an_adapter_on_its_base_is_the_merged_model(models: Path, tmp_path: Path) -> None:
    base, adapter = models / "policy.gguf", models / "tuned-adapter.gguf"
    assert furthest(base, models / "tuned", adapter) < 1e-2
    assert furthest(base, models / "tuned") > 0.1
    half = write_adapter(models / "tuned", tmp_path / "half.gguf")
    assert furthest(base, models / "tuned", half) < 2e-2
    assert half.stat().st_size < 0.7 * adapter.stat().st_size


def test_qwen2_is_written_too(models: Path, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    told = json.loads((models / "policy" / "config.json").read_text())
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "eos_token_id")
    config = Qwen2Config(
        **{key: told[key] for key in keys}, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=False, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(5)
    model = Qwen2ForCausalLM(config)
    for name, bias in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(bias)
    model.save_pretrained(tmp_path / "qwen")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models / "policy" / name, tmp_path / "qwen")
    file = write_gguf(tmp_path / "qwen", tmp_path / "qwen.gguf", kind="f32")
    assert furthest(file, tmp_path / "qwen") < 1e-2


def test_the_command_writes_what_the_library_writes(models: Path, tmp_path: Path) -> None:
    def call(*args: object) -> dict[str, Any]:
        result = CliRunner().invoke(app, ["deploy", *map(str, args), "--json"])
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    whole, light = tmp_path / "whole.gguf", tmp_path / "light.gguf"
    assert call(models / "ppm", "--out", whole, "--kind", "f32")["kind"] == "ppm"
    assert whole.read_bytes() == (models / "ppm.gguf").read_bytes()
    assert call(models / "tuned", "--out", light, "--adapter")["bytes"] == light.stat().st_size
    assert read_header(light).metadata["rstar.base"] == str(models / "policy")
    with pytest.raises(ConfigError, match="rename it"):
        CliRunner().invoke(app, ["deploy", "x", "--out", "y"], catch_exceptions=False)


def test_the_measuring_command_takes_either(models: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "preference.jsonl"
    pairs.write_text("".join(row.model_dump_json() + "\n" for row in PAIRS[:12]))
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"id": "1", "problem": "?", "steps": ["a", "b"], "label": -1}))
    found = []
    for place, more in (
        ("ppm", ()),
        ("ppm.gguf", ()),
        ("ppm-adapter.gguf", ("--base", str(models / "policy.gguf"))),
    ):
        args = [
            "eval-ppm",
            str(models / place),
            "--pairs",
            str(pairs),
            "--include-training-problems",
            *more,
        ]
        result = CliRunner().invoke(app, [*args, "--processbench", str(bench), "--json"])
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout)["pairs"])
    assert found[0]["pairs"] == found[1]["pairs"] == found[2]["pairs"] == 12
    for other in found[1:]:
        assert other["calibration_error"] == pytest.approx(found[0]["calibration_error"], abs=1e-2)
    args = ["eval-ppm", str(models / "ppm.gguf"), "--pairs", str(pairs)]
    with pytest.raises(InputError, match="add --include-training-problems"):
        CliRunner().invoke(app, args, catch_exceptions=False)


def test_what_cannot_be_written_is_a_sentence(models: Path, tmp_path: Path) -> None:
    def refused(folder: Path, match: str) -> None:
        with pytest.raises(InputError, match=match):
            write_gguf(folder, tmp_path / "out.gguf")
        assert not (tmp_path / "out.gguf").exists()

    def altered(name: str, **config: object) -> Path:
        shutil.copytree(models / "policy", tmp_path / name)
        told = json.loads((models / "policy" / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(told | config))
        return tmp_path / name

    refused(tmp_path / "nowhere", "no checkpoint")
    refused(altered("other", model_type="gpt2"), "family gpt2")
    refused(altered("scaled", rope_parameters={"rope_type": "dynamic"}), "scaled by dynamic")
    refused(altered("deeper", num_hidden_layers=3), "lacks model.layers.2")
    refused(altered("shallower", num_hidden_layers=1), "has model.layers.1")
    refused(altered("scorer", architectures=["LlamaForSequenceClassification"]), "no value head")
    torn = altered("torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:-9])
    refused(torn, "damaged")
    words = altered("words")
    told = json.loads((words / "tokenizer.json").read_text())
    (words / "tokenizer.json").write_text(
        json.dumps(told | {"pre_tokenizer": {"type": "Whitespace"}})
    )
    refused(words, "splits text")
    with pytest.raises(InputError, match="without LoRA"):
        write_adapter(models / "policy", tmp_path / "out.gguf")
    with pytest.raises(InputError, match="exists already"):
        write_gguf(models / "policy", models / "policy.gguf")


def test_files_that_do_not_fit_are_refused(models: Path, tmp_path: Path) -> None:
    def refused(match: str, url: Path, adapter: Path | None = None) -> None:
        config = ModelConfig(url=str(url), concurrency=1, adapter=str(adapter) if adapter else None)
        with pytest.raises((InputError, ModelRejectedError), match=match):
            asyncio.run(connect(config))

    policy, ppm, lora = (models / f"{x}.gguf" for x in ("policy", "ppm", "tuned-adapter"))
    refused("is a preference model, not a policy", ppm)
    refused("is an adapter", lora)
    refused("is a complete model, not an adapter", policy, policy)
    refused("belongs to a preference model", policy, models / "ppm-adapter.gguf")
    other = write_gguf(save_tiny_policy(tmp_path / "wide", size=64), tmp_path / "wide.gguf")
    refused("trained on another model", other, lora)
    refused("trained on another model", bundled_weights(), lora)
    for length in (3, 40, 4000, policy.stat().st_size - 20_000):
        torn = tmp_path / "torn.gguf"
        torn.write_bytes(policy.read_bytes()[:length])
        refused("not a GGUF|damaged|incomplete|cannot load", torn)
    for file, match in (
        (policy, "no value head"),
        (lora, "no value head"),
        (tmp_path / "none.gguf", "There is no file"),
        (torn, "damaged|incomplete"),
    ):
        with pytest.raises(InputError, match=match):
            RemotePPM.load(file)
    with pytest.raises(InputError, match="trained on another model"):
        RemotePPM.load(models / "ppm-adapter.gguf", base=str(other))
    with pytest.raises(ConfigError, match="for the embedded model only"):
        asyncio.run(connect(ModelConfig(url="http://127.0.0.1:9/v1", adapter=str(lora))))


LIMITED = """
import resource, sys
from rstar_math.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
main()
"""


@pytest.mark.parametrize("room", [100, 30_000])
def test_a_full_disk_is_a_sentence_and_leaves_no_file(
    models: Path, tmp_path: Path, room: int
) -> None:
    args = [str(room), "deploy", str(models / "policy"), "--out", str(tmp_path / "out.gguf")]
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, *args], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("rstar: ")
    assert "out.gguf cannot be written (File too large)" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_training_and_engine_cut_text_alike_for_the_embedded_model() -> None:
    import random

    from rstar_math.llm.client import tokenize
    from rstar_math.models.loading import load_tokenizer

    tokenizer, rng = load_tokenizer("local"), random.Random(0)
    pieces = [
        "  ",
        "\n",
        " ",
        "3",
        "12",
        "x",
        "= ",
        "total",
        "\n\n",
        "    ",
        "é",
        "½",
        "'ll",
        "...",
    ]
    texts = ["".join(rng.choices(pieces, k=12)) for _ in range(100)]

    async def work() -> list[tuple[int, ...]]:
        model = await connect(ModelConfig(concurrency=1, context_tokens=256))
        assert isinstance(model, LocalModel)
        try:
            return [await tokenize(model._client, text) for text in texts]
        finally:
            await model.aclose()

    assert asyncio.run(work()) == [tuple(tokenizer(text).input_ids) for text in texts]
