"""The head of a process reward model: what turns a hidden state into one or two outputs.

Published models run their heads with code from the hub. This package never runs such code. It reads
the weights of the head and computes the same function: linear layers with ReLU between them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.tensors import WeightFiles
from rstar_math.errors import InputError

_LAYERS: tuple[tuple[str, ...], ...] = (
    ("score.0", "score.2"),
    ("v_head.summary",),
    ("score",),
    ("classifier",),
)
"""Names of a head's linear layers, as checkpoints store them: Qwen's two layers, the value head of
TRL and Skywork, and the classification heads of transformers."""
_WRAPPER = "pretrained_model."
"""Prefix of the language model's weights in checkpoints of TRL's value-head models."""
_LM_HEADS = ("lm_head", "model.embed_tokens")
"""The output matrix of a language model; the second if it is tied to the embeddings."""


@dataclass(frozen=True, slots=True, eq=False)
class StepHead:
    """Linear layers (weight (O, I), bias (O,)) with ReLU between them, as float32 arrays."""

    layers: tuple[tuple[Any, Any], ...]

    @classmethod
    def load(cls, folder: Path, tokens: tuple[int, int] | None = None) -> "StepHead":
        """Return the head of a checkpoint folder.

        With `tokens` = (bad, good), it is the rows of these tokens in the output matrix of the
        language model. Raises `InputError` if the folder has no such weights.
        """
        weights = WeightFiles(folder.expanduser())
        wrapped = any(name.startswith(_WRAPPER) for name in weights)
        prefix = _WRAPPER if wrapped else ""
        if tokens is not None:
            return cls(((_token_rows(weights, prefix, tokens, folder), _zeros(2)),))
        for names in _LAYERS:
            if all(f"{name}.weight" in weights for name in names):
                return cls(tuple(_layer(weights, name) for name in names))
        raise InputError(
            f"{folder} has no head that scores steps (score, v_head or classifier); if it is a "
            "language model that answers with one of two tokens, set "
            "search.prm_format=math-shepherd or rlhflow."
        )

    @property
    def inputs(self) -> int:
        """Size of the hidden states that the head reads."""
        return int(self.layers[0][0].shape[1])

    def outputs(self, states: Sequence[Sequence[float]]) -> list[list[float]]:
        """Return the outputs for hidden states (B, H). Raises `InputError` for another H."""
        import numpy as np

        if not states:
            return []
        hidden: Any = np.asarray(states, dtype=np.float64)
        if hidden.ndim != 2 or hidden.shape[1] != self.inputs:
            raise InputError(
                f"The head reads {self.inputs} numbers but the server's model returns "
                f"{hidden.shape[-1]}; serve the model that the head belongs to."
            )
        for index, (weight, bias) in enumerate(self.layers):
            if index:
                hidden = np.maximum(hidden, 0.0)
            hidden = hidden @ weight.T + bias
        return [[float(x) for x in row] for row in hidden]

    def module(self) -> Any:
        """Return the head as a torch module."""
        import torch

        modules: list[Any] = []
        for index, (weight, bias) in enumerate(self.layers):
            if index:
                modules.append(torch.nn.ReLU())
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weight.copy()))
                linear.bias.copy_(torch.from_numpy(bias.copy()))
            modules.append(linear)
        return torch.nn.Sequential(*modules)


def _layer(weights: WeightFiles, name: str) -> tuple[Any, Any]:
    weight = weights[f"{name}.weight"]
    has_bias = f"{name}.bias" in weights
    return weight, weights[f"{name}.bias"] if has_bias else _zeros(weight.shape[0])


def _token_rows(weights: WeightFiles, prefix: str, tokens: tuple[int, int], folder: Path) -> Any:
    """Return the rows (2, H) of two tokens in the output matrix. Raises `InputError`."""
    import numpy as np

    name = next((n for n in _LM_HEADS if f"{prefix}{n}.weight" in weights), None)
    if name is None:
        raise InputError(
            f"{folder} has no LM head, so it cannot answer with a token; set search.prm_format to "
            "the format of this model."
        )
    matrix = weights[f"{prefix}{name}.weight"]
    if max(tokens) >= matrix.shape[0]:
        raise InputError(
            f"{folder} has {matrix.shape[0]} tokens in its LM head but its tokenizer more; copy "
            "the tokenizer that belongs to the model."
        )
    return np.ascontiguousarray(matrix[list(tokens)])


def _zeros(count: int) -> Any:
    import numpy as np

    return np.zeros(count, dtype=np.float32)


def read_model_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a checkpoint folder; {} if it has none. Raises `InputError`."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); give a complete checkpoint.") from error
    return content if isinstance(content, dict) else {}
