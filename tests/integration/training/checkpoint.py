"""The weights of a checkpoint."""

from pathlib import Path
from typing import Any


def weights(folder: Path) -> Any:
    """Tensors by name."""
    from safetensors.torch import load_file

    return load_file(str(folder / "model.safetensors"))
