"""The value head without torch: value = tanh(w h + b) of a hidden state that a server computed.
`models.loading` has the same definition in torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.tensors import GgufHeader, WeightFiles, read_header
from rstar_math.errors import InputError

WEIGHT, BIAS = "rstar.head.weight", "rstar.head.bias"


@dataclass(frozen=True, slots=True)
class ValueHead:
    """A linear head on H numbers."""

    weight: tuple[float, ...]
    bias: float = 0.0

    @classmethod
    def load(cls, path: Path) -> "ValueHead":
        """The head of a checkpoint folder, or of a .gguf file that `rstar deploy` wrote. Raises
        `InputError` in one sentence where there is none."""
        path = path.expanduser()
        return cls.of_checkpoint(path) if path.is_dir() else cls.of_header(read_header(path))

    @classmethod
    def of_header(cls, header: GgufHeader) -> "ValueHead":
        """The head that a GGUF file carries."""
        weight = header.metadata.get(WEIGHT)
        if not isinstance(weight, list) or not weight:
            raise InputError(
                f"{header.path} has no value head, so it cannot score; give what rstar deploy "
                "wrote of a preference model."
            )
        return cls(tuple(map(float, weight)), float(header.metadata.get(BIAS, 0.0)))

    @classmethod
    def of_checkpoint(cls, folder: Path) -> "ValueHead":
        """The head of a sequence-classification checkpoint with one output, or of a linear probe
        of the last layer."""
        if (folder / "probe.safetensors").is_file():
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
                f"{folder} gives {rows.shape[0]} outputs and a scorer has one; give a checkpoint "
                "that rstar train ppm wrote."
            )
        bias = float(weights["score.bias"][0]) if "score.bias" in weights else 0.0
        return cls(tuple(map(float, rows[0])), bias)

    @classmethod
    def _of_probe(cls, folder: Path) -> "ValueHead":
        import json

        try:
            about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            last = list(about["layers"]) in ([-1], [about["depth"]]) and about["hidden"] == 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} is damaged; copy it again or train again.") from error
        if not last:
            raise InputError(
                f"The probe {folder} reads other layers than the last, or has a hidden layer; a "
                "server gives the last state only, so load it in this process: search.ppm=FOLDER."
            )
        weights = WeightFiles(folder, "probe")
        return cls(tuple(map(float, weights["weight"][0])), float(weights["bias"][0]))

    def metadata(self) -> dict[str, Any]:
        """The head as entries of a GGUF file."""
        return {WEIGHT: list(self.weight), BIAS: self.bias}

    def values(self, states: Sequence[Sequence[float]]) -> list[float]:
        """Values in [-1, 1] of last hidden states. Raises `InputError` where they are of another
        length than the head reads."""
        import numpy as np

        for state in states:
            if len(state) != len(self.weight):
                raise InputError(
                    f"The head reads {len(self.weight)} numbers and the server's model gives "
                    f"{len(state)}; serve the model that the head was trained with."
                )
        if not states:
            return []
        raw = np.asarray(states, dtype=np.float64) @ np.asarray(self.weight) + self.bias
        return [float(value) for value in np.tanh(raw)]


PROBE = "probe.safetensors"
