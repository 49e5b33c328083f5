"""Writes GGUF files tensor by tensor, complete or not at all."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rstar_math.checkpoints.folders import convert_io_errors
from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.files import atomic_write

Kind = Literal["f32", "f16", "q8_0"]
_BLOCK = 32
"""Values of a row that share a scale in q8_0."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written; its data is asked for when its turn comes."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    data: Callable[[], Any]

    @property
    def stored(self) -> Kind:
        """How it is stored: norms and biases as float32, rows that no block fits as float16."""
        if len(self.shape) < 2:
            return "f32"
        return "f16" if self.kind == "q8_0" and self.shape[-1] % _BLOCK else self.kind


def require_gguf() -> Any:
    """The package gguf. Raises `MissingDependencyError`."""
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError(
            "Writing GGUF files needs the package gguf; type: pip install 'rstar-math[local]'."
        ) from error
    return gguf


def write_tensors(
    out: Path, architecture: str, facts: Mapping[str, Any], pieces: Sequence[TensorSpec]
) -> Path:
    """`out`, with these facts and tensors; at most one tensor is in memory at a time.

    Raises `InputError` where there is something at `out` already, and `StoreError` in one sentence
    where the disk is full or cannot be written.
    """
    gguf = require_gguf()
    if out.exists():
        raise InputError(f"{out} is there already; name another place or remove it.")
    with convert_io_errors(out), atomic_write(out) as part:
        _write(gguf, part, architecture, facts, pieces)
    return out


def _write(
    gguf: Any, part: Path, architecture: str, facts: Mapping[str, Any], pieces: Sequence[TensorSpec]
) -> None:
    import numpy as np

    writer = gguf.GGUFWriter(part, arch=architecture)
    try:
        for key, value in facts.items():
            add_metadata(writer, key, value)
        for piece in pieces:
            kind = getattr(gguf.GGMLQuantizationType, piece.stored.upper())
            row, size = gguf.GGML_QUANT_SIZES[kind]
            values = int(np.prod(piece.shape))
            shape: Sequence[int] = piece.shape
            if piece.stored == "q8_0":
                shape = gguf.quants.quant_shape_to_byte_shape(piece.shape, kind)
            number = {"f32": np.float32, "f16": np.float16, "q8_0": np.uint8}[piece.stored]
            raw = kind if piece.stored == "q8_0" else None
            writer.add_tensor_info(
                piece.name, shape, np.dtype(number), values // row * size, raw_dtype=raw
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        for piece in pieces:
            data = _encoded(gguf, piece)
            file.write(data)
            writer.write_padding(file, len(data))
    except BaseException:
        with suppress(OSError):  # a full disk fails the last write of what was kept back too
            writer.close()
        raise
    writer.close()


def _encoded(gguf: Any, piece: TensorSpec) -> bytes:
    """A tensor's bytes as they are stored."""
    import numpy as np

    data: Any = np.ascontiguousarray(piece.data(), dtype=np.float32)
    if data.shape != piece.shape:
        raise InputError(f"{piece.name} has shape {data.shape} instead of {piece.shape}.")
    if piece.stored == "q8_0":
        data = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
    elif piece.stored == "f16":
        data = data.astype(np.float16)
    found: bytes = data.tobytes()
    return found


def add_metadata(writer: Any, key: str, value: Any) -> None:
    """Add one fact to a writer; whole numbers as uint32, fractions as float32."""
    import numpy as np

    if isinstance(value, np.ndarray):
        value = [float(x) for x in value.ravel()]
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
