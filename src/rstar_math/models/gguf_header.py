"""What a GGUF file says of itself: its facts and the shapes of its tensors, read without loading
any weights (format: ggml-org/ggml, docs/gguf.md, versions 2 and 3)."""

import struct
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

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
class TensorPlace:
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
    facts: dict[str, Any]
    tensors: dict[str, TensorPlace]

    @property
    def architecture(self) -> str:
        """The family of the model, as llama.cpp calls it."""
        return str(self.facts.get("general.architecture", ""))

    def fact(self, key: str) -> Any:
        """A fact of the architecture, as in "block_count"; None where it is not there."""
        return self.facts.get(f"{self.architecture}.{key}")

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
        path, facts, {name: TensorPlace(shape, kind, base + at) for name, shape, kind, at in places}
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
