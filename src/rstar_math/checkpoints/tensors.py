"""Readers of GGUF headers and tensors, and of safetensors files, without torch (formats: ggml-
org/ggml, docs/gguf.md; huggingface/safetensors)."""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from rstar_math.checkpoints.gguf_writer import require_gguf
from rstar_math.errors import InputError

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"} | {
    10: "<Q",
    11: "<q",
    12: "<d",
}
"""GGUF's types of values that have one size, as `struct` writes them."""
GGUF_F32 = 0
"""Number of float32 among ggml's types."""
_MOST = 1 << 24
"""Largest count believed: of entries, of elements of an array, of bytes of a string."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor stands in its file."""

    shape: tuple[int, ...]
    """As GGUF has it: the fastest dimension first."""
    kind: int
    """Number of its type in ggml; 0 is float32."""
    start: int
    """Offset in the file, in bytes."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The beginning of a GGUF file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """The family of the model, as llama.cpp calls it."""
        return str(self.metadata.get("general.architecture", ""))

    def value(self, key: str) -> Any:
        """A fact of the architecture, as in "block_count"; None where it is not there."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def fingerprint(self) -> str:
        """What tells a base from others of its shape: its last norm, which is float32 in every
        quantisation and which adapters leave alone. "" where there is none."""
        norm = self._norm()
        return norm_fingerprint(norm) if norm else ""

    def fingerprints(self) -> set[str]:
        """The fingerprint of a base, and that of the same base after it was held in bfloat16."""
        norm = self._norm()
        return {norm_fingerprint(norm), norm_fingerprint(_in_bfloat16(norm))} if norm else {""}

    def _norm(self) -> bytes:
        """The last norm as float32; nothing where there is none."""
        place = self.tensors.get("output_norm.weight")
        if place is None or place.kind != GGUF_F32:
            return b""
        with self.path.open("rb") as file:
            file.seek(place.start)
            return file.read(4 * prod(place.shape))


def _in_bfloat16(norm: bytes) -> bytes:
    """Float32 numbers rounded to bfloat16, the nearest and of two the even one, as float32."""
    found = bytearray(norm)
    for start in range(0, len(norm), 4):
        (bits,) = struct.unpack_from("<I", norm, start)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        struct.pack_into("<I", found, start, rounded)
    return bytes(found)


def norm_fingerprint(norm: bytes) -> str:
    """The fingerprint of a base whose last norm has these bytes, as float32."""
    return sha256(norm).hexdigest()[:16]


def read_header(path: Path) -> GgufHeader:
    """The facts and tensors of a GGUF file. Raises `InputError` for what is none, or is not
    whole."""
    try:
        with path.open("rb") as file:
            found = _read(path, file)
            size = path.stat().st_size
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give a .gguf file that rstar deploy wrote."
        ) from error
    except (struct.error, UnicodeDecodeError, KeyError, ValueError, MemoryError) as error:
        raise InputError(
            f"{path} is damaged or not a GGUF model file; copy it again, or write it with rstar "
            "deploy."
        ) from error
    if any(place.start >= size for place in found.tensors.values()):
        raise InputError(f"{path} was not copied whole ({size} bytes); copy it again.")
    return found


def _read(path: Path, file: BinaryIO) -> GgufHeader:
    if file.read(4) != b"GGUF":
        raise ValueError("magic")
    version, tensors, entries = struct.unpack("<IQQ", file.read(20))
    if version not in (2, 3):
        raise ValueError("version")
    facts: dict[str, Any] = {}
    for _ in range(_bounded(entries)):
        key = _string(file)
        facts[key] = _value(file, *struct.unpack("<I", file.read(4)))
    places = [(_string(file), _shape(file), *_pair(file)) for _ in range(_bounded(tensors))]
    step = int(facts.get("general.alignment", 32))
    base = -(-file.tell() // step) * step
    return GgufHeader(
        path, facts, {name: TensorInfo(shape, kind, base + at) for name, shape, kind, at in places}
    )


def _bounded(count: int) -> int:
    if count > _MOST:
        raise ValueError("count")
    return count


def _string(file: BinaryIO) -> str:
    length = _bounded(struct.unpack("<Q", file.read(8))[0])
    text = file.read(length)
    if len(text) < length:
        raise ValueError("end of file")
    return text.decode("utf-8")


def _shape(file: BinaryIO) -> tuple[int, ...]:
    (dimensions,) = struct.unpack("<I", file.read(4))
    if dimensions > 8:
        raise ValueError("dimensions")
    return struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))


