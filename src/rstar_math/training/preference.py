"""Training of a scorer on TRL's RewardTrainer: the process preference model (rStar-Math,
arXiv:2501.04519, section 3.3) and, by a flag, the paper's two comparisons: an outcome model (ORM)
and a model of Q values (PQM).

TRL's trainer is changed in two places: the loss weights pairs and does not depend on how examples
fall into batches, and what the sides of a node's pairs have in common is computed once.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.loading import (
    convert_load_errors,
    load_scored,
    load_tokenizer,
    value_from_score,
)
from rstar_math.training.batches import (
    Group,
    Judged,
    Shape,
    calibration,
    calibration_error,
    collate,
    groups_of,
    in_batches,
    in_micro_batches,
    length_bucketed_order,
    pair_calibration,
    ranking_accuracy,
    step_tokens,
)
from rstar_math.training.memory import Plan, plan, require_memory
from rstar_math.training.progress import Progress, watching
from rstar_math.training.rows import (
    OutcomeRow,
    PreferenceRow,
    ValueRow,
    fingerprint,
    held_out,
    render_rows,
)
from rstar_math.training.settings import PreferenceTraining, ProbeTraining
from rstar_math.training.sft import lora_config, share_inputs
from rstar_math.training.trainer import (
    CompletionCallback,
    MemoryTrimCallback,
    arguments,
    base_dtype,
    finish,
    on_gpu,
    require_training,
    run,
    set_malloc_limits,
    suppress_warnings,
    training_folder,
)

KINDS = {"ppm": PreferenceRow, "orm": OutcomeRow, "pqm": ValueRow}
"""What each objective learns from."""


def loss_sum(raw: Any, inputs: dict[str, Any], objective: str) -> Any:
    """The weighted sum of a batch's losses, given the raw scores at its ends.

    ppm: -log sigmoid(v+ - v-), v = tanh(raw), times the pair's weight (the paper's equation 4).
    orm: cross-entropy of the outcome, P(right) = (1 + v) / 2 = sigmoid(2 raw). pqm: (v - Q)^2.
    """
    from torch.nn import functional

    if objective == "ppm":
        values = value_from_score(raw)
        margin = values[inputs["pairs"][:, 0]] - values[inputs["pairs"][:, 1]]
        each = -functional.logsigmoid(margin)
    elif objective == "orm":
        each = functional.binary_cross_entropy_with_logits(
            2 * raw.float(), inputs["targets"], reduction="none"
        )
    else:
        each = (value_from_score(raw) - inputs["targets"]) ** 2
    return (each * inputs["weights"]).sum()


def raw_scores(model: Any, inputs: dict[str, Any], head: Any) -> Any:
    """The head's outputs at the ends of a batch, (N,). They are caught on their way through the
    whole model, so that wrappers for many GPUs see an ordinary forward pass."""
    caught: list[Any] = []
    handle = head.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    try:
        names = ("input_ids", "position_ids", "attention_mask")
        model(**{name: inputs[name] for name in names}, use_cache=False)
    finally:
        handle.remove()
    ends = inputs["ends"]
    return caught[-1].squeeze(-1)[ends[:, 0], ends[:, 1]]


def train_preference(
    rows: Sequence[Judged],
    base: str,
    out: Path,
    settings: PreferenceTraining,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a scorer from a policy and write it to `out`; the report has the losses, and ranking
    accuracy or squared error and a calibration table on held-out problems.

    As `train_policy`: killed trainings go on, the same call gives the same weights on a CPU, and
    `out` is whole or not there. Pairs whose sides are equal are dropped and counted. Raises
    `InputError`, `MissingDependencyError`, `StoreError` and `TrainingError`.
    """
    require_training()
    if not on_gpu():
        set_malloc_limits()
    different = [row for row in rows if not is_equal_pair(row)]
    _require_difference(rows, different)
    rendered, prompting = render_rows(different, base, settings.mode)
    learned, kept = split(rendered, settings)
    about = {"kind": settings.objective, "base": base, "settings": settings.recorded()}
    inputs = {**about, "data": fingerprint(rows), "rows": len(rows)}
    with training_folder(out, inputs) as work:
        groups, held, too_long = fitting_groups(learned, kept, base, settings)
        require_memory(_planned(groups, base, settings), base, settings)
        model, tokenizer = load_scored(base, fresh=True, dtype=base_dtype(base, settings))
        trainer = preference_trainer(model, tokenizer, groups, work, settings, say=say)
        losses = run(trainer, work)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        share_inputs(trained, False)
        report = {
            "steps": trainer.state.global_step,
            "rows": len(learned) - too_long[0],
            "left_out_as_equal": len(rows) - len(different),
            "left_out_as_too_long": sum(too_long),
            "tokens_run": sum(group.size for group in groups),
            "first_loss": losses[0]["loss"],
            "last_loss": losses[-1]["loss"],
            "held_out": measure(trained, tokenizer.pad_token_id, held, settings.objective),
        }
        trained.config.rstar_value = {"value": "tanh(score)", "objective": settings.objective}
        finish(trainer, out, work, {**inputs, "prompting": prompting, "report": report})
    return {**report, "losses": losses}


