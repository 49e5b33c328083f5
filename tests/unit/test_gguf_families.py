"""What the configuration of a checkpoint becomes in a GGUF file, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from rstar_math.checkpoints.gguf_families import FAMILIES, ModelSpec, read_spec
from rstar_math.errors import InputError

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
}
GEMMA3 = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 512}
SLIDING = ["sliding_attention"] * 3


def spec(family: str, **config: Any) -> ModelSpec:
    return ModelSpec(FAMILIES[family], scorer=False, config=SIZES | config)


def settings(family: str, **config: Any) -> dict[str, Any]:
    found = spec(family, **config).metadata(100)
    return {key.partition(".")[2]: value for key, value in found.items()}


def test_the_older_form_of_a_configuration_says_the_same() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 1024
    old = spec("llama", rope_theta=500.0, rope_scaling={"type": "llama3", **scaling})
    new = spec("llama", rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, **scaling})
    assert old.metadata(9) == new.metadata(9)
    assert old.rope_tensors() == new.rope_tensors()
    divisors = old.rope_tensors()["rope_freqs.weight"]
    assert divisors[0] == 1.0
    assert divisors[-1] == 8.0
    assert divisors == sorted(divisors)


def test_gemma3_s_older_form_too() -> None:
    old = settings("gemma3_text", rope_theta=2e6, rope_local_base_freq=5e3, **GEMMA3)
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 2e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    }
    assert old == settings("gemma3_text", rope_parameters=rope, **GEMMA3)
    assert (old["rope.freq_base"], old["rope.freq_base_swa"]) == (2e6, 5e3)
    assert "attention.sliding_window_pattern" not in old, "six is llama.cpp's own"
    other = settings("gemma3_text", sliding_window_pattern=2, **GEMMA3)
    assert other["attention.sliding_window_pattern"] == 2


@pytest.mark.parametrize(
    ("layers", "period"),
    [
        ([*SLIDING, "full_attention"], 4),
        (["sliding_attention", "full_attention"] * 2, 2),
        (["full_attention"] * 4, None),
        ([*SLIDING, "sliding_attention"], None),
    ],
)
def test_sliding_layers_become_a_period(layers: list[str], period: int | None) -> None:
    found = settings("gemma3_text", layer_types=layers, **GEMMA3)
    assert found.get("attention.sliding_window_pattern") == period
    assert ("attention.sliding_window" in found) == ("sliding_attention" in layers)


@pytest.mark.parametrize(
    ("family", "config", "context"),
    [
        ("mistral", {"sliding_window": 1000}, 1000),
        ("mistral", {"sliding_window": None}, 4096),
        ("mistral", {"sliding_window": 100_000}, 4096),
        ("qwen2", {"sliding_window": 1000, "use_sliding_window": False}, 4096),
        ("qwen2", {"sliding_window": 1000, "use_sliding_window": True}, 1000),
        ("phi3", {"sliding_window": 2047}, 2047),
        ("gemma3_text", GEMMA3, 4096),
    ],
)
def test_the_context_ends_where_an_unsupported_window_would_matter(
    family: str, config: dict[str, Any], context: int
) -> None:
    assert settings(family, **config)["context_length"] == context


YARN = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}


@pytest.mark.parametrize(
    ("family", "config", "match"),
    [
        ("gemma2", {}, "family gemma2"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantized"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic"}}, "dynamic"),
        ("qwen2", {"rope_parameters": YARN}, "yarn with attention_factor"),
        ("qwen3", {"attention_bias": True}, "biases"),
        ("llama", {"hidden_act": "gelu"}, "activation gelu"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial rotation"),
        ("gemma3_text", {**GEMMA3, "query_pre_attn_scalar": 256}, "query_pre_attn_scalar"),
        ("gemma3_text", {**GEMMA3, "use_bidirectional_attention": True}, "bidirectional"),
        (
            "gemma3_text",
            {**GEMMA3, "layer_types": ["full_attention", *SLIDING]},
            "without a period",
        ),
    ],
)
def test_what_llama_cpp_does_not_run_alike_is_refused(
    tmp_path: Path, family: str, config: dict[str, Any], match: str
) -> None:
    told = {**SIZES, "model_type": family, "architectures": ["XForCausalLM"], **config}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=match) as refused:
        read_spec(tmp_path)
    assert "vLLM" in str(refused.value)
