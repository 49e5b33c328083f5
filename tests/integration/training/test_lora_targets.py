"""Adapters cover attention and MLP of every layer, whatever the model calls them, or are refused;
merged weights give the logits of model and adapter."""

from pathlib import Path
from typing import Any

import pytest

from rstar_math.errors import InputError
from rstar_math.training.lora_targets import layer_matrices, lora_targets
from rstar_math.training.settings import PolicyTraining
from rstar_math.training.trainer import merge_adapter

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
MODELS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llama": (SIZES, SEVEN),
    "qwen2": (SIZES, SEVEN),
    "qwen3": (SIZES, SEVEN),
    "mistral": (SIZES, SEVEN),
    "gemma3_text": (SIZES, SEVEN),
    "phi3": (SIZES, {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
    "gpt2": (
        {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
        {"c_attn", "c_proj", "c_fc"},
    ),
}


def made(family: str, *, head: str = "AutoModelForCausalLM", **more: Any) -> Any:
    """A random model of a family."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **MODELS.get(family, (SIZES,))[0], **more)
    return getattr(transformers, head).from_config(config)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("head", ["AutoModelForCausalLM", "AutoModelForSequenceClassification"])
def test_every_layers_matrices_are_found(family: str, head: str) -> None:
    model = made(family, head=head)
    per_layer = 4 if family in ("phi3", "gpt2") else 7
    found = layer_matrices(model)
    assert len(found) == 3 * per_layer
    assert set(lora_targets(model)) == MODELS[family][1]
    assert not any("head" in name or "score" in name for name in found)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_step_moves_every_adapter_and_merging_keeps_the_logits(
    family: str, dtype: str, tmp_path: Path
) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from rstar_math.training.sft import lora_config, set_lora_input_casting, sparse_loss

    settings = PolicyTraining(lora_rank=4, bf16=dtype == "bfloat16")
    base = made(family).to(getattr(torch, dtype))
    model = get_peft_model(base, lora_config(base, settings, "CAUSAL_LM"))
    set_lora_input_casting(model, not settings.bf16)
    ids = torch.randint(3, 97, (2, 12))
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    adapters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {getattr(torch, dtype)}
    before = {name: weights.clone() for name, weights in adapters.items()}
    optimizer = torch.optim.AdamW(adapters.values(), lr=0.05)
    for _ in range(2):
        sparse_loss(model, inputs, bf16=settings.bf16).backward()
        optimizer.step()
        optimizer.zero_grad()
    still = [name for name, weights in adapters.items() if weights.equal(before[name])]
    assert not still
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        wanted = model(input_ids=ids).logits.float()
        untrained = base_logits(model, ids)
    merge_adapter(model).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        logits = again(input_ids=ids).logits.float()
    moved = (wanted - untrained).abs().max()
    close = 1e-4 if dtype == "float32" else 0.15 * float(moved)
    assert (logits - wanted).abs().max() < close
    assert moved > 0.05


def base_logits(model: Any, ids: Any) -> Any:
    """The logits without the adapter."""
    with model.disable_adapter():
        return model(input_ids=ids).logits.float()


def test_a_vision_tower_is_left_alone() -> None:
    from transformers import AutoModelForImageTextToText, Gemma3Config, SiglipVisionConfig

    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    text = {**SIZES, "num_hidden_layers": 2}
    config = Gemma3Config(text_config=text, vision_config=vision.to_dict(), mm_tokens_per_image=4)
    model = AutoModelForImageTextToText.from_config(config)
    found = layer_matrices(model)
    assert len(found) == 14
    assert not any("vision" in name for name in found)
    # The tower has layers with the same names, so that the targets are named in full.
    assert set(lora_targets(model)) == set(found)


def test_a_mixture_of_experts_is_refused_and_not_adapted_in_part() -> None:
    model = made("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    with pytest.raises(InputError, match="in part"):
        lora_targets(model)


def test_only_the_matrices_of_attention_and_mlp_are_trained_without_an_adapter() -> None:
    from rstar_math.training.sft import freeze_all_but_matrices

    model = made("qwen2")
    freeze_all_but_matrices(model)
    trained = {name for name, weights in model.named_parameters() if weights.requires_grad}
    assert trained == {f"{name}.weight" for name in layer_matrices(model)}
