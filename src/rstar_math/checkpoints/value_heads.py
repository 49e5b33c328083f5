"""The value head without torch: value = tanh(w h + b) for a hidden state h computed by a server.

`models.loading` has the same definition in torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import MALFORMED, convert_malformed, read_json_object
from rstar_math.checkpoints.tensors import GgufHeader, WeightFiles, read_header
from rstar_math.errors import InputError

WEIGHT_KEY, BIAS_KEY = "rstar.head.weight", "rstar.head.bias"
"""GGUF metadata keys of a value head."""
PROBE_FILE = "probe.safetensors"
"""File with the head of a probe in its checkpoint folder."""


@dataclass(frozen=True, slots=True)
class ValueHead:
    """A linear head on a hidden state of H numbers."""

    weight: tuple[float, ...]
    bias: float = 0.0

    @classmethod
    def load(cls, path: Path) -> "ValueHead":
        """Return the head of a checkpoint folder, or of a .gguf file that `rstar deploy` wrote.

        Raises `InputError` if there is none.
        """
        path = path.expanduser()
        return cls.of_checkpoint(path) if path.is_dir() else cls.of_header(read_header(path))

    @classmethod
    def of_header(cls, header: GgufHeader) -> "ValueHead":
        """Return the head in the metadata of a GGUF file. Raises `InputError` if there is none."""
        weight = header.metadata.get(WEIGHT_KEY)
        if not isinstance(weight, list) or not weight:
            raise InputError(
                f"{header.path} has no value head, so it cannot score; give a preference model "
                "that rstar deploy wrote."
            )
        with convert_malformed(header.path):
            return cls._checked(header.path, weight, header.metadata.get(BIAS_KEY, 0.0))

    @classmethod
    def of_checkpoint(cls, folder: Path) -> "ValueHead":
        """Return the head of a checkpoint folder. Raises `InputError` if there is none.

        The checkpoint is a sequence-classification model with one output, or a linear probe of the
        last layer.
        """
        if (folder / PROBE_FILE).is_file():
            return cls._of_probe(folder)
        weights = WeightFiles(folder)
        if "score.weight" not in weights:
            raise InputError(
                f"{folder} has no value head (score), so it cannot score; give a checkpoint that "
                "rstar train ppm wrote."
            )
        rows = weights["score.weight"]
        if rows.ndim != 2 or rows.shape[0] != 1:
            raise InputError(
                f"{folder} has a head of shape {rows.shape} but a scorer's has (1, H); give a "
                "checkpoint that rstar train ppm wrote."
            )
        with convert_malformed(folder):
            bias = weights["score.bias"].reshape(()) if "score.bias" in weights else 0.0
            return cls._checked(folder, rows[0], bias)

    @classmethod
    def _of_probe(cls, folder: Path) -> "ValueHead":
        about = read_json_object(folder / "config.json")
        try:
            reads_last = list(about["layers"]) in ([-1], [about["depth"]]) and about["hidden"] == 0
        except MALFORMED as error:
            raise InputError(f"{folder} is damaged; copy it again or train again.") from error
        if not reads_last:
            raise InputError(
                f"The probe {folder} reads other layers than the last, or has a hidden layer; a "
                "server returns only the last state, so load it in this process: search.ppm=FOLDER."
            )
        weights = WeightFiles(folder, "probe")
        with convert_malformed(folder):
            bias = weights["bias"].reshape(())
            return cls._checked(folder, weights["weight"].reshape(-1), bias)

    @classmethod
    def _checked(cls, path: Path, weight: Iterable[Any], bias: Any) -> "ValueHead":
        """Return a head of finite numbers; raises `InputError` for others."""
        head = cls(tuple(map(float, weight)), float(bias))
        if not head.weight or not all(map(isfinite, (*head.weight, head.bias))):
            raise InputError(
                f"The value head of {path} is not made of finite numbers; copy it again or train "
                "again."
            )
        return head

    def metadata(self) -> dict[str, Any]:
        """Return the head as metadata entries of a GGUF file."""
        return {WEIGHT_KEY: list(self.weight), BIAS_KEY: self.bias}

    def values(self, states: Sequence[Sequence[float]]) -> list[float]:
        """Return values in [-1, 1] for last hidden states, (B, H).

        Raises `InputError` if the states do not have H numbers.
        """
        import numpy as np

        for state in states:
            if len(state) != len(self.weight):
                raise InputError(
                    f"The head reads {len(self.weight)} numbers but the server's model returns "
                    f"{len(state)}; serve the model that the head was trained with."
                )
        if not states:
            return []
        scores = np.asarray(states, dtype=np.float64) @ np.asarray(self.weight) + self.bias
        return [float(value) for value in np.tanh(scores)]
