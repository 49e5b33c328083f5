"""Writes folders for vLLM: LoRA adapters (PEFT layout) and int8 checkpoints (compressed-tensors).

An int8 checkpoint is W8A8. The attention and MLP matrices are rounded to int8 with one scale per
output channel. vLLM quantizes activations at run time with one scale per token. Embeddings, norms
and the output matrix are unchanged. On CPUs with AVX-512 VNNI, vLLM generates about 2.7 times as
many tokens per second as with bfloat16 (docs/lab-notes.md).
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import (
    MALFORMED,
    convert_malformed,
    read_json_object,
    read_notes,
    require_torch,
    save_checkpoint,
)
from rstar_math.checkpoints.tensors import WeightFiles
from rstar_math.errors import InputError

_LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_[AB]\.weight")
_UNSUPPORTED_SETTINGS = (
    *("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication"),
    *("use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens", "target_parameters"),
)
"""PEFT settings that vLLM rejects or ignores."""
_MERGED_MODEL_HINT = "deploy the merged model, without --adapter"


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter folder that was written."""

    folder: Path
    base: str
    """The model that the adapter was trained on."""
    rank: int


def write_peft_adapter(checkpoint: Path, out: Path) -> PeftAdapter:
    """Write the adapter of a policy trained with LoRA to the folder `out`.

    vLLM loads it with `vllm serve BASE --enable-lora --lora-modules NAME=OUT`. The folder is
    complete or absent. Raises `InputError` for adapters that vLLM cannot load, including those of
    preference models, and `StoreError` for disk failures.
    """
    with convert_malformed(checkpoint):
        return _write_peft_adapter(checkpoint, out)


def _write_peft_adapter(checkpoint: Path, out: Path) -> PeftAdapter:
    notes = read_notes(checkpoint)
    folder = checkpoint / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{checkpoint} has no adapter because it was trained without LoRA; serve the folder "
            f"itself: vllm serve {checkpoint}."
        )
    weights = WeightFiles(folder, "adapter_model")
    if any("score" in key.split(".") for key in weights):
        raise InputError(
            f"{checkpoint} is a preference model, and vLLM cannot load an adapter with its own "
            f"head; serve the merged model: vllm serve {checkpoint} --runner pooling."
        )
    config = _read_config(folder)
    base = str(notes.get("base") or config.get("base_model_name_or_path") or "")
    rank = int(config["r"])
    config |= {
        "base_model_name_or_path": base,
        "target_modules": _target_modules(folder, weights),
        "modules_to_save": None,
        "inference_mode": True,
    }
    notes_out: dict[str, object] = {"kind": "adapter", "base": base, "rank": rank}
    with save_checkpoint(out, notes_out) as part:
        (part / "adapter_config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True), encoding="utf-8"
        )
        for file in sorted(folder.glob("adapter_model*.safetensors")):
            shutil.copyfile(file, part / file.name)
    return PeftAdapter(out, base, rank)


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the settings of an adapter.

    Raises `InputError` for settings that vLLM does not support.
    """
    config = read_json_object(folder / "adapter_config.json")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except MALFORMED as error:
        raise InputError(f"{folder}/adapter_config.json is damaged; copy it again.") from error
    unsupported = [key for key in _UNSUPPORTED_SETTINGS if config.get(key)]
    if config.get("bias", "none") != "none":
        unsupported.append("bias")
    if config.get("peft_type", "LORA") != "LORA" or rank <= 0 or not alpha:
        unsupported.append("peft_type")
    if unsupported:
        key = unsupported[0]
        raise InputError(
            f"The adapter {folder} has {key}={config.get(key)!r}, which vLLM does not support; "
            f"{_MERGED_MODEL_HINT}."
        )
    return config


def _target_modules(folder: Path, weights: WeightFiles) -> list[str]:
    """Return the names of the trained modules, sorted. Raises `InputError` if the adapter has other
    tensors than LoRA matrices."""
    modules = set()
    for key in weights:
        match = _LORA_KEY.fullmatch(key)
        if match is None:
            raise InputError(
                f"The adapter {folder} has {key}, which vLLM does not support in adapters; "
                f"{_MERGED_MODEL_HINT}."
            )
        modules.add(match["module"].rpartition(".")[2])
    return sorted(modules)


_QUANTIZED_SUFFIXES = ("_proj.weight",)
_CLIP_RATIOS = (1.0, 0.97, 0.94, 0.9, 0.86, 0.82)
"""Candidates for the end of the int8 range, as shares of a channel's largest weight.

