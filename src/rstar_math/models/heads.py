"""A value from hidden states: the one definition that training, saving, loading and scoring share.

    value = tanh(head(hidden state at the last token)),   in [-1, 1]

(rStar-Math, arXiv:2501.04519, section 3.3: a linear head with tanh.) `raw` below is the head's
output z before tanh; P(right) = (1 + value) / 2 = sigmoid(2 z), so that an outcome model is the
same thing with another loss.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.checkpoints import read_notes, require_torch
from rstar_math.models.loading import (
    forget_quantisation,
    load_tokenizer,
    locate,
    require_fit,
    saying_what_is_wrong,
)

PROBE = "probe.safetensors"


def squash(raw: Any) -> Any:
    """Values in [-1, 1] of raw scores, in float32."""
    import torch

    return torch.tanh(raw.float())


def load_scored(base: str, *, fresh: bool = False, dtype: Any = None) -> tuple[Any, Any]:
    """A sequence-classification model with one output, and its tokenizer.

    With `fresh` the base may be a policy, whose head is made anew: all zeros, so that every value
    begins at 0 (rStar-Math's code: N(5e-7, 1e-6)). Without, a checkpoint that lacks the head or
    any other weight is refused (`InputError`).
    """
    require_torch()
    import torch
    from transformers import AutoModelForSequenceClassification

    where, options = locate(base)
    with saying_what_is_wrong(base):
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            where,
            dtype=dtype or torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            **({"num_labels": 1} if fresh else {}),
            **options,
        )
        tokenizer = load_tokenizer(base)
    if not hasattr(model, "score"):
        raise InputError(
            f"{base} ({type(model).__name__}) is no causal language model with a value head at its "
            "last token; give a model that continues text, or what rstar train ppm wrote."
        )
    require_fit(base, model, tokenizer)
    missing = sorted(str(key) for key in loaded["missing_keys"])
    headless = [key for key in missing if key.startswith("score")]
    if fresh and missing == headless:
        torch.nn.init.zeros_(model.score.weight)
    elif missing:
        what = "has no value head (score)" if headless == missing else f"lacks {missing[0]}"
        raise InputError(
            f"{base} {what}, so it cannot score; give a checkpoint that rstar train ppm wrote."
        )
    if getattr(model.config, "num_labels", None) != 1:
        raise InputError(
            f"{base} gives {model.config.num_labels} outputs and a scorer has one; give a "
            "checkpoint that rstar train ppm wrote."
        )
    forget_quantisation(model)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def backbone_of(model: Any) -> Any:
    """The part of a classification or causal model that gives hidden states."""
    return getattr(model, model.base_model_prefix)


def probe_head(inputs: int, hidden: int) -> Any:
    """A head on frozen hidden states: linear where `hidden` is 0, else an MLP with one layer of
    that many units."""
    import torch

    if hidden == 0:
        return torch.nn.Linear(inputs, 1)
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, 1)
    )


def save_probe(folder: Path, head: Any, about: dict[str, object]) -> None:
    """Write a probe's head; `about` names the policy it reads (`base`), the `layers` and the
    `hidden` units."""
    from safetensors.torch import save_file

    weights = {name: value.detach().contiguous() for name, value in head.state_dict().items()}
    save_file(weights, str(folder / PROBE), metadata={"probe": json.dumps(about)})
    config = {"model_type": "rstar_probe", **about}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def load_probe(folder: Path, base: str | None = None) -> tuple[Any, Any, Any, tuple[int, ...]]:
    """A probe's policy (without LM head), tokenizer, head, and the layers it reads.

    `base` names the policy where it has moved. Raises `InputError` where the policy is not one that
    the head fits.
    """
    require_torch()
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel

    read_notes(folder)
    with saying_what_is_wrong(str(folder)):
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        layers = tuple(int(layer) for layer in about["layers"])
        weights = load_file(str(folder / PROBE))
        base = base or str(about["base"])
    where, options = locate(base)
    with saying_what_is_wrong(base):
        backbone = AutoModel.from_pretrained(
            where, dtype=torch.float32, attn_implementation="sdpa", **options
        )
        tokenizer = load_tokenizer(base)
    require_fit(base, backbone, tokenizer)
    size = backbone.config.get_text_config().hidden_size
    if (size, backbone.config.num_hidden_layers) != (about["size"], about["depth"]):
        raise InputError(
            f"The probe {folder} reads a policy of {about['depth']} layers of {about['size']}, and "
            f"{base} has {backbone.config.num_hidden_layers} of {size}; name its own policy."
        )
    head = probe_head(size * len(layers), int(about["hidden"]))
    with saying_what_is_wrong(str(folder)):
        head.load_state_dict(weights)
    return backbone, tokenizer, head, layers


def hidden_at(outputs: Any, layers: Sequence[int] | None) -> Any:
    """The hidden states a head reads, (B, L, H x layers): the last, or those of some layers side
    by side."""
    import torch

    if layers is None:
        return outputs.last_hidden_state
    return torch.cat([outputs.hidden_states[layer] for layer in layers], dim=-1)
