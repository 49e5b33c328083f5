"""The weights of a checkpoint folder, tensor by tensor, without torch and without holding more than
one of them in memory (format: huggingface/safetensors)."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError

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