def _require_difference(rows: Sequence[Judged], different: Sequence[Judged]) -> None:
    """Raise `InputError` where all rows are pairs of equal sides."""
    if rows and not different:
        raise InputError(
            f"There are only {len(rows)} pairs whose two sides are equal, from which nothing is "
            "learned; curate a run in which right and wrong solutions differ."
        )


def plan_preference(rows: Sequence[Judged], base: str, settings: PreferenceTraining) -> Plan:
    """What `train_preference` would need, without loading any weights. Raises `InputError`."""
    require_training()
    different = [row for row in rows if not is_equal_pair(row)]
    _require_difference(rows, different)
    rendered, _ = render_rows(different, base, settings.mode)
    learned, kept = split(rendered, settings)
    groups, _, _ = fitting_groups(learned, kept, base, settings)
    return _planned(groups, base, settings)


def _planned(groups: Sequence[Group], base: str, settings: PreferenceTraining) -> Plan:
    shapes = [_shape(asdict(groups[index])) for index in order_of(groups, settings)]
    return plan(base, settings, shapes, dtype=base_dtype(base, settings), scorer=True)


def is_equal_pair(row: Judged) -> bool:
    """Whether a row is a pair with the same text on both sides, from which nothing is learned."""
    return isinstance(row, PreferenceRow) and row.chosen == row.rejected


def split(
    rows: Sequence[Judged], settings: PreferenceTraining | ProbeTraining
) -> tuple[list[Judged], list[Judged]]:
    """Rows to learn from and rows held out, by problem. Raises `InputError` where there is nothing
    to learn: no rows, or outcomes or values that are all the same."""
    kept = [row for row in rows if held_out(row.problem, settings.held_out, settings.seed)]
    learned = [row for row in rows if not held_out(row.problem, settings.held_out, settings.seed)]
    if not learned:
        raise InputError(
            f"There are no rows to learn from ({len(kept)} are held out); curate a run in which "
            "some problems have right and wrong solutions."
        )
    labels = {row.label for row in learned if isinstance(row, OutcomeRow)}
    if len(labels) == 1:
        raise InputError(
            f"All {len(learned)} solutions are {'right' if labels.pop() else 'wrong'}, so there is "
            "nothing to tell apart; curate a run that has both."
        )
    values = {row.value for row in learned if isinstance(row, ValueRow)}
    if len(values) == 1:
        raise InputError(
            f"All {len(learned)} values are {values.pop():g}, so there is nothing to tell apart; "
            "curate a run in which some problems have right and wrong solutions."
        )
    return learned, kept


def fitting_groups(
    learned: Sequence[Judged], kept: Sequence[Judged], base: str, settings: PreferenceTraining
) -> tuple[list[Group], list[Group], tuple[int, int]]:
    """Groups to learn from, groups held out, and how many rows of each were left out as too long.
    Raises `InputError` if there is nothing to learn from."""
    with convert_load_errors(base):
        tokenizer = load_tokenizer(base)
    longest, shared = settings.max_tokens, settings.share_prefixes
    groups, left_out = groups_of(learned, tokenizer, max_tokens=longest, shared=shared)
    held, left_out_held = groups_of(kept, tokenizer, max_tokens=longest, shared=shared)
    if not groups:
        raise InputError(
            f"None of {len(learned)} rows has {longest} tokens or fewer; allow longer ones with "
            "max_tokens."
        )
    return groups, held, (left_out, left_out_held)


def order_of(groups: Sequence[Group], settings: PreferenceTraining) -> list[int]:
    """The order in which groups are trained on."""
    micro = settings.at_once(len(groups))
    return length_bucketed_order([g.size for g in groups], micro, settings.epochs, settings.seed)


