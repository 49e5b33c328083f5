"""Writes GGUF files tensor by tensor. A file is complete or absent."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rstar_math.checkpoints.folders import convert_io_errors
from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.files import atomic_write

TensorType = Literal["f32", "f16", "q8_0"]
_BLOCK_SIZE = 32
"""Number of values that share a scale in q8_0."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    requested_type: TensorType
    load: Callable[[], Any]
    """Returns the values; called just before they are written."""

    @property
    def type(self) -> TensorType:
        """The type in the file.

        Norms and biases are float32. Matrices whose rows are not a multiple of the q8_0 block size
        are float16.
        """
        if len(self.shape) < 2:
            return "f32"
        if self.requested_type == "q8_0" and self.shape[-1] % _BLOCK_SIZE:
            return "f16"
        return self.requested_type


def require_gguf() -> Any:
    """Return the package gguf. Raises `MissingDependencyError`."""
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError(
            "Writing GGUF files needs the package gguf; run: pip install 'rstar-math[local]'."
        ) from error
    return gguf


def write_tensors(
    out: Path, architecture: str, metadata: Mapping[str, Any], tensors: Sequence[TensorSpec]
) -> Path:
    """Write metadata and tensors to `out` and return `out`. Only one tensor is in memory at a time.

    Raises `InputError` if `out` exists, and `StoreError` if the disk is full or not writable.
    """
    gguf = require_gguf()
    if out.exists():
        raise InputError(f"{out} exists already; choose another path or remove it.")
    with convert_io_errors(out), atomic_write(out) as part:
        _write(gguf, part, architecture, metadata, tensors)
    return out


def _write(
    gguf: Any,
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorSpec],
) -> None:
    writer = gguf.GGUFWriter(path, arch=architecture)
    try:
        for key, value in metadata.items():
            add_metadata(writer, key, value)
        for tensor in tensors:
            _add_tensor_info(gguf, writer, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        for tensor in tensors:
            data = _encode(gguf, tensor)
            file.write(data)
            writer.write_padding(file, len(data))
    except BaseException:
        with suppress(OSError):  # on a full disk, flushing the buffers fails too
            writer.close()
        raise
    writer.close()


def _add_tensor_info(gguf: Any, writer: Any, tensor: TensorSpec) -> None:
    """Declare the name, shape, type and size of a tensor."""
    import numpy as np

    ggml_type = getattr(gguf.GGMLQuantizationType, tensor.type.upper())
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[ggml_type]
    size_bytes = int(np.prod(tensor.shape)) // block_values * block_bytes
    if tensor.type == "q8_0":
        shape = gguf.quants.quant_shape_to_byte_shape(tensor.shape, ggml_type)
        dtype: Any = np.dtype(np.uint8)
        writer.add_tensor_info(tensor.name, shape, dtype, size_bytes, raw_dtype=ggml_type)
    else:
        dtype = np.dtype(np.float32 if tensor.type == "f32" else np.float16)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, size_bytes, raw_dtype=None)


def _encode(gguf: Any, tensor: TensorSpec) -> bytes:
    """Return the bytes of a tensor in its stored type."""
    import numpy as np

    data: Any = np.ascontiguousarray(tensor.load(), dtype=np.float32)
    if data.shape != tensor.shape:
        raise InputError(f"{tensor.name} has shape {data.shape} instead of {tensor.shape}.")
    if tensor.type == "q8_0":
        data = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
    elif tensor.type == "f16":
        data = data.astype(np.float16)
    return bytes(data.tobytes())


def add_metadata(writer: Any, key: str, value: Any) -> None:
    """Add one metadata entry to a writer. Integers become uint32, floats float32."""
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
