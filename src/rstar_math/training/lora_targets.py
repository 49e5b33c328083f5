"""Which matrices of a model training touches: the linear layers of attention and MLP in every
decoder layer, found in the model itself and not by a list of names."""

from typing import Any

from rstar_math.errors import InputError


def layer_matrices(model: Any) -> dict[str, Any]:
    """The linear layers (`torch.nn.Linear` or GPT-2's `Conv1D`) inside the decoder layers of a
    language model, by their full names.

    Fused projections (`qkv_proj`, `gate_up_proj`) are linear layers like any other. The word head,
    a value head, embeddings and vision or audio towers are outside the decoder layers. Raises
    `InputError` if no decoder layers are found, or if they hold matrices of another kind (experts
    of a mixture, convolutions): training the rest alone would adapt the model in part.
    """
    names = {id(module): name for name, module in model.named_modules()}
    layers = _decoder_layers(model)
    found: dict[str, Any] = {}
    covered: set[int] = set()
    for layer in layers:
        inside = {names[id(module)]: module for module in layer.modules() if _is_linear(module)}
        if not inside:
            raise InputError(
                f"The decoder layer {names[id(layer)]} of {_class(model)} has no linear layers; "
                "train all weights (lora_rank=0, matrices_only=false)."
            )
        found |= inside
        covered |= {id(module.weight) for module in inside.values()}
    for layer in layers:
        for name, weights in layer.named_parameters():
            if weights.ndim > 1 and id(weights) not in covered:
                raise InputError(
                    f"{_class(model)} has {names[id(layer)]}.{name} of shape "
                    f"{tuple(weights.shape)}, which is not the weight of a linear layer, so an "
                    "adapter would train the model only in part; train all weights (lora_rank=0, "
                    "matrices_only=false) or choose another base."
                )
    return found


def lora_targets(model: Any) -> list[str]:
    """The `target_modules` of a LoRA adapter for `layer_matrices(model)`: the last parts of their
    names where these match nothing else in the model, else the full names."""
    wanted = layer_matrices(model)
    short = sorted({name.rsplit(".", 1)[-1] for name in wanted})
    matched = {
        name
        for name, _ in model.named_modules()
        if any(name == end or name.endswith(f".{end}") for end in short)
    }
    return short if matched == wanted.keys() else sorted(wanted)


def is_transposed(module: Any) -> bool:
    """Whether a linear layer stores its weight as (inputs, outputs), as GPT-2's `Conv1D` does."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _is_linear(module: Any) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear) or is_transposed(module)


def _decoder_layers(model: Any) -> list[Any]:
    """The layers of the text decoder: the longest list of modules in it."""
    import torch

    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    lists = [module for module in decoder.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = max(lists, key=len, default=())
    if not len(layers):
        raise InputError(
            f"{_class(model)} has no decoder layers that can be found, so there is no place for an "
            "adapter; train all weights (lora_rank=0, matrices_only=false)."
        )
    return list(layers)


def _class(model: Any) -> str:
    return type(model).__name__
