"""A checkpoint with 8-bit weights for vLLM (W8A8 in the layout of compressed-tensors).

Weights of the attention and MLP matrices are rounded to int8 with one scale per output channel;
activations are quantized by vLLM as it runs, with one scale per token. Embeddings, norms and the
output matrix stay as they are. On CPUs with AVX-512 VNNI vLLM samples about 2.7 times as many
tokens per second as in bfloat16 (docs/lab-notes.md).
"""

import json
import shutil
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.checkpoints import read_notes, require_torch, writing

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
    `MissingExtra` without torch, and `StoreError` where the disk fails.
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
    with writing(out, {**kept, "quantized": "int8"}) as folder:
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
