"""Checkpoints whose files are of another kind than their names say: one sentence each, from every
part that reads a checkpoint, and nothing is left of the attempt."""

import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rstar_math.checkpoints.folders import read_notes
from rstar_math.checkpoints.gguf_adapters import write_adapter
from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.checkpoints.value_heads import ValueHead
from rstar_math.checkpoints.vllm_export import write_int8, write_peft_adapter
from rstar_math.errors import InputError, RstarError
from rstar_math.llm.local import TransformersModel
from rstar_math.models.loading import load_policy, load_probe, load_value_model, save_probe
from rstar_math.ppm.scorer import LocalPPM
from rstar_math.training.memory import read_model_shape
from tests.e2e.rstar import rstar
from tests.unit.training.tiny import save_tiny_policy

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

CONTENTS = {
    "empty": b"",
    "list": b"[1]",
    "text": b'"a"',
    "null": b"null",
    "object": b"{}",
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
}
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"),
    *("model.safetensors.index.json", "generation_config.json", "rstar.json"),
)
WRONG: tuple[Any, ...] = (None, 1e308, "x", [1], {"a": 1})
TOKENIZER_KEYS = ("model", "added_tokens", "pre_tokenizer", "normalizer", "post_processor")
MODEL_KEYS = ("type", "vocab", "merges")
SETTING_KEYS = ("eos_token", "chat_template", "tokenizer_class", "model_max_length", "auto_map")
CONFIG_KEYS = (
    *("model_type", "architectures", "num_hidden_layers", "head_dim", "rope_parameters"),
    *("quantization_config", "dtype", "layer_types", "num_attention_heads", "hidden_act"),
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy and a preference model."""
    root = tmp_path_factory.mktemp("good")
    save_tiny_policy(root / "policy")
    model, tokenizer = load_value_model(str(root / "policy"), fresh=True)
    model.save_pretrained(root / "ppm")
    tokenizer.save_pretrained(root / "ppm")
    return root


def set_json(folder: Path, file: str, keys: tuple[str, ...], value: Any) -> None:
    content = json.loads((folder / file).read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (folder / file).write_text(json.dumps(content))


def readers(folder: Path, out: Path, kind: str) -> list[Callable[[], object]]:
    """Everything that reads a checkpoint: training, search, serving, scoring and export."""
    if kind == "policy":
        return [
            lambda: load_policy(str(folder)),
            lambda: TransformersModel.load(str(folder)),
            lambda: read_model_shape(str(folder)),
            lambda: write_gguf(folder, out / "policy.gguf"),
            lambda: write_int8(folder, out / "int8"),
        ]
    return [
        lambda: LocalPPM.load(folder),
        lambda: ValueHead.load(folder),
        lambda: write_gguf(folder, out / "ppm.gguf"),
    ]


def faults(good: Path, tmp_path: Path, kind: str, change: Callable[[Path], None]) -> int:
    """How many readers refuse a changed checkpoint; any other error than a sentence fails."""
    folder, out = tmp_path / kind, tmp_path / "out"
    for path in (folder, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(good / kind, folder)
    out.mkdir()
    change(folder)
    sentences = []
    for read in readers(folder, out, kind):
        try:
            read()
        except RstarError as error:
            sentences.append(str(error))
    refused = len(sentences)
    assert "\n" not in "".join(sentences)
    assert not list(out.glob(".*"))
    assert len(list(out.iterdir())) <= len(readers(folder, out, kind)) - refused
    return refused


@pytest.mark.parametrize("kind", ["policy", "ppm"])
def test_files_of_another_kind(good: Path, tmp_path: Path, kind: str) -> None:
    assert faults(good, tmp_path, kind, lambda folder: None) == 0
    for name in FILES:
        for label, content in CONTENTS.items():

            def write(folder: Path, name: str = name, content: bytes = content) -> None:
                (folder / name).write_bytes(content)

            refused = faults(good, tmp_path, kind, write)
            if name in ("config.json", "rstar.json"):
                assert refused, (name, label)
            elif name == "tokenizer.json":
                assert refused >= 1, (name, label)


@pytest.mark.parametrize("kind", ["policy", "ppm"])
@pytest.mark.parametrize(
    ("file", "prefix", "keys"),
    [
        ("tokenizer.json", (), TOKENIZER_KEYS),
        ("tokenizer.json", ("model",), MODEL_KEYS),
        ("tokenizer_config.json", (), SETTING_KEYS),
        ("config.json", (), CONFIG_KEYS),
    ],
    ids=["tokenizer", "its model", "its settings", "config"],
)
def test_values_of_another_kind(
    good: Path, tmp_path: Path, kind: str, file: str, prefix: tuple[str, ...], keys: tuple[str, ...]
) -> None:
    refused = 0
    for key in keys:
        for value in WRONG:

            def change(folder: Path, key: str = key, value: Any = value) -> None:
                set_json(folder, file, (*prefix, key), value)

            refused += faults(good, tmp_path, kind, change)
    assert refused > len(keys)


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_file_of_a_gigabyte_is_not_read(good: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(good / "policy", tmp_path / "policy")
    os.truncate(folder / name, 1 << 30)  # sparse
    for read in readers(folder, tmp_path, "policy"):
        assert "larger than" in refusal(read)


def test_models_of_other_pipelines(tmp_path: Path) -> None:
    other = {
        "t5": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        "unknown": {"model_type": "nobody-knows", "architectures": ["NobodyKnows"]},
        "vision": {"model_type": "clip", "architectures": ["CLIPModel"]},
        "speech": {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]},
    }
    for name, config in other.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        for read in readers(tmp_path / name, tmp_path, "policy"):
            with suppress(RstarError):
                # The shape of a speech model can be estimated from its config; nothing else works.
                assert (name, type(read()).__name__) == ("speech", "ModelShape")
    (tmp_path / "diffusion").mkdir()
    (tmp_path / "diffusion" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "not a checkpoint" in refusal(lambda: load_policy(str(tmp_path / "diffusion")))


def test_an_adapter_does_not_fetch_the_base_that_it_names(good: Path, tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "a/b"}
    folder = shutil.copytree(good / "policy", tmp_path / "policy")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    for read in (*readers(folder, tmp_path, "policy"), lambda: read_notes(folder)):
        assert "is an adapter" in refusal(read)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b'{"r": "x", "lora_alpha": 1}', b"\xff"])
def test_damaged_settings_of_an_adapter(good: Path, tmp_path: Path, content: bytes) -> None:
    folder = shutil.copytree(good / "policy", tmp_path / "policy")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_bytes(content)
    shutil.copy(folder / "model.safetensors", folder / "adapter" / "adapter_model.safetensors")
    refusal(lambda: write_adapter(folder, tmp_path / "a.gguf"))
    refusal(lambda: write_peft_adapter(folder, tmp_path / "peft"))
    assert not (tmp_path / "a.gguf").exists()
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize(
    "head",
    [
        torch.zeros(1, 7),
        torch.zeros(32),
        torch.zeros(2, 32),
        torch.zeros(1, 32, 1),
        torch.full((1, 32), math.nan),
    ],
    ids=["short", "flat", "two outputs", "three dimensions", "not a number"],
)
def test_value_heads_of_another_shape(good: Path, tmp_path: Path, head: Any) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(good / "ppm", tmp_path / "ppm")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = head
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refusal(lambda: write_gguf(folder, tmp_path / "ppm.gguf"))
    if head.shape != (1, 7) and not head.isnan().any():
        refusal(lambda: ValueHead.load(folder))
    if head.shape != (1, 32):
        refusal(lambda: LocalPPM.load(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"layers": "x"},
        {"layers": [99]},
        {"layers": []},
        {"hidden": 10**12},
        {"hidden": None},
        {"size": 5},
        {"depth": "x"},
        {"base": "there/is/no/such"},
    ],
)
def test_probes_of_another_shape(good: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    about = {"base": str(good / "policy"), "layers": [-1], "hidden": 0, "size": 32, "depth": 2}
    folder = tmp_path / "probe"
    folder.mkdir()
    save_probe(folder, torch.nn.Linear(32, 1), about)
    load_probe(folder)
    (folder / "config.json").write_text(json.dumps({**about, **change}))
    refusal(lambda: load_probe(folder))


def test_the_commands_print_the_sentence(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good / "policy", tmp_path / "policy")
    (folder / "tokenizer.json").write_text("[1]")
    rows = tmp_path / "sft.jsonl"
    rows.write_text(json.dumps({"problem": "p", "question": "q", "steps": []}) + "\n")
    for command in (
        ("deploy", folder, "--out", tmp_path / "x.gguf"),
        ("solve", "--model", folder, "What is 1 + 1?"),
        ("serve", "--model", folder, "--port", "0"),
    ):
        done = rstar(*command)  # fails for a traceback
        assert done.returncode, command
        assert str(folder) in done.stderr.replace("\n", ""), command
