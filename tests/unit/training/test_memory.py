"""The estimate of memory: sizes from headers, and what makes it larger or smaller."""

from pathlib import Path

import pytest

from rstar_math.errors import TrainingError
from rstar_math.training.memory import (
    MemoryPlan,
    ModelShape,
    estimate_memory,
    free_memory,
    read_model_shape,
    require_memory,
    shape_from_tensors,
)
from rstar_math.training.settings import PolicyTraining
from tests.unit.training.tiny import save_tiny_policy

QWEN_7B = ModelShape(7_615_616_512, 28, 6_525_621_760, 28 * 82_944, 3584, 152_064)
ADAPTER = PolicyTraining(lora_rank=16, gradient_checkpointing=True)


def test_sizes_are_read_from_headers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_tiny_policy(tmp_path / "tiny")
    found = read_model_shape(str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert found.parameters == sum(weights.numel() for weights in model.parameters())
    assert (found.layers, found.hidden) == (2, 32)
    assert found.vocabulary == model.config.vocab_size
    # q and o: 32 + 32 each; k and v: 32 + 16; gate, up, down: 32 + 64.
    assert found.matrix_sides == 2 * (2 * 64 + 2 * 48 + 3 * 96)
    (folder / "model.safetensors").unlink()
    assert read_model_shape(str(folder)) == found


def test_names_of_gguf_files_are_known() -> None:
    shapes = {
        "token_embd.weight": (64, 1000),
        "blk.0.attn_q.weight": (64, 64),
        "blk.0.attn_norm.weight": (64,),
        "blk.1.ffn_up.weight": (64, 256),
        "v.blk.7.attn_q.weight": (32, 32),
    }
    found = shape_from_tensors(shapes)
    assert (found.layers, found.hidden, found.vocabulary) == (2, 64, 1000)
    assert found.matrix_sides == 128 + 320


def test_7b_with_an_adapter_fits_one_gpu_of_24_gb_and_all_weights_do_not() -> None:
    need = estimate_memory(QWEN_7B, ADAPTER, (1, 2048), bfloat16_base=True, gpu=True)
    assert 16e9 < need.total < 22e9
    whole = estimate_memory(QWEN_7B, PolicyTraining(), (1, 2048), bfloat16_base=False, gpu=True)
    assert whole.total > 120e9


def test_checkpointing_and_smaller_parts_need_less() -> None:
    plain = PolicyTraining(lora_rank=16)
    needs = [
        estimate_memory(QWEN_7B, settings, size, bfloat16_base=True, gpu=False).total
        for settings, size in ((plain, (8, 512)), (plain, (2, 512)), (ADAPTER, (2, 512)))
    ]
    assert needs[0] > needs[1] > needs[2]


def test_what_does_not_fit_is_refused_with_what_to_change() -> None:
    settings = PolicyTraining(lora_rank=16)
    need = estimate_memory(QWEN_7B, settings, (8, 512), bfloat16_base=True, gpu=False)
    made = MemoryPlan(QWEN_7B, "bfloat16", (8, 512), need, (8 * 10**9, "memory"))
    assert not made.report()["fits"]
    with pytest.raises(TrainingError, match="micro_batch_tokens") as caught:
        require_memory(made, "base", settings)
    message = str(caught.value)
    assert "8.0 GB" in message
    assert "gradient_checkpointing" in message
    assert "lora" not in message
    roomy = MemoryPlan(QWEN_7B, "bfloat16", (8, 512), need, (10**12, "memory"))
    require_memory(roomy, "base", settings)


def test_free_memory_is_told() -> None:
    pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")
    found = free_memory()
    assert found is not None
    assert 0 < found[0] < 2**45
