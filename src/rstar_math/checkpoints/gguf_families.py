"""The model families that llama.cpp runs, and how each stores its weights and settings in a GGUF
file. A new family is one entry of `FAMILIES`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import read_notes
from rstar_math.checkpoints.gguf_writer import require_gguf
from rstar_math.checkpoints.value_heads import PROBE
from rstar_math.errors import InputError

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_MLP_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
_GEMMA3_PERIOD = 6
"""llama.cpp's default for Gemma 3: every sixth layer attends to all tokens."""
_GEMMA3_27B_LAYERS = 62
"""llama.cpp knows Gemma 3 27B, which scales its queries in its own way, by this depth."""
_YARN = {"attention_factor": None, "mscale": None, "mscale_all_dim": None} | {
    "beta_fast": 32,
    "beta_slow": 1,
    "truncate": True,
}
"""YaRN's settings as llama.cpp takes them for granted."""
INSTEAD = "serve the folder with vLLM, or convert it with llama.cpp's convert_hf_to_gguf.py"


@dataclass(frozen=True, slots=True)
class Family:
    """How llama.cpp runs one family of transformers models."""

    architecture: str
    """llama.cpp's name."""
    modules: tuple[str, ...] = (*_ATTENTION, *_MLP, *_NORMS)
    """The weights that each layer must have."""
    rope: tuple[str, ...] = ("default", "linear", "yarn")
    """Kinds of rotary position scaling that are written."""
    rope_theta: float = 10_000.0
    """Base of the rotation where the config names none."""
    activation: str = "silu"
    neighbours: bool = False
    """Whether llama.cpp rotates neighbouring rows of a head; transformers rotates its halves."""
    norm_offset: float = 0.0
    """What llama.cpp's norms hold on top of those of transformers."""
    biases: bool = False
    """Whether llama.cpp reads biases of attention and MLP."""
    windows: bool = False
    """Whether llama.cpp applies the family's sliding windows."""
    partial_rotation: bool = False
    """Whether only a part of each head may be rotated."""


