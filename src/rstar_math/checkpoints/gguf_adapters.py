"""Writes LoRA adapters as GGUF files, and merges them into model weights.

llama.cpp can also apply such an adapter to its base model at run time.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import (
    MALFORMED,
    bundled_weights,
    convert_malformed,
    read_json_object,
)
from rstar_math.checkpoints.gguf_export import named_tensors, score_output_matrix, shared_metadata
from rstar_math.checkpoints.gguf_families import FAMILIES, ModelSpec, read_spec
from rstar_math.checkpoints.gguf_writer import (
    TensorSpec,
    TensorType,
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
from rstar_math.checkpoints.value_heads import WEIGHT_KEY, ValueHead
from rstar_math.config.sections import LOCAL
from rstar_math.errors import InputError
from rstar_math.files import atomic_write

_BASE_PREFIX = "rstar.base."
"""Prefix of the metadata keys that identify an adapter's base model."""


def repack_weights(source: Path, target: Path, adapter: Path | None = None) -> None:
    """Write a model to `target` with its Q4_1 matrices converted to Q8_0.

    With `adapter`, the adapter is merged and the matrices that it changes become Q8_0 too. All
    other tensors are copied. The file is complete or absent. Raises `InputError` for damaged files,
    `MissingDependencyError`, and `OSError` if `target` cannot be written.
    """
    gguf = require_gguf()
    with atomic_write(target) as part:
        reader = gguf.GGUFReader(source)
        writer = gguf.GGUFWriter(part, arch=reader.get_field("general.architecture").contents())
        _copy_metadata(gguf, reader, writer)
        lora = _Adapter(adapter) if adapter else None
        for tensor in reader.tensors:
            data, kind = tensor.data, tensor.tensor_type
            update = lora.update_of(tensor.name) if lora else None
            if update is not None or kind == gguf.GGMLQuantizationType.Q4_1:
                weights = gguf.quants.dequantize(data, kind)
                kind = gguf.GGMLQuantizationType.Q8_0
                data = gguf.quants.quantize(weights if update is None else weights + update, kind)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
        if lora is not None:
            lora.write_head(gguf, reader, writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def apply_adapter(adapter: Path, model: Any) -> None:
    """Add an adapter's update to the weights of a transformers model of its base.

    A preference model also gets the adapter's head. Raises `InputError` and
    `MissingDependencyError`.
    """
    import torch

    header, scorer = read_header(adapter), hasattr(model, "score")
    config = model.config.to_dict()
    spec = ModelSpec(FAMILIES[config["model_type"]], scorer=scorer, config=config)
    lora = _Adapter(adapter)
    with torch.no_grad():
        if scorer:
            head = ValueHead.of_header(header)
            if head.bias:
                raise InputError(
                    f"{adapter} has a head with a bias, which checkpoints do not support."
                )
            model.score.weight.copy_(torch.tensor([head.weight]))
        for tensor, weights in model.named_parameters():
            update = lora.update_of(spec.gguf_name(tensor) or "")
            if update is not None:
                weights += torch.from_numpy(spec.from_gguf(tensor, update))


class _Adapter:
    """A LoRA adapter in a GGUF file."""

    def __init__(self, path: Path) -> None:
        self._metadata = read_header(path).metadata
        self._tensors = GgufTensors(path)

    def update_of(self, name: str) -> Any:
        """Return the update of a matrix, (outputs, inputs); None for an unchanged matrix."""
        if f"{name}.lora_a" not in self._tensors:
            return None
        a, b = self._tensors[f"{name}.lora_a"], self._tensors[f"{name}.lora_b"]
        return (float(self._metadata["adapter.lora.alpha"]) / a.shape[0]) * (b @ a)

    def write_head(self, gguf: Any, reader: Any, writer: Any) -> None:
        """Write the adapter's metadata, and a preference model's head as its output matrix."""
        for key, value in self._metadata.items():
            if key.startswith("rstar.") and not key.startswith(_BASE_PREFIX):
                add_metadata(writer, key, value)
        if WEIGHT_KEY in self._metadata:
            embeddings = next(t for t in reader.tensors if t.name == "token_embd.weight")
            kind = gguf.GGMLQuantizationType.Q8_0
            rows = score_output_matrix(self._metadata[WEIGHT_KEY], int(embeddings.shape[1]))
            data = gguf.quants.quantize(rows, kind)
            writer.add_tensor("output.weight", data, raw_dtype=kind)


def _copy_metadata(gguf: Any, reader: Any, writer: Any) -> None:
    for key, entry in reader.fields.items():
        if key.startswith(("GGUF.", "general.architecture")):
            continue
        value = entry.contents()
        if key == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_Q8_0)
        sub_type = entry.types[1] if len(entry.types) > 1 else None
        writer.add_key_value(key, value, entry.types[0], sub_type=sub_type)


