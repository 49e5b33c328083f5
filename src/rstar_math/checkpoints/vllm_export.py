"""Folders for vLLM: LoRA adapters in PEFT's layout, and checkpoints with 8-bit weights (W8A8 in
the layout of compressed-tensors).

Weights of the attention and MLP matrices are rounded to int8 with one scale per output channel;
activations are quantized by vLLM as it runs, with one scale per token. Embeddings, norms and the
output matrix stay as they are. On CPUs with AVX-512 VNNI vLLM samples about 2.7 times as many
tokens per second as in bfloat16 (docs/lab-notes.md).
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import read_notes, require_torch, save_checkpoint
from rstar_math.checkpoints.tensors import WeightFiles
from rstar_math.errors import InputError

_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_[AB]\.weight")
_REFUSED = (
    *("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication"),
    *("use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens", "target_parameters"),
)
"""Settings of PEFT that vLLM refuses, or reads over."""
_MERGED = "deploy the merged model, without --adapter"


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter folder that was written."""

    folder: Path
    base: str
    """The model it was trained on."""
    rank: int


def write_peft_adapter(checkpoint: Path, out: Path) -> PeftAdapter:
    """Write to `out`, whole or not at all, the adapter of a policy that was trained with LoRA, as
    `vllm serve BASE --enable-lora --lora-modules NAME=OUT` loads it.

    Raises `InputError` for what vLLM does not load, a preference model's adapter among it, and
    `StoreError` for the disk.
    """
    notes = read_notes(checkpoint)
    folder = checkpoint / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{checkpoint} has no adapter: it was trained without LoRA; serve the folder itself, "
            f"vllm serve {checkpoint}."
        )
    weights = WeightFiles(folder, "adapter_model")
    if any("score" in key.split(".") for key in weights):
        raise InputError(
            f"{checkpoint} is a preference model, and vLLM loads no adapter with a head of its "
            f"own; serve the merged model: vllm serve {checkpoint} --runner pooling."
        )
    config = _read_config(folder)
    base = str(notes.get("base") or config.get("base_model_name_or_path") or "")
    rank = int(config["r"])
    config |= {
        "base_model_name_or_path": base,
        "target_modules": _modules(folder, weights),
        "modules_to_save": None,
        "inference_mode": True,
    }
    about: dict[str, object] = {"kind": "adapter", "base": base, "rank": rank}
    with save_checkpoint(out, about) as part:
        (part / "adapter_config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True), encoding="utf-8"
        )
        for file in sorted(folder.glob("adapter_model*.safetensors")):
            shutil.copyfile(file, part / file.name)
    return PeftAdapter(out, base, rank)


def _read_config(folder: Path) -> dict[str, Any]:
    """An adapter's settings. Raises `InputError` for those that vLLM does not know."""
    try:
        found = dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
        rank, alpha = int(found["r"]), float(found["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}/adapter_config.json is damaged; copy it again.") from error
    odd = [key for key in _REFUSED if found.get(key)]
    odd += [] if found.get("bias", "none") == "none" else ["bias"]
    odd += [] if found.get("peft_type", "LORA") == "LORA" and rank > 0 and alpha else ["peft_type"]
    if odd:
        raise InputError(
            f"The adapter {folder} has {odd[0]}={found.get(odd[0])!r}, which vLLM does not load; "
            f"{_MERGED}."
        )
    return found


def _modules(folder: Path, weights: WeightFiles) -> list[str]:
    """The names of the modules that were trained. Raises `InputError` where something else than
    LoRA matrices was."""
    found = set()
    for key in weights:
        named = _LORA.fullmatch(key)
        if named is None:
            raise InputError(
                f"The adapter {folder} has {key}, which vLLM's adapters have not; {_MERGED}."
            )
        found.add(named["module"].rpartition(".")[2])
    return sorted(found)


_MATRICES = ("_proj.weight",)
_CLIPS = (1.0, 0.97, 0.94, 0.9, 0.86, 0.82)
"""Shares of a channel's largest weight that are tried as the end of the int8 range; the one with
the least squared error is taken."""
_SCHEME = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


def write_int8(checkpoint: Path, out: Path) -> None:
    """Write a copy of a checkpoint folder with int8 matrices, for `vllm serve`.

    Raises `InputError` where the checkpoint has no weights, is quantized already or `out` exists,
    `MissingDependencyError` without torch, and `StoreError` where the disk fails.
    """
    require_torch()
    notes = read_notes(checkpoint)
    files = sorted(checkpoint.glob("model*.safetensors"))
    if not files:
        raise InputError(f"{checkpoint} has no model.safetensors; give a checkpoint folder.")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        raise InputError(f"{checkpoint} is quantized already; give the checkpoint it came from.")
    kept = {key: value for key, value in notes.items() if key not in ("format", "files")}
    with save_checkpoint(out, {**kept, "quantized": "int8"}) as folder:
        for file in sorted(checkpoint.iterdir()):
            if file.is_file() and file.suffix != ".safetensors" and file.name not in _OURS:
                shutil.copy(file, folder / file.name)
        places: dict[str, str] = {}
        for file in files:
            places |= dict.fromkeys(_write_file(file, folder / file.name), file.name)
        if len(files) > 1:
            index = {"metadata": {}, "weight_map": places}
            (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        config["quantization_config"] = _SCHEME
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


_INDEX = "model.safetensors.index.json"
_OURS = ("config.json", _INDEX, "rstar.json")
"""Files that are written anew."""


def _write_file(file: Path, out: Path) -> list[str]:
    """Quantize the matrices of one file; the names of the tensors written."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    with safe_open(file, "pt") as source:
        for name in source.keys():  # noqa: SIM118 - not a mapping
            tensor = source.get_tensor(name)
            if name.endswith(_MATRICES):
                tensors[name], tensors[f"{name}_scale"] = quantize_rows(tensor)
            else:
                tensors[name] = tensor
    save_file(tensors, out, metadata={"format": "pt"})
    return list(tensors)


def quantize_rows(weight: Any) -> tuple[Any, Any]:
    """A matrix (out, in) as int8, and the scale of each row (out, 1) in bfloat16: the clipping of
    `_CLIPS` with the least squared error, row by row."""
    import torch

    exact = weight.float()
    largest = exact.abs().amax(1, keepdim=True).clamp_min(1e-8)
    best, least = None, None
    for clip in _CLIPS:
        scale = (largest * (clip / 127)).bfloat16().float()
        error = ((exact / scale).round().clamp(-127, 127) * scale - exact).square()
        error = error.sum(1, keepdim=True)
        if best is None or least is None:
            best, least = scale, error
        else:
            best = torch.where(error < least, scale, best)
            least = torch.minimum(error, least)
    assert best is not None
    return (exact / best).round().clamp(-127, 127).to(torch.int8), best.bfloat16()
