"""The probe: the PPM's head on the policy's own frozen hidden states. It trains in seconds once the
states are there, and needs no second model in memory; the baseline that a trained PPM must beat."""

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
    hidden_at,
    load_tokenizer,
    probe_head,
    resolve_checkpoint,
    save_probe,
    value_from_score,
)
from rstar_math.training.batches import Group, Judged, collate, groups_of, in_batches
from rstar_math.training.preference import loss_sum, measured, split
from rstar_math.training.rows import OutcomeRow, PreferenceRow, fingerprint, render_rows
from rstar_math.training.settings import ProbeTraining
from rstar_math.training.trainer import on_gpu, require_training, set_malloc_limits


def train_probe(
    rows: Sequence[Judged],
    base: str,
    out: Path,
    settings: ProbeTraining,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a probe of a policy and write it to `out`; the report is that of `train_preference`.

    The rows' kind decides the objective: pairs, outcomes or Q values. Of all passes the one with
    the lowest loss is kept. Raises `InputError` and `MissingDependencyError`.
    """
    require_training()
    if not on_gpu():
        set_malloc_limits()
    rendered, prompting = render_rows(rows, base, settings.mode)
    learned, kept = split(rendered, settings)
    objective = _objective(rows[0])
    backbone, tokenizer = _frozen(base, settings.layers)
    config = backbone.config.get_text_config()
    groups, left_out = groups_of(learned, tokenizer, max_tokens=settings.max_tokens)
    held, more_left_out = groups_of(kept, tokenizer, max_tokens=settings.max_tokens)
    if not groups:
        raise InputError(
            f"All rows are longer than {settings.max_tokens} tokens; raise max_tokens."
        )
    say(f"reading {sum(g.size for g in [*groups, *held])} tokens")
    states = hidden_states(backbone, tokenizer.pad_token_id, groups, settings.layers)
    head, losses = fit(states, groups, objective, settings)
    held_states = hidden_states(backbone, tokenizer.pad_token_id, held, settings.layers)
    about = {"base": base, "layers": list(settings.layers), "hidden": settings.hidden}
    report = {
        "rows": len(learned) - left_out,
        "left_out_as_too_long": left_out + more_left_out,
        "first_loss": losses[0],
        "last_loss": min(losses),
        "held_out": measured(held, _values(head, held_states, held), objective),
    }
    notes = {
        "kind": f"probe-{objective}",
        **about,
        "settings": settings.model_dump(mode="json"),
        "data": fingerprint(rows),
        "prompting": prompting,
        "report": report,
    }
    with save_checkpoint(out, notes) as part:
        size = {"size": config.hidden_size, "depth": config.num_hidden_layers}
        save_probe(part, head, {**about, **size})
    return {**report, "losses": losses}


def _frozen(base: str, layers: Sequence[int]) -> tuple[Any, Any]:
    """A policy without its LM head, to read from, and its tokenizer."""
    import torch
    from transformers import AutoModel

    where, options = resolve_checkpoint(base)
    with convert_load_errors(base):
        backbone = AutoModel.from_pretrained(
            where, dtype=torch.float32, attn_implementation="sdpa", **options
        )
        tokenizer = load_tokenizer(base)
    check_tokenizer(base, backbone, tokenizer)
    depth = backbone.config.get_text_config().num_hidden_layers
    if any(not -depth - 1 <= layer <= depth for layer in layers):
        raise InputError(
            f"The layers {list(layers)} are not all there: {base} has {depth}, and 0 is the "
            "embedding."
        )
    return backbone.to("cuda" if on_gpu() else "cpu").eval(), tokenizer


def _objective(row: Judged) -> str:
    if isinstance(row, PreferenceRow):
        return "ppm"
    return "orm" if isinstance(row, OutcomeRow) else "pqm"


def hidden_states(backbone: Any, pad: int, groups: Sequence[Group], layers: Sequence[int]) -> Any:
    """The frozen states at all ends of all groups, (N, H x layers), float32 on the CPU."""
    import torch

    found = [torch.zeros(0, backbone.config.get_text_config().hidden_size * len(layers))]
    with torch.inference_mode():
        for chunk in in_batches(groups, 4096):
            inputs = {k: v.to(backbone.device) for k, v in collate(chunk, pad).items()}
            names = ("input_ids", "position_ids", "attention_mask")
            outputs = backbone(
                **{name: inputs[name] for name in names}, use_cache=False, output_hidden_states=True
            )
            ends = inputs["ends"]
            found.append(hidden_at(outputs, layers)[ends[:, 0], ends[:, 1]].float().cpu())
    return torch.cat(found).clone()


def fit(
    states: Any, groups: Sequence[Group], objective: str, settings: ProbeTraining
) -> tuple[Any, list[float]]:
    """The head with the lowest loss of all passes, and the losses. States are brought to mean 0 and
    deviation 1 for the fit, which is then folded into the head's first layer."""
    import torch

    torch.manual_seed(settings.seed)
    bare = [
        replace(g, tokens=[[0]] * len(g.tokens), parents=[[-1]] * len(g.tokens)) for g in groups
    ]
    inputs = collate(bare, 0)
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


def _values(head: Any, states: Any, groups: Sequence[Group]) -> list[list[float]]:
    """The values at the ends of each group."""
    import torch

    with torch.inference_mode():
        flat = value_from_score(head(states).squeeze(-1)).tolist()
    found: list[list[float]] = []
    for group in groups:
        found.append(flat[: len(group.ends)])
        flat = flat[len(group.ends) :]
    return found
