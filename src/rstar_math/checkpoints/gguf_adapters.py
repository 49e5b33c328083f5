"""LoRA adapters as GGUF files, and adapters merged into a model's weights. llama.cpp adds an
adapter to its base model at run time."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import bundled_weights
from rstar_math.checkpoints.gguf_export import named_tensors, score_output_matrix, shared_metadata
from rstar_math.checkpoints.gguf_families import FAMILIES, ModelSpec, read_spec
from rstar_math.checkpoints.gguf_writer import (
    Kind,
    TensorSpec,
    add_metadata,
    require_gguf,
    write_tensors,
)
from rstar_math.checkpoints.tensors import (
    GgufHeader,
    GgufTensors,
    WeightFiles,
    norm_fingerprint,
    read_header,
)
from rstar_math.checkpoints.value_heads import WEIGHT, ValueHead
from rstar_math.config.sections import LOCAL
from rstar_math.errors import InputError
from rstar_math.files import atomic_write

_OF_THE_BASE = "rstar.base."


def repack_weights(source: Path, target: Path, adapter: Path | None = None) -> None:
    """Write to `target`, whole or not at all, a model with its Q4_1 matrices and those that
    `adapter` changes as Q8_0, everything else as it is.

    Raises `InputError` for damaged files, `MissingDependencyError`, and `OSError` where `target`
    cannot be written.
    """
    gguf = require_gguf()
    with atomic_write(target) as part:
        reader = gguf.GGUFReader(source)
        writer = gguf.GGUFWriter(part, arch=reader.get_field("general.architecture").contents())
        _copy_facts(gguf, reader, writer)
        change = _Adapter(adapter) if adapter else None
        for tensor in reader.tensors:
            data, kind = tensor.data, tensor.tensor_type
            added = change.of(tensor.name) if change else None
            if added is not None or kind == gguf.GGMLQuantizationType.Q4_1:
                whole = gguf.quants.dequantize(data, kind)
                kind = gguf.GGMLQuantizationType.Q8_0
                data = gguf.quants.quantize(whole if added is None else whole + added, kind)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
        if change is not None:
            change.write_head(gguf, reader, writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def apply_adapter(adapter: Path, model: Any) -> None:
    """Add what an adapter learned to the weights of a transformers model of its base; a preference
    model gets its head. Raises `InputError` and `MissingDependencyError`."""
    import torch

    header, scorer = read_header(adapter), hasattr(model, "score")
    config = model.config.to_dict()
    spec = ModelSpec(FAMILIES[config["model_type"]], scorer=scorer, config=config)
    change = _Adapter(adapter)
    with torch.no_grad():
        if scorer:
            head = ValueHead.of_header(header)
            if head.bias:
                raise InputError(f"{adapter} has a head with a bias, which a checkpoint has not.")
            model.score.weight.copy_(torch.tensor([head.weight]))
        for tensor, weights in model.named_parameters():
            added = change.of(spec.gguf_name(tensor) or "")
            if added is not None:
                weights += torch.from_numpy(spec.from_gguf(tensor, added))


class _Adapter:
    """What an adapter adds to its base."""

    def __init__(self, path: Path) -> None:
        self._facts = read_header(path).metadata
        self._learned = GgufTensors(path)

    def of(self, name: str) -> Any:
        """What is added to a matrix; None for one that is left alone."""
        if f"{name}.lora_a" not in self._learned:
            return None
        a, b = self._learned[f"{name}.lora_a"], self._learned[f"{name}.lora_b"]
        return (float(self._facts["adapter.lora.alpha"]) / a.shape[0]) * (b @ a)

    def write_head(self, gguf: Any, reader: Any, writer: Any) -> None:
        """The adapter's facts, and a preference model's head as its output matrix."""
        for key, value in self._facts.items():
            if key.startswith("rstar.") and not key.startswith(_OF_THE_BASE):
                add_metadata(writer, key, value)
        if WEIGHT in self._facts:
            vocabulary = next(t for t in reader.tensors if t.name == "token_embd.weight").shape[1]
            kind = gguf.GGMLQuantizationType.Q8_0
            rows = score_output_matrix(self._facts[WEIGHT], int(vocabulary))
            data = gguf.quants.quantize(rows, kind)
            writer.add_tensor("output.weight", data, raw_dtype=kind)


def _copy_facts(gguf: Any, reader: Any, writer: Any) -> None:
    for key, entry in reader.fields.items():
        if key.startswith(("GGUF.", "general.architecture")):
            continue
        value = entry.contents()
        if key == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_Q8_0)
        sub_type = entry.types[1] if len(entry.types) > 1 else None
        writer.add_key_value(key, value, entry.types[0], sub_type=sub_type)


_ROUNDING = 1e-15
"""Share of a matrix's largest squared singular value below which the others are rounding."""
_SAME = 2.5e-3
"""Share of a tensor's largest number by which rounding may move what was not trained: a base that
was held in bfloat16 has moved by up to 2^-9."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What training added to one matrix, as two factors."""

    name: str
    b: Any
    """(outputs, rank)"""
    a: Any
    """(rank, inputs); b a is the nearest of its rank to the change."""
    size: float
    """Sum of the change's squares."""
    lost: float
    """That of what b a leaves out."""