_SINGULAR_TOLERANCE = 1e-15
"""Squared singular values below this share of the largest are rounding errors."""
_UNCHANGED_TOLERANCE = 2.5e-3
"""Maximum change of an untrained tensor, as a share of its largest value.

Rounding a base model to bfloat16 changes its weights by up to 2^-9.
"""


@dataclass(frozen=True, slots=True)
class _LowRankUpdate:
    """The low-rank approximation of the change of one matrix."""

    name: str
    b: Any
    """(outputs, rank)"""
    a: Any
    """(rank, inputs); b a is the best approximation of this rank."""
    squared_norm: float
    """Squared Frobenius norm of the change."""
    squared_error: float
    """Squared Frobenius norm of the approximation error."""


def extract_adapter(
    checkpoint: Path, out: Path, *, base: str = LOCAL, rank: int = 16, kind: TensorType = "f16"
) -> float:
    """Write to `out` the adapter that turns `base` into a policy or preference checkpoint.

    `base` is "local" or a .gguf file. Returns the share of the squared change that the adapter
    captures, in (0, 1]. The file is complete or absent. Raises `InputError` if other weights than
    the attention and MLP matrices were trained, `MissingDependencyError`, and `StoreError` for disk
    failures.
    """
    base_file = bundled_weights() if base == LOCAL else Path(base).expanduser()
    with convert_malformed(checkpoint):
        return _extract_adapter(checkpoint, out, base_file, (base, rank, kind))


def _extract_adapter(
    checkpoint: Path, out: Path, base_file: Path, about: tuple[str, int, TensorType]
) -> float:
    base, rank, kind = about
    spec, header = read_spec(checkpoint), read_header(base_file)
    updates = list(_low_rank_updates(checkpoint, base_file, rank))
    tensors = [
        TensorSpec(f"{update.name}.lora_{side}", data.shape, kind, partial(_identity, data))
        for update in updates
        for side, data in (("a", update.a), ("b", update.b))
    ]
    metadata = shared_metadata(checkpoint, spec, "adapter") | _base_metadata(
        header.value("block_count"), header.value("embedding_length"), header.fingerprint()
    )
    metadata |= {"rstar.base": base if base == LOCAL else base_file.name}
    metadata |= {"adapter.type": "lora", "adapter.lora.alpha": float(rank)}
    write_tensors(out, spec.architecture, metadata, tensors)
    total = sum(update.squared_norm for update in updates)
    return 1 - sum(update.squared_error for update in updates) / total


def _identity(data: Any) -> Any:
    return data