FAMILIES = {
    "llama": Family(
        "llama", rope=("default", "linear", "yarn", "llama3"), neighbours=True, biases=True
    ),
    "mistral": Family("llama", neighbours=True),
    "qwen2": Family("qwen2", biases=True),
    "qwen3": Family("qwen3", modules=(*_ATTENTION, *_MLP, *_NORMS, *_HEAD_NORMS)),
    "gemma3_text": Family(
        "gemma3",
        modules=(*_ATTENTION, *_MLP, *_NORMS, *_HEAD_NORMS, *_MLP_NORMS),
        rope=("default", "linear"),
        rope_theta=1_000_000.0,
        activation="gelu_pytorch_tanh",
        norm_offset=1.0,
        windows=True,
    ),
    "phi3": Family(
        "phi3",
        modules=(
            *("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
            *_NORMS,
        ),
        rope=("default", "longrope"),
        partial_rotation=True,
    ),
}
"""By `model_type` of transformers."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A checkpoint's family and configuration."""

    family: Family
    scorer: bool
    """Whether it is a sequence-classification model."""
    config: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return self.family.architecture

    @property
    def layers(self) -> int:
        """Transformer layers."""
        return int(self.config["num_hidden_layers"])

    @property
    def heads(self) -> int:
        """Attention heads."""
        return int(self.config["num_attention_heads"])

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def head_size(self) -> int:
        """Length of one head's query."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)

    def gguf_name(self, tensor: str) -> str | None:
        """llama.cpp's name for a tensor; None for one it has no name for."""
        names = _name_map(self.architecture, self.layers)
        found: str | None = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        return found

    def to_gguf(self, tensor: str, values: Any) -> Any:
        """A tensor as llama.cpp stores it; also the B matrix of a LoRA adapter of it."""
        if self.family.norm_offset and tensor.endswith("norm.weight"):
            return values + self.family.norm_offset
        heads = self._reordered_heads(tensor)
        if heads == 0:
            return values
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)

    def from_gguf(self, tensor: str, change: Any) -> Any:
        """What is added to a matrix of llama.cpp, in the row order of transformers."""
        heads = self._reordered_heads(tensor)
        if heads == 0:
            return change
        pairs = change.reshape(heads, change.shape[0] // heads // 2, 2, *change.shape[1:])
        return pairs.swapaxes(1, 2).reshape(change.shape)

    def _reordered_heads(self, tensor: str) -> int:
        """The heads of a tensor whose rows llama.cpp wants in another order; 0 for others."""
        module = tensor.split(".")[-2] if "." in tensor else ""
        if not self.family.neighbours or module not in ("q_proj", "k_proj"):
            return 0
        return self.heads if module == "q_proj" else self.key_heads

    def required(self, *, tied: bool) -> list[str]:
        """The tensors without which a checkpoint is not whole."""
        found = ["model.embed_tokens.weight", "model.norm.weight"]
        found += [] if tied or self.scorer else ["lm_head.weight"]
        for layer in range(self.layers):
            found += [f"model.layers.{layer}.{part}.weight" for part in self.family.modules]
        return found

    def rope(self, layers: str = "full_attention") -> dict[str, Any]:
        """The rotary positions of a kind of layers, in the form of transformers 5: `rope_type`,
        `rope_theta` and the settings of that type."""
        found = dict(self.config.get("rope_parameters") or {})
        if not found:
            scaling = dict(self.config.get("rope_scaling") or {})
            theta = self.config.get("rope_theta")
            if layers == "sliding_attention" and "rope_local_base_freq" in self.config:
                theta, scaling = self.config["rope_local_base_freq"], {}
            found = {"rope_theta": theta, **scaling}
        found = dict(found.get(layers) or found)
        kind = found.get("rope_type") or found.get("type") or "default"
        theta = found.get("rope_theta") or self.config.get("rope_theta") or self.family.rope_theta
        return {**found, "rope_type": "longrope" if kind == "su" else kind, "rope_theta": theta}

    @property
    def rotated(self) -> int:
        """How much of each head is rotated."""
        part = self.rope().get("partial_rotary_factor", self.config.get("partial_rotary_factor"))
        return int(self.head_size * float(1.0 if part is None else part))

    @property
    def window(self) -> int | None:
        """Tokens that a sliding layer attends to; None where all layers attend to all."""
        kinds = self.config.get("layer_types") or ["sliding_attention"]
        if "sliding_attention" not in kinds or not self.config.get("use_sliding_window", True):
            return None
        window = self.config.get("sliding_window")
        return None if window is None else int(window)

    @property
    def context(self) -> int:
        """Tokens up to which llama.cpp computes what transformers does. Where llama.cpp attends to
        everything in spite of a sliding window, that is the window."""
        longest = int(self.config["max_position_embeddings"])
        if self.family.windows or self.window is None:
            return longest
        return min(longest, self.window)

    def settings(self, vocabulary: int) -> dict[str, Any]:
        """The entries of a GGUF file that describe the architecture."""
        rope = self.rope()
        found: dict[str, Any] = {
            "block_count": self.layers,
            "context_length": self.context,
            "embedding_length": int(self.config["hidden_size"]),
            "feed_forward_length": int(self.config["intermediate_size"]),
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.key_heads,
            "attention.key_length": self.head_size,
            "attention.value_length": self.head_size,
            "attention.layer_norm_rms_epsilon": float(self.config["rms_norm_eps"]),
            "rope.dimension_count": self.rotated,
            "rope.freq_base": float(rope["rope_theta"]),
            "vocab_size": vocabulary,
        }
        if rope["rope_type"] in ("linear", "yarn"):
            found["rope.scaling.type"] = rope["rope_type"]
            found["rope.scaling.factor"] = float(rope["factor"])
        if rope["rope_type"] == "yarn":
            found["rope.scaling.original_context_length"] = self._original_context(rope)
        if self.architecture == "gemma3":
            found |= self._window_settings()
        if self.architecture == "phi3":
            found |= {"attention.sliding_window": 0}
            found |= {"rope.scaling.original_context_length": self._original_context(rope)}
        if rope["rope_type"] == "longrope":
            found["rope.scaling.attn_factor"] = self._attention_factor(rope)
        return {f"{self.architecture}.{key}": value for key, value in found.items()}

    def _window_settings(self) -> dict[str, Any]:
        period = _period(self.config, self.layers)
        if self.window is None or period is None or period == 1:
            return {}
        found: dict[str, Any] = {
            "attention.sliding_window": self.window,
            "rope.freq_base_swa": float(self.rope("sliding_attention")["rope_theta"]),
        }
        if period != _GEMMA3_PERIOD:
            found["attention.sliding_window_pattern"] = period
        return found

    def _original_context(self, rope: Mapping[str, Any]) -> int:
        """The context that a model was trained on before it was made longer."""
        name = "original_max_position_embeddings"
        found = rope.get(name) or self.config.get(name) or self.config["max_position_embeddings"]
        return int(found)

    def _attention_factor(self, rope: Mapping[str, Any]) -> float:
        """The factor of LongRoPE's rotated vectors (arXiv:2402.13753)."""
        if rope.get("attention_factor") is not None:
            return float(rope["attention_factor"])
        original = self._original_context(rope)
        longer = rope.get("factor") or int(self.config["max_position_embeddings"]) / original
        return math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 else 1.0

    def rope_tensors(self) -> dict[str, list[float]]:
        """The divisors of the rotation's frequencies that llama.cpp reads as tensors, by name."""
        rope = self.rope()
        if rope["rope_type"] == "longrope":
            sides = {side: rope[f"{side}_factor"] for side in ("long", "short")}
            return {f"rope_factors_{side}.weight": list(map(float, sides[side])) for side in sides}
        if rope["rope_type"] == "llama3":
            return {"rope_freqs.weight": _llama3_divisors(rope, self.rotated)}
        return {}


def _llama3_divisors(rope: Mapping[str, Any], size: int) -> list[float]:
    """What Llama 3.1 divides each frequency by: 1 for short waves, `factor` for long ones, and
    between them what makes the frequencies go over smoothly."""
    factor, low, high = (
        float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = float(rope["original_max_position_embeddings"])
    found = []
    for at in range(0, size, 2):
        turns = context / (2 * math.pi * float(rope["rope_theta"]) ** (at / size))
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        found.append(1 / (share + (1 - share) / factor))
    return found


def _period(config: Mapping[str, Any], layers: int) -> int | None:
    """The period p of layers of which the last attends to everything and the others to a window;
    None where there is no such period."""
    kinds = config.get("layer_types")
    if not kinds:
        said = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern")
        return int(said or _GEMMA3_PERIOD)
    found = [kind == "full_attention" for kind in kinds]
    fitting = (
        period
        for period in (_GEMMA3_PERIOD, *range(1, layers + 2))
        if found == [at % period == period - 1 for at in range(layers)]
    )
    return next(fitting, None)


def read_spec(checkpoint: Path) -> ModelSpec:
    """What a checkpoint folder's config.json says. Raises `InputError` for what is no checkpoint,
    and for what llama.cpp does not run as transformers does."""
    if not checkpoint.is_dir():
        raise InputError(f"There is no checkpoint {checkpoint}; give a folder of rstar train.")
    read_notes(checkpoint)
    if (checkpoint / PROBE).is_file():
        raise InputError(
            f"{checkpoint} is a probe, a head without a model of its own; deploy a model that "
            "rstar train ppm wrote without --probe."
        )
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        family, classes = str(config["model_type"]), str(config["architectures"][0])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{checkpoint}/config.json is damaged; copy it again.") from error
    if family not in FAMILIES:
        raise InputError(
            f"{checkpoint} is a model of the family {family}, and rstar deploy writes "
            f"{', '.join(FAMILIES)}; {INSTEAD}."
        )
    scorer = classes.endswith("ForSequenceClassification")
    if not scorer and not classes.endswith("ForCausalLM"):
        raise InputError(f"{checkpoint} is a {classes}; give a policy or a preference model.")
    spec = ModelSpec(FAMILIES[family], scorer, config)
    unsupported = _unsupported(spec)
    if unsupported is not None:
        raise InputError(
            f"{checkpoint} ({family}) has {unsupported}, which rstar deploy does not write; "
            f"{INSTEAD}."
        )
    return spec


def _unsupported(spec: ModelSpec) -> str | None:
    """What a model has that its GGUF file could not express; None where it has nothing of it."""
    config, family, rope = spec.config, spec.family, spec.rope()
    if config.get("quantization_config"):
        return "quantised weights"
    if rope["rope_type"] not in family.rope:
        return f"positions scaled by {rope['rope_type']}"
    odd = [key for key, usual in _YARN.items() if rope.get(key) not in (None, usual)]
    if odd and rope["rope_type"] == "yarn":
        return f"positions scaled by yarn with {odd[0]}"
    if spec.rotated != spec.head_size and not family.partial_rotation:
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
    large = spec.layers == _GEMMA3_27B_LAYERS
    if scale != (int(config["hidden_size"]) / spec.heads if large else spec.head_size):
        return f"query_pre_attn_scalar={scale:g} with heads of {spec.head_size}"
    if spec.rope("sliding_attention")["rope_type"] != "default":
        return "scaled positions in its sliding layers"
    if spec.window is not None and _period(config, spec.layers) is None:
        return "sliding layers without a period"
    return None


@cache
def _name_map(architecture: str, layers: int) -> Any:
    """llama.cpp's names for the tensors of a family."""
    gguf = require_gguf()
    return gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), layers)