def preference_trainer(
    model: Any,
    tokenizer: Any,
    groups: Sequence[Group],
    work: Path,
    settings: PreferenceTraining,
    *,
    say: Callable[[str], None],
) -> Any:
    """TRL's trainer, set up with the loss of the objective."""
    from datasets import Dataset
    from trl import RewardConfig

    order = order_of(groups, settings)
    model.config.use_cache = False
    model.score.float()
    trim = MemoryTrimCallback()
    progress = Progress(say, every_s=settings.progress_s, tokens=_tokens)
    with suppress_warnings():
        args = RewardConfig(
            **arguments(settings, work, examples=len(order), whole_steps=True), max_length=None
        )
        stepping = in_micro_batches(
            _trainer_class(settings.objective),
            limits=settings.limits(len(order)),
            shape=_shape,
            collate=lambda batch: collate(batch, tokenizer.pad_token_id),
            items=lambda group: sum(group["weights"]),
            on_part=[progress.part, lambda examples: trim()],
        )
        trainer = stepping(
            model=model,
            args=args,
            train_dataset=Dataset.from_list([asdict(groups[index]) for index in order]),
            processing_class=tokenizer,
            data_collator=step_tokens,
            peft_config=lora_config(model, settings, "SEQ_CLS"),
            callbacks=[CompletionCallback(), watching(progress, work, settings)],
        )
    share_inputs(trainer.model, settings.bf16)
    _in_float32(head_of(trainer.model))
    return trainer


def _shape(group: Any) -> Shape:
    return Shape(len(group["tokens"]), max(map(len, group["tokens"])))


def _tokens(group: Any) -> int:
    return sum(map(len, group["tokens"]))


def head_of(model: Any) -> Any:
    """The value head of a model, inside an adapter or not."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).score


def _in_float32(head: Any) -> None:
    """Let a head work in float32 under autocast too: what is learned is a small difference."""
    import torch

    def exactly(layer: Any) -> Callable[[Any], Any]:
        def forward(hidden: Any) -> Any:
            with torch.autocast(hidden.device.type, enabled=False):
                bias = None if layer.bias is None else layer.bias.float()
                return torch.nn.functional.linear(hidden.float(), layer.weight.float(), bias)

        return forward

    for layer in head.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.forward = exactly(layer)


def _trainer_class(objective: str) -> Any:
    from trl import RewardTrainer

    class Trainer(RewardTrainer):  # type: ignore[misc,unused-ignore]
        loss_is_scaled_for_ga = True

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            raw = raw_scores(model, inputs, head_of(self.accelerator.unwrap_model(model)))
            total = inputs["weights"].sum() if num_items_in_batch is None else num_items_in_batch
            loss = loss_sum(raw, inputs, objective) / total
            if num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes
            return (loss, {"raw": raw.detach()}) if return_outputs else loss

    return Trainer


def ends_of(model: Any, pad: int, groups: Sequence[Group], tokens: int = 4096) -> list[list[float]]:
    """The value at each end of each group."""
    import torch

    model.eval()
    device = next(model.parameters()).device
    found: list[list[float]] = []
    with torch.inference_mode():
        for chunk in in_batches(groups, tokens):
            inputs = {name: value.to(device) for name, value in collate(chunk, pad).items()}
            values = value_from_score(raw_scores(model, inputs, head_of(model))).tolist()
            for group in chunk:
                found.append(values[: len(group.ends)])
                values = values[len(group.ends) :]
    return found


def measure(model: Any, pad: int, groups: Sequence[Group], objective: str) -> dict[str, Any]:
    """What `measured` says of a model's values."""
    return measured(groups, ends_of(model, pad, groups), objective)


def measured(
    groups: Sequence[Group], values: Sequence[Sequence[float]], objective: str
) -> dict[str, Any]:
    """Of values at the ends of groups: of pairs the ranking accuracy, of outcomes and Q values the
    mean squared error, with a calibration table and its error; only counts where nothing is held
    out."""
    counts = {"problems": len({group.problem for group in groups})}
    if objective == "ppm":
        sides = [(v[a], v[b]) for g, v in zip(groups, values, strict=True) for a, b in g.pairs]
        table = pair_calibration(sides)
        figures: dict[str, Any] = {"pairs": len(sides), "accuracy": ranking_accuracy(sides)}
    else:
        flat = [(1 + v) / 2 for one in values for v in one]
        raw = [target for group in groups for target in group.targets]
        targets = raw if objective == "orm" else [(1 + target) / 2 for target in raw]
        table = calibration(flat, targets)
        errors = [(2 * p - 2 * t) ** 2 for p, t in zip(flat, targets, strict=True)]
        figures = {"values": len(flat), "squared_error": sum(errors) / max(1, len(errors))}
    return {
        **counts,
        **figures,
        "calibration_error": calibration_error(table),
        "calibration": [asdict(row) for row in table if row.count],
    }
