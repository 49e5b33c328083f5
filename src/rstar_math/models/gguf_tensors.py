"""The tensors of a GGUF file as float32, whatever they are stored as."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.gguf_header import read_header
from rstar_math.models.gguf_writing import require_gguf


class GgufTensors:
    """Tensors by llama.cpp's names, each decoded when it is asked for; outputs first. Raises
    `InputError` for what is no GGUF file, and `MissingExtra`."""

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
