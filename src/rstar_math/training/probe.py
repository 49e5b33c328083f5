"""Training of a probe: a value head on the policy's frozen hidden states.

A probe trains in seconds once the hidden states are computed, and needs no second model in memory.
It is the baseline that a trained PPM must beat.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import save_checkpoint
from rstar_math.errors import InputError
from rstar_math.models.loading import (
    check_tokenizer,
    convert_load_errors,
    load_tokenizer,
    probe_head,
    resolve_checkpoint,
    save_probe,
    select_hidden_states,
    value_from_score,
)
from rstar_math.training.batches import (
    PromptGroup,
    ScorerRow,
    batch_groups,
    collate,
    group_rows,
)
from rstar_math.training.preference import (
    held_out_metrics,
    loss_sum,
    split_by_group,
    split_held_out,
)
from rstar_math.training.rows import OutcomeRow, PreferenceRow, fingerprint, render_rows
from rstar_math.training.settings import ProbeTraining
from rstar_math.training.trainer import on_gpu, require_training, set_malloc_limits


def train_probe(
    rows: Sequence[ScorerRow],
    base: str,
    out: Path,
    settings: ProbeTraining,
    *,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a probe of a policy, write it to `out`, and return a report as `train_preference`.

    The kind of the rows decides the objective: pairs, outcomes or Q values. The head of the pass
    with the lowest loss is kept. Raises `InputError`, `MissingDependencyError` and `StoreError`.
    """
    require_training()
    if not on_gpu():
        set_malloc_limits()
    rendered, prompting = render_rows(rows, base, settings.mode)
    train_rows, held_out_rows = split_held_out(rendered, settings)
    objective = _objective(rows[0])
    backbone, tokenizer = _load_frozen(base, settings.layers)
    config = backbone.config.get_text_config()
    groups, left_out = group_rows(train_rows, tokenizer, max_tokens=settings.max_tokens)
    held_out, left_out_held = group_rows(held_out_rows, tokenizer, max_tokens=settings.max_tokens)
    if not groups:
        raise InputError(
            f"All {len(train_rows)} rows are longer than {settings.max_tokens} tokens; raise "
            "max_tokens."
        )
    log(f"reading {sum(group.size for group in [*groups, *held_out])} tokens")
    states = hidden_states(backbone, tokenizer.pad_token_id, groups, settings.layers)
    head, losses = fit_head(states, groups, objective, settings)
    held_out_states = hidden_states(backbone, tokenizer.pad_token_id, held_out, settings.layers)
    values = _predict_values(head, held_out_states, held_out)
    probe = {"base": base, "layers": list(settings.layers), "hidden": settings.hidden}
    report = {
        "rows": len(train_rows) - left_out,
        "left_out_as_too_long": left_out + left_out_held,
        "first_loss": losses[0],
        "last_loss": min(losses),
        "held_out": held_out_metrics(held_out, values, objective),
    }
    notes = {
        "kind": f"probe-{objective}",
        **probe,
        "settings": settings.model_dump(mode="json"),
        "data": fingerprint(rows),
        "prompting": prompting,
        "report": report,
    }
    with save_checkpoint(out, notes) as folder:
        size = {"size": config.hidden_size, "depth": config.num_hidden_layers}
        save_probe(folder, head, {**probe, **size})
    return {**report, "losses": losses}


def _load_frozen(base: str, layers: Sequence[int]) -> tuple[Any, Any]:
    """A policy without its LM head, in evaluation mode, and its tokenizer. Raises `InputError` if
    the policy lacks one of the layers."""
    import torch
    from transformers import AutoModel

    path, options = resolve_checkpoint(base)
    with convert_load_errors(base):
        backbone = AutoModel.from_pretrained(
            path, dtype=torch.float32, attn_implementation="sdpa", **options
        )
        tokenizer = load_tokenizer(base)
    check_tokenizer(base, backbone, tokenizer)
    depth = backbone.config.get_text_config().num_hidden_layers
    if any(not -depth - 1 <= layer <= depth for layer in layers):
        raise InputError(
            f"Invalid layers {list(layers)}: {base} has {depth}; set layers between {-depth - 1} "
            f"and {depth} (0 is the embedding)."
        )
    return backbone.to("cuda" if on_gpu() else "cpu").eval(), tokenizer


def _objective(row: ScorerRow) -> str:
    if isinstance(row, PreferenceRow):
        return "ppm"
    return "orm" if isinstance(row, OutcomeRow) else "pqm"


def hidden_states(
    backbone: Any, pad: int, groups: Sequence[PromptGroup], layers: Sequence[int]
) -> Any:
    """The hidden states at all positions of all groups, (N, H x layers), float32 on the CPU."""
    import torch

    width = backbone.config.get_text_config().hidden_size * len(layers)
    states = [torch.zeros(0, width)]
    with torch.inference_mode():
        for chunk in batch_groups(groups, 4096):
            inputs = {k: v.to(backbone.device) for k, v in collate(chunk, pad).items()}
            names = ("input_ids", "position_ids", "attention_mask")
            outputs = backbone(
                **{name: inputs[name] for name in names}, use_cache=False, output_hidden_states=True
            )
            positions = inputs["positions"]
            hidden = select_hidden_states(outputs, layers)
            states.append(hidden[positions[:, 0], positions[:, 1]].float().cpu())
    return torch.cat(states).clone()


def fit_head(
    states: Any, groups: Sequence[PromptGroup], objective: str, settings: ProbeTraining
) -> tuple[Any, list[float]]:
    """The head of the pass with the lowest loss, and the losses of all passes.

    For the fit, states are scaled to mean 0 and standard deviation 1. The scaling is then folded
    into the head's first layer.
    """
    import torch

    torch.manual_seed(settings.seed)
    # Hidden states replace the model, so the inputs need no tokens.
    without_tokens = [
        replace(g, tokens=[[0]] * len(g.tokens), parents=[[-1]] * len(g.tokens)) for g in groups
    ]
    inputs = collate(without_tokens, 0)
    head = probe_head(states.shape[1], settings.hidden)
    mean, deviation = states.mean(0), states.std(0).clamp(min=1e-6)
    scaled = (states - mean) / deviation
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    best = copy.deepcopy(head.state_dict())
    losses: list[float] = []
    for _ in range(settings.epochs):
        loss = loss_sum(head(scaled).squeeze(-1), inputs, objective) / inputs["weights"].sum()
        if not losses or loss.item() < min(losses):
            best = copy.deepcopy(head.state_dict())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.load_state_dict(best)
    first = head if settings.hidden == 0 else head[0]
    with torch.no_grad():
        first.weight /= deviation
        first.bias -= first.weight @ mean
    return head, losses


def _predict_values(head: Any, states: Any, groups: Sequence[PromptGroup]) -> list[list[float]]:
    """The head's values at the positions of each group."""
    import torch

    with torch.inference_mode():
        values = value_from_score(head(states).squeeze(-1)).tolist()
    return split_by_group(values, groups)
