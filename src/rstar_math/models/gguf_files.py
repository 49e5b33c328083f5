"""Checkpoints as GGUF files, which llama.cpp runs without torch: a policy as it is, a preference
model with its head.

The head goes into the file twice: as facts (`rstar.head.*`), for whoever has the last hidden state;
and as the rows of the output matrix, w for token 0, -w for token 1 and 0 for all others. Two
log-probabilities of a completion's first token then differ by |w h|, and llama.cpp keeps a
completion's prompt in its cache, which it does not for embeddings.
"""

import json
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.checkpoints import read_notes
from rstar_math.models.gguf_header import read_header
from rstar_math.models.gguf_tokenizer import tokenizer_facts
from rstar_math.models.gguf_writing import Kind, Piece, require_gguf, write_pieces
from rstar_math.models.heads import PROBE
from rstar_math.models.value_head import ValueHead
from rstar_math.models.weight_files import WeightFiles

FORMAT = 1
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
"""llama.cpp's architecture of a family as transformers calls it."""
_TURNED = "llama"
"""The architecture whose query and key rows llama.cpp wants in pairs for its rotation."""
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}


@dataclass(frozen=True, slots=True)
class Shape:
    """What llama.cpp must know of a checkpoint's architecture."""

    architecture: str
    scorer: bool
    """Whether it is a sequence-classification model."""
    config: dict[str, Any]

    @property
    def heads(self) -> int:
        """Attention heads."""
        return int(self.config["num_attention_heads"])

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return int(self.config.get("num_key_value_heads") or self.heads)

    def name(self, tensor: str) -> str | None:
        """llama.cpp's name for a tensor; None for one it has no name for."""
        names = _name_map(self.architecture, int(self.config["num_hidden_layers"]))
        found: str | None = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        return found

    def turned(self, tensor: str, rows: Any) -> Any:
        """A tensor whose first axis is the output, with query and key rows in llama.cpp's order:
        transformers rotates halves of a head, llama.cpp neighbours."""
        heads = self._turned_heads(tensor)
        if heads == 0:
            return rows
        halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
        return halves.swapaxes(1, 2).reshape(rows.shape)

    def unturned(self, tensor: str, rows: Any) -> Any:
        """What `turned` gives, in the order of transformers again."""
        heads = self._turned_heads(tensor)
        if heads == 0:
            return rows
        pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
        return pairs.swapaxes(1, 2).reshape(rows.shape)

    def _turned_heads(self, tensor: str) -> int:
        """The heads of a tensor whose rows llama.cpp wants in another order; 0 for others."""
        module = tensor.split(".")[-2] if "." in tensor else ""
        if self.architecture != _TURNED or module not in ("q_proj", "k_proj"):
            return 0
        return self.heads if module == "q_proj" else self.key_heads


def read_shape(checkpoint: Path) -> Shape:
    """What a checkpoint folder's config.json says. Raises `InputError` for what is no checkpoint,
    and for architectures that are not written."""
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
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
    sliding = family == "mistral" and config.get("sliding_window") is not None
    if family not in _ARCHITECTURES or config.get("use_sliding_window") or sliding or scaled:
        why = " with scaled positions" if scaled else ""
        raise InputError(
            f"{checkpoint} is a model of the family {family}{why}, and rstar deploy writes "
            f"{', '.join(_ARCHITECTURES)} with plain attention; convert it with llama.cpp's own "
            "convert_hf_to_gguf.py."
        )
    scorer = classes.endswith("ForSequenceClassification")
    if not scorer and not classes.endswith("ForCausalLM"):
        raise InputError(f"{checkpoint} is a {classes}; give a policy or a preference model.")
    return Shape(_ARCHITECTURES[family], scorer, config)


def write_gguf(checkpoint: Path, out: Path, *, kind: Kind = "q8_0") -> Path:
    """`out`, written whole or not at all: a policy or preference model as one GGUF file.

    Of a model trained with LoRA the merged weights are taken. Matrices are stored as `kind`, norms
    and biases as float32. Raises `InputError`, `MissingExtra`, and `StoreError` for the disk.
    """
    shape = read_shape(checkpoint)
    weights = WeightFiles(checkpoint)
    names = named_tensors(checkpoint, shape, weights)
    vocabulary = weights.shape("model.embed_tokens.weight")[0]
    facts = shared_facts(checkpoint, shape, "model") | _sizes(shape, vocabulary)
    facts["general.file_type"] = _FILE_TYPES[kind]
    facts["general.quantization_version"] = 2
    facts |= tokenizer_facts(checkpoint, vocabulary)

    def data(tensor: str) -> Any:
        return shape.turned(tensor, weights[tensor])

    pieces = [
        Piece(name, weights.shape(tensor), kind, partial(data, tensor))
        for tensor, name in names.items()
    ]
    if shape.scorer:
        size = (vocabulary, weights.shape("score.weight")[1])
        rows = partial(readout, weights["score.weight"][0], vocabulary)
        pieces.append(Piece("output.weight", size, kind, rows))
    return write_pieces(out, shape.architecture, facts, pieces)


