"""Model families that can be exported to GGUF, and how each stores its weights and metadata.

To add a family, add an entry to `FAMILIES`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import MALFORMED, read_json_object, read_notes
from rstar_math.checkpoints.gguf_writer import require_gguf
from rstar_math.checkpoints.value_heads import PROBE_FILE
from rstar_math.errors import InputError

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")
_QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_FEEDFORWARD_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
_GEMMA3_PERIOD = 6
"""llama.cpp's default for Gemma 3: every sixth layer attends to all tokens."""
_GEMMA3_27B_LAYERS = 62
"""Depth by which llama.cpp recognises Gemma 3 27B, which scales its queries differently."""
_YARN_DEFAULTS = {"attention_factor": None, "mscale": None, "mscale_all_dim": None} | {
    "beta_fast": 32,
    "beta_slow": 1,
    "truncate": True,
}
"""YaRN settings that llama.cpp assumes."""
_ALTERNATIVE = "serve the folder with vLLM, or convert it with llama.cpp's convert_hf_to_gguf.py"


@dataclass(frozen=True, slots=True)
class Family:
    """How llama.cpp runs one family of transformers models."""

    architecture: str
    """llama.cpp's name of the architecture."""
    modules: tuple[str, ...] = (*_ATTENTION, *_MLP, *_NORMS)
    """Modules whose weights each layer must have."""
    rope_types: tuple[str, ...] = ("default", "linear", "yarn")
    """Supported types of rotary position scaling."""
    rope_theta: float = 10_000.0
    """Default base frequency of the rotary positions."""
    activation: str = "silu"
    interleaved_rope: bool = False
    """Whether llama.cpp rotates adjacent rows of a head; transformers rotates its two halves."""
    norm_offset: float = 0.0
    """Added to the norm weights of transformers to get those of llama.cpp."""
    biases: bool = False
    """Whether llama.cpp supports biases in attention and MLP."""
    sliding_window: bool = False
    """Whether llama.cpp applies the family's sliding window."""
    partial_rotary: bool = False
    """Whether only part of each head may be rotated."""