def write_difference(
    checkpoint: Path, out: Path, *, base: str = LOCAL, rank: int = 16, kind: Kind = "f16"
) -> float:
    """Write to `out`, whole or not at all, the adapter that turns `base` ("local" or a .gguf file)
    into the checkpoint of a policy or preference model; the share of the change that it holds, in
    (0, 1], by the squared size of all matrices.

    Raises `InputError` where other weights than attention's and MLP's matrices were trained, which
    an adapter cannot hold; `MissingDependencyError`, and `StoreError` for the disk.
    """
    file = bundled_weights() if base == LOCAL else Path(base).expanduser()
    spec, header = read_spec(checkpoint), read_header(file)
    changes = list(_changes(checkpoint, file, rank))
    sides = [(f"{one.name}.lora_{side}", getattr(one, side)) for one in changes for side in "ab"]
    pieces = [TensorSpec(name, data.shape, kind, partial(_weights, data)) for name, data in sides]
    facts = shared_metadata(checkpoint, spec, "adapter") | base_metadata(
        header.value("block_count"), header.value("embedding_length"), header.fingerprint()
    )
    facts |= {"rstar.base": base if base == LOCAL else file.name}
    facts |= {"adapter.type": "lora", "adapter.lora.alpha": float(rank)}
    write_tensors(out, spec.architecture, facts, pieces)
    return 1 - sum(one.lost for one in changes) / sum(one.size for one in changes)


def _weights(data: Any) -> Any:
    return data


def _changes(checkpoint: Path, base: Path, rank: int) -> Iterator[_Change]:
    """The matrices that were trained. Raises `InputError` where anything else was."""
    import numpy as np

    require_gguf()
    spec, weights, before = read_spec(checkpoint), WeightFiles(checkpoint), GgufTensors(base)
    names = named_tensors(checkpoint, spec, weights)
    found = False
    for tensor, name in names.items():
        after = spec.to_gguf(tensor, weights[tensor])
        old = before[name]
        if old.shape != after.shape:
            raise InputError(
                f"{checkpoint} was not trained from {base}: {tensor} has shape {after.shape} and "
                f"not {old.shape}; name its own with --base."
            )
        same = bool(np.abs(after - old).max() <= _SAME * np.abs(old).max())
        if "_proj." in tensor:
            if same and np.array_equal(after, old):
                continue
            if min(old.shape) < rank:
                raise InputError(f"{tensor} has only {min(old.shape)} rows; lower --rank to that.")
            found = True
            yield _cut(name, after - old, rank)
        elif not same:
            raise InputError(
                f"Training moved {tensor} of {checkpoint}, which an adapter cannot hold (or it was "
                f"not trained from {base}); train with --set lora_rank=16, or deploy without "
                "--adapter."
            )
    if not found:
        raise InputError(f"{checkpoint} is {base} itself: nothing was trained.")


def _cut(name: str, change: Any, rank: int) -> _Change:
    """A change of (outputs, inputs) cut to a rank. Its singular vectors are eigenvectors of its
    product with itself, which take a third of the time or less."""
    import numpy as np

    tall = change.shape[0] >= change.shape[1]
    matrix = np.asarray(change if tall else change.T, dtype=np.float64)
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    squares = np.maximum(squares[::-1], 0.0)
    right = vectors[:, ::-1][:, :rank]
    kept = squares[:rank] > _ROUNDING * squares[0]
    roots = np.where(kept, squares[:rank], 0.0) ** 0.25
    long, short = matrix @ right / np.where(kept, roots, np.inf), right * roots
    b, a = (long, short.T) if tall else (short, long.T)
    b, a = (np.ascontiguousarray(one, dtype=np.float32) for one in (b, a))
    return _Change(name, b, a, float(squares.sum()), float(squares[rank:].sum()))


BASE = "rstar.base."
_PLAIN = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")


