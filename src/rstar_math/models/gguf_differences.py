"""What a model learned, as a LoRA adapter of the model it began from: the difference of their
weights, each matrix cut to a low rank by its singular values (no matrix of that rank is nearer).

After several rounds that each trained an adapter on what the last one merged, this is the one
adapter that takes their place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rstar_math.config import LOCAL
from rstar_math.errors import InputError
from rstar_math.models.gguf_adapters import base_facts
from rstar_math.models.gguf_families import read_spec
from rstar_math.models.gguf_files import named_tensors, shared_facts
from rstar_math.models.gguf_header import read_header
from rstar_math.models.gguf_tensors import GgufTensors
from rstar_math.models.gguf_writing import Kind, Piece, require_gguf, write_pieces
from rstar_math.models.weight_files import WeightFiles
from rstar_math.models.weights import shipped_weights

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
    an adapter cannot hold; `MissingExtra`, and `StoreError` for the disk.
    """
    file = shipped_weights() if base == LOCAL else Path(base).expanduser()
    spec, header = read_spec(checkpoint), read_header(file)
    changes = list(_changes(checkpoint, file, rank))
    sides = [(f"{one.name}.lora_{side}", getattr(one, side)) for one in changes for side in "ab"]
    pieces = [Piece(name, data.shape, kind, partial(_itself, data)) for name, data in sides]
    facts = shared_facts(checkpoint, spec, "adapter") | base_facts(
        header.fact("block_count"), header.fact("embedding_length"), header.fingerprint()
    )
    facts |= {"rstar.base": base if base == LOCAL else file.name}
    facts |= {"adapter.type": "lora", "adapter.lora.alpha": float(rank)}
    write_pieces(out, spec.architecture, facts, pieces)
    return 1 - sum(one.lost for one in changes) / sum(one.size for one in changes)


def _itself(data: Any) -> Any:
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
                f"not trained from {base}); train with --set lora=16, or deploy without --adapter."
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
