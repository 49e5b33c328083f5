"""Checkpoints as GGUF files, which llama.cpp runs without torch: a policy as it is, a preference
model with its head.

The head goes into the file twice: as facts (`rstar.head.*`), for whoever has the last hidden state;
and as the rows of the output matrix, w for token 0, -w for token 1 and 0 for all others. Two
log-probabilities of a completion's first token then differ by |w h|, and llama.cpp keeps a
completion's prompt in its cache, which it does not for embeddings.
"""

from functools import partial
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import read_notes
from rstar_math.checkpoints.gguf_families import ModelSpec, read_spec
from rstar_math.checkpoints.gguf_tokenizer import tokenizer_metadata
from rstar_math.checkpoints.gguf_writer import Kind, TensorSpec, write_tensors
from rstar_math.checkpoints.tensors import GGUF_KEYS, WeightFiles, read_header
from rstar_math.checkpoints.value_heads import ValueHead
from rstar_math.errors import InputError

FORMAT = 1
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}


def write_gguf(checkpoint: Path, out: Path, *, kind: Kind = "q8_0") -> Path:
    """`out`, written whole or not at all: a policy or preference model as one GGUF file.

    Of a model trained with LoRA the merged weights are taken. Matrices are stored as `kind`, norms
    and biases as float32. Raises `InputError`, `MissingDependencyError`, and `StoreError` for the
    disk.
    """
    spec = read_spec(checkpoint)
    weights = WeightFiles(checkpoint)
    names = named_tensors(checkpoint, spec, weights)
    vocabulary = weights.shape("model.embed_tokens.weight")[0]
    tokenizer = tokenizer_metadata(checkpoint, vocabulary)
    facts = shared_metadata(checkpoint, spec, "model") | spec.settings(vocabulary)
    facts["general.file_type"] = _FILE_TYPES[kind]
    facts["general.quantization_version"] = 2
    facts["general.name"] = tokenizer.model_name(str(facts["general.name"]))

    def data(tensor: str) -> Any:
        return spec.to_gguf(tensor, weights[tensor])

    pieces = [
        TensorSpec(name, weights.shape(tensor), kind, partial(data, tensor))
        for tensor, name in names.items()
    ]
    for name, divisors in spec.rope_tensors().items():
        pieces.append(TensorSpec(name, (len(divisors),), kind, partial(list, divisors)))
    if spec.scorer:
        size = (vocabulary, weights.shape("score.weight")[1])
        rows = partial(score_output_matrix, weights["score.weight"][0], vocabulary)
        pieces.append(TensorSpec("output.weight", size, kind, rows))
    return write_tensors(out, spec.architecture, facts | tokenizer.metadata, pieces)


def check_policy(path: Path) -> None:
    """Nothing, where a .gguf file may be a policy; raises `InputError` for damaged files, for
    preference models and for adapters."""
    facts = read_header(path).metadata
    if facts.get("general.type") == "adapter":
        raise InputError(
            f"{path} is an adapter; name the model it was trained on, and the adapter with "
            "--set model.adapter=FILE."
        )
    if facts.get("rstar.kind", "policy") != "policy":
        raise InputError(
            f"{path} is a preference model, not a policy; give it as --set search.ppm=FILE."
        )


def shared_metadata(checkpoint: Path, spec: ModelSpec, role: str) -> dict[str, Any]:
    """The facts that models and adapters have in common, with a preference model's head."""
    notes = read_notes(checkpoint)
    facts: dict[str, Any] = {
        "general.type": role,
        "general.name": checkpoint.resolve().name,
        "rstar.format": FORMAT,
        "rstar.kind": "ppm" if spec.scorer else "policy",
        "rstar.base": str(notes.get("base", "")),
    }
    prompting = notes.get("prompting") or {}
    facts |= {at: str(prompting[key]) for key, at in GGUF_KEYS.items() if key in prompting}
    if not spec.scorer:
        return facts
    value = spec.config.get("rstar_value") or {}
    objective = str(value.get("objective", notes.get("kind", "ppm")))
    head = ValueHead.of_checkpoint(checkpoint)
    return facts | {"rstar.objective": objective, "rstar.value": "tanh(score)"} | head.metadata()


def named_tensors(checkpoint: Path, spec: ModelSpec, weights: WeightFiles) -> dict[str, str]:
    """llama.cpp's name for each tensor of a checkpoint that goes into its file. Raises `InputError`
    where one is unknown or lacking."""
    tied = bool(spec.config.get("tie_word_embeddings", "lm_head.weight" not in weights))
    names: dict[str, str] = {}
    for tensor in weights:
        left_out = tensor == "score.weight" if spec.scorer else tied and tensor == "lm_head.weight"
        if left_out or tensor.endswith("rotary_emb.inv_freq"):
            continue
        name = spec.gguf_name(tensor)
        if name is None or (tensor.endswith(".bias") and not spec.family.biases):
            raise InputError(
                f"{checkpoint} has {tensor}, which llama.cpp's {spec.architecture} has not; is it "
                "a checkpoint of that family?"
            )
        names[tensor] = name
    for tensor in spec.required(tied=tied):
        if tensor not in names:
            raise InputError(f"{checkpoint} lacks {tensor}; copy it again or train again.")
    return names


def score_output_matrix(head: Any, vocabulary: int) -> Any:
    """The output matrix that has the score of a head's weights as token 0's logit, and its negative
    as token 1's."""
    import numpy as np

    rows: Any = np.zeros((vocabulary, len(head)), dtype=np.float32)
    rows[0] = head
    rows[1] = -rows[0]
    return rows
