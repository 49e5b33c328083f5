"""Reads GGUF and safetensors files without torch.

Formats: ggml-org/ggml, docs/gguf.md; huggingface/safetensors.
"""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from rstar_math.checkpoints.folders import MALFORMED
from rstar_math.checkpoints.gguf_writer import require_gguf
from rstar_math.errors import InputError

_STRING, _ARRAY = 8, 9
"""GGUF's numbers of its value types of variable size."""
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"} | {
    10: "<Q",
    11: "<q",
    12: "<d",
}
"""`struct` format of each GGUF value type of fixed size, by its number."""
GGML_F32 = 0
"""ggml's number of the tensor type float32."""
_MAX_COUNT = 1 << 24
"""Maximum number of entries, array elements or string bytes; larger counts mean a damaged file."""
_MAX_DEPTH = 3
"""Maximum depth of arrays in arrays."""
_MAX_BLOCK = 256
"""No GGUF type stores more values per byte of a file."""
PROMPTING_KEYS = {
    "prompt": "rstar.prompt",
    "format": "rstar.prompt.format",
    "mode": "rstar.prompt.mode",
}
"""GGUF metadata keys of `Renderer.description`: how the model was prompted in training."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The location and type of a tensor in a GGUF file."""

    shape: tuple[int, ...]
    """Dimensions in GGUF order: the fastest dimension first."""
    ggml_type: int
    """ggml's number of the type; 0 is float32."""
    offset: int
    """Offset in the file, in bytes."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata and tensor table of a GGUF file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model family."""
        return str(self.metadata.get("general.architecture", ""))

    def value(self, key: str) -> Any:
        """Return an entry of the architecture, for example "block_count"; None if it is missing."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def fingerprint(self) -> str:
        """Return an identifier of a base model; "" if the file has no float32 output norm.

        It is a hash of the output norm, which is float32 in every quantization and which adapters
        do not change.
        """
        norm = self._output_norm()
        return norm_fingerprint(norm) if norm else ""

    def fingerprints(self) -> set[str]:
        """Return the fingerprint of a base model and that of the same model rounded to bfloat16."""
        norm = self._output_norm()
        if not norm:
            return {""}
        return {norm_fingerprint(norm), norm_fingerprint(_rounded_to_bfloat16(norm))}

    def _output_norm(self) -> bytes:
        """Return the output norm as float32 bytes; empty if there is none."""
        tensor = self.tensors.get("output_norm.weight")
        if tensor is None or tensor.ggml_type != GGML_F32:
            return b""
        with self.path.open("rb") as file:
            file.seek(tensor.offset)
            return file.read(4 * math.prod(tensor.shape))


def _rounded_to_bfloat16(values: bytes) -> bytes:
    """Return float32 numbers rounded to bfloat16, as float32. Ties round to even."""
    rounded = bytearray(values)
    for offset in range(0, len(values), 4):
        (bits,) = struct.unpack_from("<I", values, offset)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        struct.pack_into("<I", rounded, offset, bits)
    return bytes(rounded)


def norm_fingerprint(norm: bytes) -> str:
    """Return the fingerprint of a base model, given the float32 bytes of its output norm."""
    return sha256(norm).hexdigest()[:16]


def read_header(path: Path) -> GgufHeader:
    """Return the metadata and tensor table of a GGUF file.

    Raises `InputError` if the file is not GGUF, damaged or incomplete.
    """
    try:
        with path.open("rb") as file:
            header = _parse_header(path, file)
            size = path.stat().st_size
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give a .gguf file that rstar deploy wrote."
        ) from error
    except (*MALFORMED, MemoryError) as error:
        raise InputError(
            f"{path} is damaged or not a GGUF model file; copy it again, or write it with rstar "
            "deploy."
        ) from error
    if any(
        tensor.offset >= size or math.prod(tensor.shape) > _MAX_BLOCK * size
        for tensor in header.tensors.values()
    ):
        raise InputError(f"{path} is incomplete ({size} bytes); copy it again.")
    return header


def _parse_header(path: Path, file: BinaryIO) -> GgufHeader:
    if file.read(4) != b"GGUF":
        raise ValueError("magic")
    version, tensor_count, entry_count = struct.unpack("<IQQ", file.read(20))
    if version not in (2, 3):
        raise ValueError("version")
    metadata: dict[str, Any] = {}
    for _ in range(_checked_count(entry_count)):
        key = _read_string(file)
        metadata[key] = _read_value(file, *struct.unpack("<I", file.read(4)))
    table = []
    for _ in range(_checked_count(tensor_count)):
        name, shape = _read_string(file), _read_shape(file)
        ggml_type, offset = struct.unpack("<IQ", file.read(12))
        table.append((name, shape, ggml_type, offset))
    alignment = int(metadata.get("general.alignment", 32))
    if not 0 < alignment <= 1 << 20:
        raise ValueError("alignment")
    start = -(-file.tell() // alignment) * alignment  # the data section begins at a multiple
    tensors = {name: TensorInfo(shape, kind, start + at) for name, shape, kind, at in table}
    return GgufHeader(path, metadata, tensors)


def _checked_count(count: int) -> int:
    if count > _MAX_COUNT:
        raise ValueError("count")
    return count


def _read_string(file: BinaryIO) -> str:
    length = _checked_count(struct.unpack("<Q", file.read(8))[0])
    text = file.read(length)
    if len(text) < length:
        raise ValueError("end of file")
    return text.decode("utf-8")


def _read_shape(file: BinaryIO) -> tuple[int, ...]:
    (dimensions,) = struct.unpack("<I", file.read(4))
    if dimensions > 8:
        raise ValueError("dimensions")
    return struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))


def _read_value(file: BinaryIO, kind: int, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("nested arrays")
    if kind == _STRING:
        return _read_string(file)
    if kind != _ARRAY:
        layout = _SCALARS[kind]
        return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]
    element_kind, count = struct.unpack("<IQ", file.read(12))
    _checked_count(count)
    if element_kind in (_STRING, _ARRAY):
        return [_read_value(file, element_kind, depth + 1) for _ in range(count)]
    layout = f"<{count}{_SCALARS[element_kind][1]}"
    return list(struct.unpack(layout, file.read(struct.calcsize(layout))))


class GgufTensors:
    """The tensors of a GGUF file by llama.cpp's names, decoded on access as (outputs, inputs).

    Raises `InputError` if the file is not GGUF, and `MissingDependencyError`.
    """

    def __init__(self, path: Path) -> None:
        read_header(path)
        self._path, self._gguf = path, require_gguf()
        try:
            self._tensors = {tensor.name: tensor for tensor in self._gguf.GGUFReader(path).tensors}
        except (*MALFORMED, OSError) as error:
            raise InputError(f"{path} is damaged ({error}); copy it again.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Any:
        """Return a tensor as a float32 array. Raises `InputError` if there is none of that name."""
        import numpy as np

        if name not in self._tensors:
            raise InputError(f"{self._path} has no {name}; give the base model of the training.")
        tensor = self._tensors[name]
        data: Any = self._gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return np.asarray(data, dtype=np.float32)


_DTYPES = {"F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}
"""numpy dtype and size in bytes of each safetensors dtype; bfloat16 is read as raw bits."""


@dataclass(frozen=True, slots=True)
class _SafetensorsEntry:
    """The location of a tensor in a safetensors file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Offset in the file, in bytes."""


class WeightFiles:
    """The tensors of all safetensors files of a folder, by name.

    `prefix` selects the files by name, for example "adapter_model". Raises `InputError` if there
    are none, or if one is damaged or incomplete.
    """

    def __init__(self, folder: Path, prefix: str = "model") -> None:
        self._folder = folder
        files = sorted(folder.glob(f"{prefix}*.safetensors"))
        if not files:
            raise InputError(
                f"{folder} has no {prefix}.safetensors; give a checkpoint that rstar train wrote."
            )
        self._entries: dict[str, _SafetensorsEntry] = {}
        for file in files:
            try:
                self._entries |= _read_entries(file)
            except (*MALFORMED, OSError) as error:
                raise InputError(
                    f"{file} is damaged or incomplete; copy it again or train again."
                ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor. Raises `InputError` if there is none of that name."""
        return self._entry(name).shape

    def bytes_per_weight(self) -> float:
        """Return the mean size of a weight in bytes."""
        counts = [math.prod(entry.shape) for entry in self._entries.values()]
        sizes = [_DTYPES[entry.dtype][1] for entry in self._entries.values()]
        total = sum(count * size for count, size in zip(counts, sizes, strict=True))
        return total / max(1, sum(counts))

    def _entry(self, name: str) -> _SafetensorsEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise InputError(
                f"{self._folder} lacks {name}; give a checkpoint that rstar train wrote."
            )
        return entry

    def __getitem__(self, name: str) -> Any:
        """Return a tensor as a float32 array. Raises `InputError` if there is none of that name."""
        import numpy as np

        entry = self._entry(name)
        dtype, _ = _DTYPES[entry.dtype]
        shape = entry.shape or (1,)
        data: Any = np.memmap(entry.file, dtype=dtype, mode="r", offset=entry.offset, shape=shape)
        if entry.dtype == "BF16":
            return (data.astype("<u4") << 16).view("<f4")
        return np.asarray(data, dtype="<f4")


def _read_entries(file: Path) -> dict[str, _SafetensorsEntry]:
    """Return the tensors of a file by name. Raises `ValueError` and others if it is damaged."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length < 1 << 27:
            raise ValueError("length")
        entries = json.loads(stream.read(length))
    entries.pop("__metadata__", None)
    tensors = {}
    size = file.stat().st_size
    for name, entry in entries.items():
        shape = tuple(map(int, entry["shape"]))
        begin, end = map(int, entry["data_offsets"])
        if begin < 0 or min(shape, default=0) < 0 or 8 + length + end > size:
            raise ValueError(name)
        if end - begin != math.prod(shape) * _DTYPES[entry["dtype"]][1]:
            raise ValueError(name)
        tensors[name] = _SafetensorsEntry(file, entry["dtype"], shape, 8 + length + begin)
    return tensors