def check_policy(path: Path) -> None:
    """Nothing, where a .gguf file may be a policy; raises `InputError` for damaged files, for
    preference models and for adapters."""
    facts = read_header(path).facts
    if facts.get("general.type") == "adapter":
        raise InputError(
            f"{path} is an adapter; name the model it was trained on, and the adapter with "
            "--set model.adapter=FILE."
        )
    if facts.get("rstar.kind", "policy") != "policy":
        raise InputError(
            f"{path} is a preference model, not a policy; give it as --set search.ppm=FILE."
        )


def shared_facts(checkpoint: Path, shape: Shape, role: str) -> dict[str, Any]:
    """The facts that models and adapters have in common, with a preference model's head."""
    notes = read_notes(checkpoint)
    facts: dict[str, Any] = {
        "general.type": role,
        "general.name": checkpoint.resolve().name,
        "rstar.format": FORMAT,
        "rstar.kind": "ppm" if shape.scorer else "policy",
        "rstar.base": str(notes.get("base", "")),
    }
    if not shape.scorer:
        return facts
    value = shape.config.get("rstar_value") or {}
    objective = str(value.get("objective", notes.get("kind", "ppm")))
    head = ValueHead.of_checkpoint(checkpoint)
    return facts | {"rstar.objective": objective, "rstar.value": "tanh(score)"} | head.facts()


def named_tensors(checkpoint: Path, shape: Shape, weights: WeightFiles) -> dict[str, str]:
    """llama.cpp's name for each tensor of a checkpoint that goes into its file. Raises `InputError`
    where one is unknown or lacking."""
    tied = bool(shape.config.get("tie_word_embeddings"))
    names: dict[str, str] = {}
    for tensor in weights:
        left_out = tensor == "score.weight" if shape.scorer else tied and tensor == "lm_head.weight"
        if left_out or tensor.endswith("rotary_emb.inv_freq"):
            continue
        name = shape.name(tensor)
        if name is None:
            raise InputError(
                f"{checkpoint} has {tensor}, which llama.cpp's {shape.architecture} has not; is it "
                "a checkpoint of that family?"
            )
        names[tensor] = name
    wanted = ["model.embed_tokens.weight", "model.norm.weight"]
    wanted += [] if tied or shape.scorer else ["lm_head.weight"]
    for layer in range(int(shape.config["num_hidden_layers"])):
        parts = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in _MLP]
        wanted += [f"model.layers.{layer}.{part}.weight" for part in (*parts, *_NORMS)]
    for tensor in wanted:
        if tensor not in names:
            raise InputError(f"{checkpoint} lacks {tensor}; copy it again or train again.")
    return names


_MLP = ("gate", "up", "down")
_NORMS = ("input_layernorm", "post_attention_layernorm")


def _sizes(shape: Shape, vocabulary: int) -> dict[str, Any]:
    """The facts of an architecture."""
    config = shape.config
    width = int(config.get("head_dim") or config["hidden_size"] // shape.heads)
    rope = config.get("rope_parameters") or {}
    facts = {
        "block_count": int(config["num_hidden_layers"]),
        "context_length": int(config["max_position_embeddings"]),
        "embedding_length": int(config["hidden_size"]),
        "feed_forward_length": int(config["intermediate_size"]),
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.key_heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": width,
        "rope.freq_base": float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
        "vocab_size": vocabulary,
    }
    return {f"{shape.architecture}.{key}": value for key, value in facts.items()}


def readout(head: Any, vocabulary: int) -> Any:
    """The output matrix that has the score of a head's weights as token 0's logit, and its negative
    as token 1's."""
    import numpy as np

    rows: Any = np.zeros((vocabulary, len(head)), dtype=np.float32)
    rows[0] = head
    rows[1] = -rows[0]
    return rows


@cache
def _name_map(architecture: str, layers: int) -> Any:
    """llama.cpp's names for the tensors of a family."""
    gguf = require_gguf()
    return gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), layers)