def _low_rank_updates(checkpoint: Path, base: Path, rank: int) -> Iterator[_LowRankUpdate]:
    """Yield the low-rank update of each trained matrix.

    Raises `InputError` if no matrix was trained, or if any other tensor was.
    """
    import numpy as np

    require_gguf()
    spec, weights, base_weights = read_spec(checkpoint), WeightFiles(checkpoint), GgufTensors(base)
    names = named_tensors(checkpoint, spec, weights)
    any_trained = False
    for tensor, name in names.items():
        new = spec.to_gguf(tensor, weights[tensor])
        old = base_weights[name]
        if old.shape != new.shape:
            raise InputError(
                f"{checkpoint} was not trained from {base}: {tensor} has shape {new.shape} instead "
                f"of {old.shape}; give its base model with --base."
            )
        unchanged = bool(np.abs(new - old).max() <= _UNCHANGED_TOLERANCE * np.abs(old).max())
        if "_proj." in tensor:
            if unchanged and np.array_equal(new, old):
                continue
            if min(old.shape) < rank:
                raise InputError(
                    f"{tensor} has only {min(old.shape)} rows or columns; lower --rank to that."
                )
            any_trained = True
            yield _truncate(name, new - old, rank)
        elif not unchanged:
            raise InputError(
                f"Training changed {tensor} of {checkpoint}, which an adapter cannot hold (or "
                f"{base} is not its base model); train with --set lora_rank=16, or deploy without "
                "--adapter."
            )
    if not any_trained:
        raise InputError(
            f"{checkpoint} equals its base {base}: nothing was trained; give a trained checkpoint."
        )


def _truncate(name: str, change: Any, rank: int) -> _LowRankUpdate:
    """Return the best approximation of a change, (outputs, inputs), of a given rank.

    The singular vectors are computed as eigenvectors of the Gram matrix, which takes at most a
    third of the time of an SVD.
    """
    import numpy as np

    tall = change.shape[0] >= change.shape[1]
    matrix = np.asarray(change if tall else change.T, dtype=np.float64)
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    squares = np.maximum(squares[::-1], 0.0)
    right = vectors[:, ::-1][:, :rank]
    significant = squares[:rank] > _SINGULAR_TOLERANCE * squares[0]
    roots = np.where(significant, squares[:rank], 0.0) ** 0.25
    long, short = matrix @ right / np.where(significant, roots, np.inf), right * roots
    b, a = (long, short.T) if tall else (short, long.T)
    b, a = (np.ascontiguousarray(factor, dtype=np.float32) for factor in (b, a))
    return _LowRankUpdate(name, b, a, float(squares.sum()), float(squares[rank:].sum()))


_LORA_KEY = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")


def write_adapter(checkpoint: Path, out: Path, *, kind: TensorType = "f16") -> Path:
    """Write the LoRA adapter of a policy or preference model to `out`, and return `out`.

    The adapter of a preference model includes its head. The base model is identified by its shape
    and output norm. The file is complete or absent. Raises `InputError`, `MissingDependencyError`,
    and `StoreError` for disk failures.
    """
    with convert_malformed(checkpoint):
        return _write_adapter(checkpoint, out, kind)


def _write_adapter(checkpoint: Path, out: Path, kind: TensorType) -> Path:
    spec = read_spec(checkpoint)
    folder = checkpoint / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{checkpoint} has no adapter because it was trained without LoRA; deploy it without "
            "--adapter, or give its base model (for example --base local)."
        )
    scale, rank = _read_scale_and_rank(folder)
    weights = WeightFiles(folder, "adapter_model")
    norm = spec.to_gguf("model.norm.weight", WeightFiles(checkpoint)["model.norm.weight"])
    hidden_size = int(spec.config["hidden_size"])
    metadata = shared_metadata(checkpoint, spec, "adapter")
    metadata |= _base_metadata(spec.layers, hidden_size, norm_fingerprint(norm.tobytes()))
    metadata |= {"adapter.type": "lora", "adapter.lora.alpha": scale * rank}
    tensors = _adapter_tensors(folder, spec, weights, kind)
    return write_tensors(out, spec.architecture, metadata, tensors)


def _read_scale_and_rank(folder: Path) -> tuple[float, int]:
    """Return the factor of an adapter's matrix product, and its rank. Raises `InputError`."""
    config = read_json_object(folder / "adapter_config.json")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except MALFORMED as error:
        raise InputError(f"{folder}/adapter_config.json is damaged; copy it again.") from error
    unsupported = [k for k in ("use_dora", "rank_pattern", "alpha_pattern") if config.get(k)]
    if unsupported or config.get("bias", "none") != "none" or rank < 1:
        raise InputError(
            f"The adapter {folder} uses {unsupported[0] if unsupported else 'biases'}, which "
            "llama.cpp does not support; deploy the merged model, without --adapter."
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), rank


