"""Checkpoints with 8-bit weights for vLLM."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rstar_math.checkpoints.folders import is_complete, read_notes
from rstar_math.checkpoints.vllm_export import quantize_rows, write_int8
from rstar_math.errors import InputError
from tests.integration.training.families import save_tiny


def test_a_row_is_rounded_to_within_half_a_step_of_its_scale() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    weight[5, 7] = 40.0  # an outlier
    quantized, scale = quantize_rows(weight)
    assert quantized.dtype == torch.int8
    assert scale.shape == (64, 1)
    error = (quantized.float() * scale.float() - weight).abs()
    clipped = quantized.abs() == 127
    assert torch.all(error[~clipped] <= scale.float().expand_as(error)[~clipped] * 0.51)
    relative = error.square().sum(1) / weight.square().sum(1).clamp_min(1e-9)
    assert relative.max() < 0.02
    assert quantized[3].abs().max() == 0


def test_a_checkpoint_keeps_all_but_its_matrices(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model", "qwen2")
    out = tmp_path / "int8"
    write_int8(source, out)
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    assert set(after) == set(before) | {f"{n}_scale" for n in before if n.endswith("_proj.weight")}
    for name, tensor in before.items():
        if name.endswith("_proj.weight"):
            assert after[name].dtype == torch.int8
        else:
            assert torch.equal(after[name], tensor)
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert is_complete(out)
    assert read_notes(out)["quantized"] == "int8"


def test_what_is_quantized_already_is_refused(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model", "qwen2")
    write_int8(source, tmp_path / "int8")
    with pytest.raises(InputError, match="already quantized"):
        write_int8(tmp_path / "int8", tmp_path / "again")
    assert not (tmp_path / "again").exists()
