"""Writes checkpoints as GGUF files, which llama.cpp runs without torch.

A policy is written as it is. A preference model is written with its value head, which appears
twice:

- as metadata (`rstar.head.*`), for a client that receives the last hidden state h;
- as the output matrix, with rows w for token 0, -w for token 1 and 0 for all other tokens.

With the output matrix, the log-probabilities of tokens 0 and 1 as the first token differ by 2 w h.
llama.cpp caches the prompt of a completion, but not that of an embedding.
"""

from functools import partial
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import convert_malformed, read_notes
from rstar_math.checkpoints.gguf_families import ModelSpec, read_spec
from rstar_math.checkpoints.gguf_tokenizer import tokenizer_metadata
from rstar_math.checkpoints.gguf_writer import TensorSpec, TensorType, write_tensors
from rstar_math.checkpoints.tensors import PROMPTING_KEYS, WeightFiles, read_header
from rstar_math.checkpoints.value_heads import ValueHead
from rstar_math.errors import InputError

FORMAT = 1
"""Version of the `rstar.*` metadata."""
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}


def write_gguf(checkpoint: Path, out: Path, *, kind: TensorType = "q8_0") -> Path:
    """Write a policy or preference model to `out` as one GGUF file, and return `out`.

    For a model trained with LoRA, the merged weights are written. Matrices are stored as `kind`,
    norms and biases as float32. The file is complete or absent. Raises `InputError`,
    `MissingDependencyError`, and `StoreError` for disk failures.
    """
    with convert_malformed(checkpoint):
        return _write_gguf(checkpoint, out, kind)


def _write_gguf(checkpoint: Path, out: Path, kind: TensorType) -> Path:
    spec = read_spec(checkpoint)
    weights = WeightFiles(checkpoint)
    names = named_tensors(checkpoint, spec, weights)
    vocabulary = weights.shape("model.embed_tokens.weight")[0]
    tokenizer = tokenizer_metadata(checkpoint, vocabulary)
    metadata = shared_metadata(checkpoint, spec, "model") | spec.metadata(vocabulary)
    metadata["general.file_type"] = _FILE_TYPES[kind]
    metadata["general.quantization_version"] = 2
    metadata["general.name"] = tokenizer.model_name(str(metadata["general.name"]))

    def load(name: str) -> Any:
        return spec.to_gguf(name, weights[name])

    tensors = [
        TensorSpec(gguf_name, weights.shape(name), kind, partial(load, name))
        for name, gguf_name in names.items()
    ]
    for name, divisors in spec.rope_tensors().items():
        tensors.append(TensorSpec(name, (len(divisors),), kind, partial(list, divisors)))
    if spec.scorer:
        shape = (vocabulary, len(ValueHead.of_checkpoint(checkpoint).weight))
        if shape != weights.shape("model.embed_tokens.weight"):
            raise InputError(
                f"The value head of {checkpoint} reads {shape[1]} numbers, but its model has "
                f"{weights.shape('model.embed_tokens.weight')[1]}; copy it again or train again."
            )
        rows = partial(score_output_matrix, weights["score.weight"][0], vocabulary)
        tensors.append(TensorSpec("output.weight", shape, kind, rows))
    return write_tensors(out, spec.architecture, metadata | tokenizer.metadata, tensors)


def check_policy(path: Path) -> None:
    """Raise `InputError` if a .gguf file is damaged, a preference model or an adapter."""
    metadata = read_header(path).metadata
    if metadata.get("general.type") == "adapter":
        raise InputError(
            f"{path} is an adapter; name the model it was trained on, and the adapter with "
            "--set model.adapter=FILE."
        )
    if metadata.get("rstar.kind", "policy") != "policy":
        raise InputError(
            f"{path} is a preference model, not a policy; give it as --set search.ppm=FILE."
        )


def shared_metadata(checkpoint: Path, spec: ModelSpec, file_type: str) -> dict[str, Any]:
    """Return the metadata entries that models and adapters share.

    `file_type` is "model" or "adapter". The entries of a preference model include its value head.
    """
    notes = read_notes(checkpoint)
    metadata: dict[str, Any] = {
        "general.type": file_type,
        "general.name": checkpoint.resolve().name,
        "rstar.format": FORMAT,
        "rstar.kind": "ppm" if spec.scorer else "policy",
        "rstar.base": str(notes.get("base", "")),
    }
    prompting = notes.get("prompting") or {}
    metadata |= {
        key: str(prompting[name]) for name, key in PROMPTING_KEYS.items() if name in prompting
    }
    if not spec.scorer:
        return metadata
    value = spec.config.get("rstar_value") or {}
    objective = str(value.get("objective", notes.get("kind", "ppm")))
    head = ValueHead.of_checkpoint(checkpoint)
    metadata |= {"rstar.objective": objective, "rstar.value": "tanh(score)"}
    return metadata | head.metadata()


def named_tensors(checkpoint: Path, spec: ModelSpec, weights: WeightFiles) -> dict[str, str]:
    """Return llama.cpp's name for each tensor of a checkpoint that is written.

    Raises `InputError` if a tensor is unknown or missing.
    """
    tied = bool(spec.config.get("tie_word_embeddings", "lm_head.weight" not in weights))
    names: dict[str, str] = {}
    for tensor in weights:
        skipped = tensor == "score.weight" if spec.scorer else tied and tensor == "lm_head.weight"
        if skipped or tensor.endswith("rotary_emb.inv_freq"):
            continue
        name = spec.gguf_name(tensor)
        if name is None or (tensor.endswith(".bias") and not spec.family.biases):
            raise InputError(
                f"{checkpoint} has {tensor}, which llama.cpp's {spec.architecture} does not "
                "support; give a checkpoint of that family."
            )
        names[tensor] = name
    for tensor in spec.required_tensors(tied=tied):
        if tensor not in names:
            raise InputError(f"{checkpoint} lacks {tensor}; copy it again or train again.")
    return names


def score_output_matrix(head_weight: Any, vocabulary: int) -> Any:
    """Return an output matrix (V, H): the score is the logit of token 0, its negative of token 1.

    All other logits are 0.
    """
    import numpy as np

    rows: Any = np.zeros((vocabulary, len(head_weight)), dtype=np.float32)
    rows[0] = head_weight
    rows[1] = -rows[0]
    return rows