def _pair(file: BinaryIO) -> tuple[int, int]:
    """A tensor's type and offset."""
    kind, start = struct.unpack("<IQ", file.read(12))
    return kind, start


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        form = _SCALARS[kind]
        return struct.unpack(form, file.read(struct.calcsize(form)))[0]
    inner, count = struct.unpack("<IQ", file.read(12))
    _bounded(count)
    if inner in (_STRING, _ARRAY):
        return [_value(file, inner) for _ in range(count)]
    form = f"<{count}{_SCALARS[inner][1]}"
    return list(struct.unpack(form, file.read(struct.calcsize(form))))


class GgufTensors:
    """Tensors by llama.cpp's names, each decoded when it is asked for; outputs first. Raises
    `InputError` for what is no GGUF file, and `MissingDependencyError`."""

    def __init__(self, path: Path) -> None:
        read_header(path)
        self._path, self._gguf = path, require_gguf()
        self._found = {one.name: one for one in self._gguf.GGUFReader(path).tensors}

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __getitem__(self, name: str) -> Any:
        """Raises `InputError` where there is none of that name."""
        import numpy as np

        if name not in self._found:
            raise InputError(f"{self._path} has no {name}; give the model that was trained from.")
        one = self._found[name]
        data: Any = self._gguf.quants.dequantize(one.data, one.tensor_type)
        return np.asarray(data, dtype=np.float32)


_KINDS = {"F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor stands."""

    file: Path
    kind: str
    shape: tuple[int, ...]
    start: int


class WeightFiles:
    """The tensors of all safetensors files of a folder, by name; `prefix` picks the files, as in
    "adapter_model". Raises `InputError` where there are none or one is not whole."""

    def __init__(self, folder: Path, prefix: str = "model") -> None:
        self._folder = folder
        files = sorted(folder.glob(f"{prefix}*.safetensors"))
        if not files:
            raise InputError(
                f"{folder} has no {prefix}.safetensors; give a checkpoint that rstar train wrote."
            )
        self._places: dict[str, _Place] = {}
        for file in files:
            try:
                self._places |= _header(file)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{file} is damaged or was not copied whole; copy it again or train again."
                ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises `InputError` where it is not there."""
        return self._place(name).shape

    def bytes_per_weight(self) -> float:
        """Mean size of a number in these files."""
        counts = [math.prod(place.shape) for place in self._places.values()]
        sizes = [_KINDS[place.kind][1] for place in self._places.values()]
        total = sum(count * size for count, size in zip(counts, sizes, strict=True))
        return total / max(1, sum(counts))

    def _place(self, name: str) -> _Place:
        place = self._places.get(name)
        if place is None:
            raise InputError(
                f"{self._folder} lacks {name}; give a checkpoint that rstar train wrote."
            )
        return place

    def __getitem__(self, name: str) -> Any:
        """A tensor as a float32 array. Raises `InputError` where it is not there."""
        import numpy as np

        place = self._place(name)
        form, _ = _KINDS[place.kind]
        shape = place.shape or (1,)
        data: Any = np.memmap(place.file, dtype=form, mode="r", offset=place.start, shape=shape)
        if place.kind == "BF16":
            return (data.astype("<u4") << 16).view("<f4")
        return np.asarray(data, dtype="<f4")


def _header(file: Path) -> dict[str, _Place]:
    """What a file holds; raises `ValueError` and others where it is damaged."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length < 1 << 27:
            raise ValueError("length")
        entries = json.loads(stream.read(length))
    entries.pop("__metadata__", None)
    found = {}
    size = file.stat().st_size
    for name, entry in entries.items():
        shape = tuple(map(int, entry["shape"]))
        begin, end = entry["data_offsets"]
        if end - begin != math.prod(shape) * _KINDS[entry["dtype"]][1] or 8 + length + end > size:
            raise ValueError(name)
        found[name] = _Place(file, entry["dtype"], shape, 8 + length + begin)
    return found


GGUF_KEYS = {"prompt": "rstar.prompt", "format": "rstar.prompt.format", "mode": "rstar.prompt.mode"}
"""Where a GGUF file says how its model was asked in training."""