def write_adapter(checkpoint: Path, out: Path, *, kind: Kind = "f16") -> Path:
    """`out`, written whole or not at all: the adapter of a policy or preference model that was
    trained with LoRA, with a preference model's head.

    The base is known again by its shape and last norm. Raises `InputError`,
    `MissingDependencyError`, and `StoreError` for the disk.
    """
    spec = read_spec(checkpoint)
    folder = checkpoint / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{checkpoint} has no adapter: it was trained without LoRA; deploy it without "
            "--adapter, or say what it was trained from (--base local)."
        )
    scale, rank = _settings(folder)
    weights = WeightFiles(folder, "adapter_model")
    last = spec.to_gguf("model.norm.weight", WeightFiles(checkpoint)["model.norm.weight"])
    size = int(spec.config["hidden_size"])
    facts = shared_metadata(checkpoint, spec, "adapter")
    facts |= base_metadata(spec.layers, size, norm_fingerprint(last.tobytes()))
    facts |= {"adapter.type": "lora", "adapter.lora.alpha": scale * rank}
    return write_tensors(out, spec.architecture, facts, _pieces(folder, spec, weights, kind))


def _settings(folder: Path) -> tuple[float, int]:
    """What the product of an adapter's matrices is multiplied with, and their rank."""
    try:
        said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        rank, alpha = int(said["r"]), float(said["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}/adapter_config.json is damaged; copy it again.") from error
    odd = [key for key in ("use_dora", "rank_pattern", "alpha_pattern") if said.get(key)]
    if odd or said.get("bias", "none") != "none" or rank < 1:
        raise InputError(
            f"The adapter {folder} uses {odd[0] if odd else 'biases'}, which llama.cpp's adapters "
            "have not; deploy the merged model, without --adapter."
        )
    return alpha / (math.sqrt(rank) if said.get("use_rslora") else rank), rank


def _pieces(folder: Path, spec: ModelSpec, weights: WeightFiles, kind: Kind) -> list[TensorSpec]:
    """An adapter's matrices, each pair brought to one size, so that small numbers keep their digits
    in float16."""
    pieces = []
    for key in weights:
        found = _PLAIN.fullmatch(key)
        if found is None:
            if key.startswith("base_model.model.score"):
                continue
            raise InputError(
                f"The adapter {folder} has {key}, which llama.cpp's adapters have not; deploy the "
                "merged model, without --adapter."
            )
        module, side = found[1], found[2]
        name = spec.gguf_name(f"{module}.weight")
        if name is None:
            raise InputError(f"llama.cpp's {spec.architecture} has no {module}.")

        def data(key: str = key, module: str = module, side: str = side) -> Any:
            other = key.replace(f".lora_{side}.", f".lora_{'AB'.replace(side, '')}.")
            matrix = weights[key] * _padded(weights[key], weights[other])
            return spec.to_gguf(f"{module}.weight", matrix) if side == "B" else matrix

        pieces.append(TensorSpec(f"{name}.lora_{side.lower()}", weights.shape(key), kind, data))
    return pieces


def _padded(one: Any, other: Any) -> float:
    """The power of two that brings a matrix to the size of its partner, half of the way."""
    sizes = float(abs(one).max()), float(abs(other).max())
    if min(sizes) == 0.0:
        return 1.0
    return 2.0 ** round(math.log2(sizes[1] / sizes[0]) / 2)


def base_metadata(layers: int, size: int, norm: str) -> dict[str, Any]:
    """What tells an adapter's base from other models: its layers, the length of a hidden state, and
    the fingerprint of its last norm."""
    return {BASE + "layers": layers, BASE + "size": size, BASE + "norm": norm}


def check_adapter(adapter: Path, base: Path, *, kind: str) -> GgufHeader:
    """An adapter's header, if it is one of this kind ("policy" or "ppm") for this base.

    Adapters that others wrote do not say what they are for; llama.cpp then compares shapes. Raises
    `InputError`.
    """
    header, below = read_header(adapter), read_header(base)
    if header.metadata.get("general.type") != "adapter":
        raise InputError(f"{adapter} is a whole model, not an adapter; give it as --model.")
    ours = header.metadata.get("rstar.kind", kind)
    if ours != kind:
        kinds = {"ppm": "a preference model", "policy": "a policy"}
        raise InputError(
            f"The adapter {adapter} is of {kinds.get(ours, ours)}, and {kinds[kind]} is wanted; "
            f"give it as {'search.ppm' if ours == 'ppm' else 'model.adapter'}."
        )
    facts = header.metadata
    wanted = facts.get(BASE + "layers"), facts.get(BASE + "size"), facts.get(BASE + "norm")
    there = below.value("block_count"), below.value("embedding_length")
    alike = header.architecture == below.architecture
    known = wanted[:2] == there and wanted[2] in below.fingerprints()
    if not alike or (wanted[0] is not None and not known):
        raise InputError(
            f"The adapter {adapter} was trained on another model than {base} "
            f"({facts.get('rstar.base') or 'not named'}, {wanted[0]} layers of {wanted[1]}); name "
            "its own with --model."
        )
    return header