def _adapter_tensors(
    folder: Path, spec: ModelSpec, weights: WeightFiles, kind: TensorType
) -> list[TensorSpec]:
    """Return the matrices of an adapter. Raises `InputError` for unsupported tensors.

    Both matrices of a pair are scaled to a similar magnitude, so that float16 keeps small values.
    """
    tensors = []
    for key in weights:
        match = _LORA_KEY.fullmatch(key)
        if match is None:
            if key.startswith("base_model.model.score"):
                continue
            raise InputError(
                f"The adapter {folder} has {key}, which llama.cpp does not support in adapters; "
                "deploy the merged model, without --adapter."
            )
        module, side = match[1], match[2]
        name = spec.gguf_name(f"{module}.weight")
        if name is None:
            raise InputError(
                f"llama.cpp's {spec.architecture} has no module {module}; deploy the merged model, "
                "without --adapter."
            )

        def load(key: str = key, module: str = module, side: str = side) -> Any:
            partner = key.replace(f".lora_{side}.", f".lora_{'AB'.replace(side, '')}.")
            matrix = weights[key] * _balancing_factor(weights[key], weights[partner])
            return spec.to_gguf(f"{module}.weight", matrix) if side == "B" else matrix

        tensors.append(TensorSpec(f"{name}.lora_{side.lower()}", weights.shape(key), kind, load))
    return tensors


def _balancing_factor(matrix: Any, partner: Any) -> float:
    """Return the power of two that brings a matrix halfway to its partner's magnitude.

    The partner gets the inverse factor, so the product is unchanged.
    """
    sizes = float(abs(matrix).max()), float(abs(partner).max())
    if min(sizes) == 0.0:
        return 1.0
    return 2.0 ** round(math.log2(sizes[1] / sizes[0]) / 2)


def _base_metadata(layers: int, size: int, norm: str) -> dict[str, Any]:
    """Return the metadata that identifies an adapter's base model.

    `size` is the length of a hidden state, `norm` the fingerprint of the output norm.
    """
    return {
        _BASE_PREFIX + "layers": layers,
        _BASE_PREFIX + "size": size,
        _BASE_PREFIX + "norm": norm,
    }


def check_adapter(adapter: Path, base: Path, *, kind: str) -> GgufHeader:
    """Return an adapter's header if the adapter fits a base model. Raises `InputError` otherwise.

    `kind` is "policy" or "ppm". Adapters written by other tools do not record their kind or base;
    llama.cpp then compares shapes.
    """
    header, base_header = read_header(adapter), read_header(base)
    if header.metadata.get("general.type") != "adapter":
        raise InputError(f"{adapter} is a complete model, not an adapter; give it as --model.")
    metadata = header.metadata
    actual = metadata.get("rstar.kind", kind)
    if actual != kind:
        kinds = {"ppm": "a preference model", "policy": "a policy"}
        raise InputError(
            f"The adapter {adapter} belongs to {kinds.get(actual, actual)}, but {kinds[kind]} is "
            f"needed; give it as {'search.ppm' if actual == 'ppm' else 'model.adapter'}."
        )
    layers, size, norm = (metadata.get(_BASE_PREFIX + key) for key in ("layers", "size", "norm"))
    same_shape = (layers, size) == (
        base_header.value("block_count"),
        base_header.value("embedding_length"),
    )
    same_base = same_shape and norm in base_header.fingerprints()
    if header.architecture != base_header.architecture or (layers is not None and not same_base):
        raise InputError(
            f"The adapter {adapter} was trained on another model than {base} "
            f"({metadata.get('rstar.base') or 'not named'}, {layers} layers of size {size}); give "
            "its base model with --model."
        )
    return header