FAMILIES = {
    "llama": Family(
        "llama",
        rope_types=("default", "linear", "yarn", "llama3"),
        interleaved_rope=True,
        biases=True,
    ),
    "mistral": Family("llama", interleaved_rope=True),
    "qwen2": Family("qwen2", biases=True),
    "qwen3": Family("qwen3", modules=(*_ATTENTION, *_MLP, *_NORMS, *_QK_NORMS)),
    "gemma3_text": Family(
        "gemma3",
        modules=(*_ATTENTION, *_MLP, *_NORMS, *_QK_NORMS, *_FEEDFORWARD_NORMS),
        rope_types=("default", "linear"),
        rope_theta=1_000_000.0,
        activation="gelu_pytorch_tanh",
        norm_offset=1.0,
        sliding_window=True,
    ),
    "phi3": Family(
        "phi3",
        modules=(
            *("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
            *_NORMS,
        ),
        rope_types=("default", "longrope"),
        partial_rotary=True,
    ),
}
"""Families by `model_type` of transformers."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A checkpoint's family and configuration."""

    family: Family
    scorer: bool
    """Whether the checkpoint is a sequence-classification model."""
    config: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return self.family.architecture

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return int(self.config["num_hidden_layers"])

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return int(self.config["num_attention_heads"])

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def head_size(self) -> int:
        """Length of one head's query vector."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)

    def gguf_name(self, tensor: str) -> str | None:
        """Return llama.cpp's name of a tensor; None for an unknown tensor."""
        names = _name_map(self.architecture, self.layers)
        name: str | None = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        return name

    def to_gguf(self, tensor: str, values: Any) -> Any:
        """Return a tensor in llama.cpp's row order and scale.

        `values` is the tensor, or the B matrix of a LoRA adapter for it.
        """
        if self.family.norm_offset and tensor.endswith("norm.weight"):
            return values + self.family.norm_offset
        heads = self._reordered_heads(tensor)
        if heads == 0:
            return values
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)

    def from_gguf(self, tensor: str, update: Any) -> Any:
        """Return an update of one of llama.cpp's matrices in the row order of transformers."""
        heads = self._reordered_heads(tensor)
        if heads == 0:
            return update
        pairs = update.reshape(heads, update.shape[0] // heads // 2, 2, *update.shape[1:])
        return pairs.swapaxes(1, 2).reshape(update.shape)

    def _reordered_heads(self, tensor: str) -> int:
        """Return the number of heads of a tensor whose rows llama.cpp reorders; else 0."""
        module = tensor.split(".")[-2] if "." in tensor else ""
        if not self.family.interleaved_rope or module not in ("q_proj", "k_proj"):
            return 0
        return self.heads if module == "q_proj" else self.kv_heads

    def required_tensors(self, *, tied: bool) -> list[str]:
        """Return the names of the tensors that a complete checkpoint has."""
        names = ["model.embed_tokens.weight", "model.norm.weight"]
        names += [] if tied or self.scorer else ["lm_head.weight"]
        for layer in range(self.layers):
            names += [f"model.layers.{layer}.{module}.weight" for module in self.family.modules]
        return names

    def rope(self, layer_type: str = "full_attention") -> dict[str, Any]:
        """Return the rotary position parameters of a layer type, in the form of transformers 5.

        The result has `rope_type`, `rope_theta` and the parameters of that type.
        """
        parameters = dict(self.config.get("rope_parameters") or {})
        if not parameters:
            scaling = dict(self.config.get("rope_scaling") or {})
            theta = self.config.get("rope_theta")
            if layer_type == "sliding_attention" and "rope_local_base_freq" in self.config:
                theta, scaling = self.config["rope_local_base_freq"], {}
            parameters = {"rope_theta": theta, **scaling}
        parameters = dict(parameters.get(layer_type) or parameters)
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        theta = (
            parameters.get("rope_theta") or self.config.get("rope_theta") or self.family.rope_theta
        )
        return {
            **parameters,
            "rope_type": "longrope" if kind == "su" else kind,
            "rope_theta": theta,
        }

    @property
    def rotary_size(self) -> int:
        """Number of dimensions of each head that are rotated."""
        factor = self.rope().get("partial_rotary_factor", self.config.get("partial_rotary_factor"))
        return int(self.head_size * float(1.0 if factor is None else factor))

    @property
    def window_tokens(self) -> int | None:
        """Number of tokens that a sliding layer attends to; None if no layer has a window."""
        layer_types = self.config.get("layer_types") or ["sliding_attention"]
        if "sliding_attention" not in layer_types or not self.config.get(
            "use_sliding_window", True
        ):
            return None
        window = self.config.get("sliding_window")
        return None if window is None else int(window)

    @property
    def context_tokens(self) -> int:
        """Context length up to which llama.cpp gives the same results as transformers.

        If llama.cpp ignores the model's sliding window, this is the window.
        """
        maximum = int(self.config["max_position_embeddings"])
        if self.family.sliding_window or self.window_tokens is None:
            return maximum
        return min(maximum, self.window_tokens)

    def metadata(self, vocabulary: int) -> dict[str, Any]:
        """Return the metadata entries of a GGUF file that describe the architecture."""
        rope = self.rope()
        entries: dict[str, Any] = {
            "block_count": self.layers,
            "context_length": self.context_tokens,
            "embedding_length": int(self.config["hidden_size"]),
            "feed_forward_length": int(self.config["intermediate_size"]),
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_size,
            "attention.value_length": self.head_size,
            "attention.layer_norm_rms_epsilon": float(self.config["rms_norm_eps"]),
            "rope.dimension_count": self.rotary_size,
            "rope.freq_base": float(rope["rope_theta"]),
            "vocab_size": vocabulary,
        }
        if rope["rope_type"] in ("linear", "yarn"):
            entries["rope.scaling.type"] = rope["rope_type"]
            entries["rope.scaling.factor"] = float(rope["factor"])
        if rope["rope_type"] == "yarn":
            entries["rope.scaling.original_context_length"] = self._original_context(rope)
        if self.architecture == "gemma3":
            entries |= self._window_metadata()
        if self.architecture == "phi3":
            entries |= {"attention.sliding_window": 0}
            entries |= {"rope.scaling.original_context_length": self._original_context(rope)}
        if rope["rope_type"] == "longrope":
            entries["rope.scaling.attn_factor"] = self._attention_factor(rope)
        return {f"{self.architecture}.{key}": value for key, value in entries.items()}

    def _window_metadata(self) -> dict[str, Any]:
        period = _window_period(self.config, self.layers)
        if self.window_tokens is None or period is None or period == 1:
            return {}
        entries: dict[str, Any] = {
            "attention.sliding_window": self.window_tokens,
            "rope.freq_base_swa": float(self.rope("sliding_attention")["rope_theta"]),
        }
        if period != _GEMMA3_PERIOD:
            entries["attention.sliding_window_pattern"] = period
        return entries

    def _original_context(self, rope: Mapping[str, Any]) -> int:
        """Return the context length before the model's context was extended."""
        key = "original_max_position_embeddings"
        return int(rope.get(key) or self.config.get(key) or self.config["max_position_embeddings"])

    def _attention_factor(self, rope: Mapping[str, Any]) -> float:
        """Return LongRoPE's scale of the rotated vectors (arXiv:2402.13753)."""
        if rope.get("attention_factor") is not None:
            return float(rope["attention_factor"])
        original = self._original_context(rope)
        factor = rope.get("factor") or int(self.config["max_position_embeddings"]) / original
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0

    def rope_tensors(self) -> dict[str, list[float]]:
        """Return the frequency divisors that llama.cpp reads as tensors, by tensor name."""
        rope = self.rope()
        if rope["rope_type"] == "longrope":
            return {
                f"rope_factors_{length}.weight": list(map(float, rope[f"{length}_factor"]))
                for length in ("long", "short")
            }
        if rope["rope_type"] == "llama3":
            return {"rope_freqs.weight": _llama3_divisors(rope, self.rotary_size)}
        return {}


def _llama3_divisors(rope: Mapping[str, Any], size: int) -> list[float]:
    """Return Llama 3.1's divisor of each rotary frequency.

    It is 1 for short wavelengths, `factor` for long ones, and interpolated between them.
    """
    factor, low, high = (
        float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = float(rope["original_max_position_embeddings"])
    divisors = []
    for index in range(0, size, 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (index / size)
        weight = min(1.0, max(0.0, (context / wavelength - low) / (high - low)))
        divisors.append(1 / (weight + (1 - weight) / factor))
    return divisors


def _window_period(config: Mapping[str, Any], layers: int) -> int | None:
    """Return the period of full attention; None if the layers have no such period.

    With period p, every p-th layer attends to all tokens and the others to a sliding window.
    """
    layer_types = config.get("layer_types")
    if not layer_types:
        period = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern")
        return int(period or _GEMMA3_PERIOD)
    is_full = [layer_type == "full_attention" for layer_type in layer_types]
    matching = (
        period
        for period in (_GEMMA3_PERIOD, *range(1, layers + 2))
        if is_full == [layer % period == period - 1 for layer in range(layers)]
    )
    return next(matching, None)


def read_spec(checkpoint: Path) -> ModelSpec:
    """Return the family and configuration of a checkpoint folder.

    Raises `InputError` if the folder is not a checkpoint, or if llama.cpp would compute something
    else than transformers.
    """
    if not checkpoint.is_dir():
        raise InputError(
            f"There is no checkpoint {checkpoint}; give a folder that rstar train wrote."
        )
    read_notes(checkpoint)
    if (checkpoint / PROBE_FILE).is_file():
        raise InputError(
            f"{checkpoint} is a probe, which has no model of its own; deploy a model that "
            "rstar train ppm wrote without --probe."
        )
    config = read_json_object(checkpoint / "config.json")
    try:
        family, architecture = str(config["model_type"]), str(config["architectures"][0])
    except MALFORMED as error:
        raise InputError(f"{checkpoint}/config.json is damaged; copy it again.") from error
    if family not in FAMILIES:
        raise InputError(
            f"{checkpoint} belongs to the family {family}, but rstar deploy supports only "
            f"{', '.join(FAMILIES)}; {_ALTERNATIVE}."
        )
    scorer = architecture.endswith("ForSequenceClassification")
    if not scorer and not architecture.endswith("ForCausalLM"):
        raise InputError(f"{checkpoint} is a {architecture}; give a policy or a preference model.")
    spec = ModelSpec(FAMILIES[family], scorer, config)
    unsupported = _unsupported(spec)
    if unsupported is not None:
        raise InputError(
            f"{checkpoint} ({family}) has {unsupported}, which rstar deploy does not support; "
            f"{_ALTERNATIVE}."
        )
    return spec


def _unsupported(spec: ModelSpec) -> str | None:
    """Return a feature of the model that the export does not support; None if there is none."""
    config, family, rope = spec.config, spec.family, spec.rope()
    if config.get("quantization_config"):
        return "quantized weights"
    if rope["rope_type"] not in family.rope_types:
        return f"positions scaled by {rope['rope_type']}"
    changed = [k for k, value in _YARN_DEFAULTS.items() if rope.get(k) not in (None, value)]
    if changed and rope["rope_type"] == "yarn":
        return f"positions scaled by yarn with {changed[0]}"
    if spec.rotary_size != spec.head_size and not family.partial_rotary:
        return "a partial rotation"
    activation = config.get("hidden_activation") or config.get("hidden_act") or family.activation
    if activation != family.activation:
        return f"the activation {activation}"
    if (config.get("attention_bias") or config.get("mlp_bias")) and not family.biases:
        return "biases"
    if family.architecture == "gemma3":
        return _unsupported_by_gemma3(spec)
    return None


def _unsupported_by_gemma3(spec: ModelSpec) -> str | None:
    config = spec.config
    for key in ("use_bidirectional_attention", "attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key):
            return key
    scale = float(config.get("query_pre_attn_scalar", 256))
    is_27b = spec.layers == _GEMMA3_27B_LAYERS
    if scale != (int(config["hidden_size"]) / spec.heads if is_27b else spec.head_size):
        return f"query_pre_attn_scalar={scale:g} with heads of {spec.head_size}"
    if spec.rope("sliding_attention")["rope_type"] != "default":
        return "scaled positions in its sliding layers"
    if spec.window_tokens is not None and _window_period(config, spec.layers) is None:
        return "sliding layers without a period"
    return None


@cache
def _name_map(architecture: str, layers: int) -> Any:
    """Return llama.cpp's mapping of tensor names for a family."""
    gguf = require_gguf()
    return gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), layers)
