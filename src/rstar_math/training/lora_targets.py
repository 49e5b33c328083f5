"""Finds the matrices that an adapter covers: the linear layers of attention and MLP in all decoder
layers. They are found in the model itself, not by a list of names."""

from typing import Any

from rstar_math.errors import InputError


def layer_matrices(model: Any) -> dict[str, Any]:
    """The linear layers inside the decoder layers of a language model, by full name.

    A linear layer is a `torch.nn.Linear` or GPT-2's `Conv1D`. Fused projections (`qkv_proj`,
    `gate_up_proj`) are included. The LM head, a value head, embeddings and vision or audio towers
    are outside the decoder layers.

    Raises `InputError` if no decoder layers are found, or if they hold other matrices (experts of a
    mixture, convolutions). Adapting only the rest would adapt the model in part.
    """
    names = {id(module): name for name, module in model.named_modules()}
    layers = _decoder_layers(model)
    matrices: dict[str, Any] = {}
    covered: set[int] = set()
    for layer in layers:
        linear = {names[id(module)]: module for module in layer.modules() if _is_linear(module)}
        if not linear:
            raise InputError(
                f"The decoder layer {names[id(layer)]} of {_class(model)} has no linear layers, so "
                "it cannot get an adapter; train all weights (lora_rank=0, matrices_only=false)."
            )
        matrices |= linear
        covered |= {id(module.weight) for module in linear.values()}
    for layer in layers:
        for name, weights in layer.named_parameters():
            if weights.ndim > 1 and id(weights) not in covered:
                raise InputError(
                    f"{_class(model)} has {names[id(layer)]}.{name} of shape "
                    f"{tuple(weights.shape)}, which does not belong to a linear layer, so an "
                    "adapter would cover the model only in part; train all weights (lora_rank=0, "
                    "matrices_only=false) or choose another base."
                )
    return matrices


def lora_targets(model: Any) -> list[str]:
    """The `target_modules` of a LoRA adapter for `layer_matrices(model)`.

    These are the last parts of the names, or the full names if the last parts also match other
    modules. Raises `InputError` as `layer_matrices`.
    """
    wanted = layer_matrices(model)
    suffixes = sorted({name.rsplit(".", 1)[-1] for name in wanted})
    matched = {
        name
        for name, _ in model.named_modules()
        if any(name == suffix or name.endswith(f".{suffix}") for suffix in suffixes)
    }
    return suffixes if matched == wanted.keys() else sorted(wanted)


def is_transposed(module: Any) -> bool:
    """Whether a linear layer stores its weight as (inputs, outputs), as GPT-2's `Conv1D` does."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _is_linear(module: Any) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear) or is_transposed(module)


def _decoder_layers(model: Any) -> list[Any]:
    """The layers of the text decoder: its longest `ModuleList`. Raises `InputError` without one."""
    import torch

    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    lists = [module for module in decoder.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = max(lists, key=len, default=())
    if not len(layers):
        raise InputError(
            f"No decoder layers were found in {_class(model)}, so it cannot get an adapter; train "
            "all weights (lora_rank=0, matrices_only=false)."
        )
    return list(layers)


def _class(model: Any) -> str:
    return type(model).__name__