The candidate with the smallest squared error is used.
"""
_QUANTIZATION_CONFIG = {
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
    """Write a copy of a checkpoint folder with int8 matrices to `out`, for `vllm serve`.

    Raises `InputError` if the checkpoint has no weights or is already quantized or if `out` exists,
    `MissingDependencyError` without torch, and `StoreError` for disk failures.
    """
    require_torch()
    notes = read_notes(checkpoint)
    files = sorted(checkpoint.glob("model*.safetensors"))
    if not files:
        raise InputError(f"{checkpoint} has no model.safetensors; give a checkpoint folder.")
    config = read_json_object(checkpoint / "config.json")
    if "quantization_config" in config:
        raise InputError(f"{checkpoint} is already quantized; give the original checkpoint.")
    kept = {key: value for key, value in notes.items() if key not in ("format", "files")}
    with save_checkpoint(out, {**kept, "quantized": "int8"}) as folder:
        for file in sorted(checkpoint.iterdir()):
            if (
                file.is_file()
                and file.suffix != ".safetensors"
                and file.name not in _REWRITTEN_FILES
            ):
                shutil.copy(file, folder / file.name)
        weight_map: dict[str, str] = {}
        for file in files:
            weight_map |= dict.fromkeys(_write_file(file, folder / file.name), file.name)
        if len(files) > 1:
            index = {"metadata": {}, "weight_map": weight_map}
            (folder / _INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
        config["quantization_config"] = _QUANTIZATION_CONFIG
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


_INDEX_FILE = "model.safetensors.index.json"
_REWRITTEN_FILES = ("config.json", _INDEX_FILE, "rstar.json")
"""Files that are not copied but written."""


def _write_file(file: Path, out: Path) -> list[str]:
    """Quantize the matrices of one file. Returns the names of the written tensors."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    try:
        with safe_open(file, "pt") as source:
            for name in source.keys():  # noqa: SIM118 - not a mapping
                tensor = source.get_tensor(name)
                if name.endswith(_QUANTIZED_SUFFIXES):
                    tensors[name], tensors[f"{name}_scale"] = quantize_rows(tensor)
                else:
                    tensors[name] = tensor
    except (SafetensorError, *MALFORMED) as error:
        raise InputError(f"{file} is damaged ({error}); copy it again or train again.") from error
    save_file(tensors, out, metadata={"format": "pt"})
    return list(tensors)


def quantize_rows(weight: Any) -> tuple[Any, Any]:
    """Return a matrix (out, in) as int8, and the scale of each row (out, 1) in bfloat16.

    Each row uses the clip ratio with the smallest squared error.
    """
    import torch

    exact = weight.float()
    largest = exact.abs().amax(1, keepdim=True).clamp_min(1e-8)
    best_scale, best_error = None, None
    for clip in _CLIP_RATIOS:
        scale = (largest * (clip / 127)).bfloat16().float()
        error = ((exact / scale).round().clamp(-127, 127) * scale - exact).square()
        error = error.sum(1, keepdim=True)
        if best_scale is None or best_error is None:
            best_scale, best_error = scale, error
        else:
            best_scale = torch.where(error < best_error, scale, best_scale)
            best_error = torch.minimum(error, best_error)
    assert best_scale is not None
    return (exact / best_scale).round().clamp(-127, 127).to(torch.int8), best_scale.bfloat16()
