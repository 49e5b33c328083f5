"""Training of a scorer with TRL's RewardTrainer: the process preference model (PPM) of rStar-Math
(arXiv:2501.04519, section 3.3), with a Bradley-Terry loss.

By option it trains the paper's two baselines: an outcome reward model (ORM) and a model of Q values
(PQM). TRL's trainer is changed in two places. The loss weights pairs and does not depend on how
examples are batched. Prefixes that a node's pairs share are computed once.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.loading import (
    convert_load_errors,
    load_tokenizer,
    load_value_model,
    value_from_score,
)
from rstar_math.training.batches import (
    ExampleShape,
    PromptGroup,
    ScorerRow,
    batch_groups,
    calibration,
    calibration_error,
    collate,
    collate_step,
    group_rows,
    length_bucketed_order,
    micro_batch_trainer,
    pair_calibration,
    ranking_accuracy,
)
from rstar_math.training.memory import MemoryPlan, plan_memory, require_memory
from rstar_math.training.progress import Progress, progress_callback
from rstar_math.training.rows import (
    OutcomeRow,
    PreferenceRow,
    ValueRow,
    fingerprint,
    is_held_out,
    render_rows,
)
from rstar_math.training.settings import PreferenceTraining, ProbeTraining
from rstar_math.training.sft import lora_config, set_lora_input_casting
from rstar_math.training.trainer import (
    MemoryTrimCallback,
    base_dtype,
    completion_callback,
    on_gpu,
    require_training,
    run_trainer,
    save_trained_model,
    set_malloc_limits,
    suppress_warnings,
    trainer_arguments,
    training_folder,
)

OBJECTIVE_ROWS = {"ppm": PreferenceRow, "orm": OutcomeRow, "pqm": ValueRow}
"""The kind of row that each objective trains on."""


def loss_sum(scores: Any, inputs: dict[str, Any], objective: str) -> Any:
    """The weighted sum of a batch's losses, given the raw scores (N,) at its positions.

    With v = tanh(score), the loss of one pair or position is:

    - ppm: Bradley-Terry, -log sigmoid(v_chosen - v_rejected) (rStar-Math, equation 4)
    - orm: cross-entropy of the outcome, with P(right) = (1 + v) / 2 = sigmoid(2 score)
    - pqm: (v - Q)^2
    """
    from torch.nn import functional

    if objective == "ppm":
        values = value_from_score(scores)
        margin = values[inputs["pairs"][:, 0]] - values[inputs["pairs"][:, 1]]
        losses = -functional.logsigmoid(margin)
    elif objective == "orm":
        losses = functional.binary_cross_entropy_with_logits(
            2 * scores.float(), inputs["targets"], reduction="none"
        )
    else:
        losses = (value_from_score(scores) - inputs["targets"]) ** 2
    return (losses * inputs["weights"]).sum()


def raw_scores(model: Any, inputs: dict[str, Any], head: Any) -> Any:
    """The outputs of the value head at the positions of a batch, (N,).

    A hook captures them during a forward pass of the whole model, so multi-GPU wrappers see an
    ordinary forward pass.
    """
    captured: list[Any] = []
    handle = head.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    try:
        names = ("input_ids", "position_ids", "attention_mask")
        model(**{name: inputs[name] for name in names}, use_cache=False)
    finally:
        handle.remove()
    positions = inputs["positions"]
    return captured[-1].squeeze(-1)[positions[:, 0], positions[:, 1]]


def train_preference(
    rows: Sequence[ScorerRow],
    base: str,
    out: Path,
    settings: PreferenceTraining,
    *,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a scorer from a policy, write it to `out`, and return a report.

    The report has the losses and the metrics on held-out problems (`held_out_metrics`). Pairs with
    equal sides are dropped and counted. A killed training resumes as in `train_policy`. On a CPU
    equal calls give equal weights. `out` is complete or absent.

    Raises `InputError`, `MissingDependencyError`, `StoreError` and `TrainingError`.
    """
    require_training()
    if not on_gpu():
        set_malloc_limits()
    distinct = drop_equal_pairs(rows)
    rendered, prompting = render_rows(distinct, base, settings.mode)
    train_rows, held_out_rows = split_held_out(rendered, settings)
    inputs = {
        "kind": settings.objective,
        "base": base,
        "settings": settings.recorded(),
        "data": fingerprint(rows),
        "rows": len(rows),
    }
    with training_folder(out, inputs) as work:
        groups, held_out, left_out = load_groups(train_rows, held_out_rows, base, settings)
        require_memory(_plan(groups, base, settings), base, settings)
        model, tokenizer = load_value_model(base, fresh=True, dtype=base_dtype(base, settings))
        trainer = preference_trainer(model, tokenizer, groups, work, settings, log=log)
        losses = run_trainer(trainer, work)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        set_lora_input_casting(trained, True)
        values = predict_values(trained, tokenizer.pad_token_id, held_out)
        report = {
            "steps": trainer.state.global_step,
            "rows": len(train_rows) - left_out[0],
            "left_out_as_equal": len(rows) - len(distinct),
            "left_out_as_too_long": sum(left_out),
            "tokens_run": sum(group.size for group in groups),
            "first_loss": losses[0]["loss"],
            "last_loss": losses[-1]["loss"],
            "held_out": held_out_metrics(held_out, values, settings.objective),
        }
        trained.config.rstar_value = {"value": "tanh(score)", "objective": settings.objective}
        notes = {**inputs, "prompting": prompting, "report": report}
        save_trained_model(trainer, out, work, notes)
    return {**report, "losses": losses}


def plan_preference(
    rows: Sequence[ScorerRow], base: str, settings: PreferenceTraining
) -> MemoryPlan:
    """The memory plan of `train_preference`, without loading any weights. Raises `InputError` and
    `MissingDependencyError`."""
    require_training()
    rendered, _ = render_rows(drop_equal_pairs(rows), base, settings.mode)
    train_rows, held_out_rows = split_held_out(rendered, settings)
    groups, _, _ = load_groups(train_rows, held_out_rows, base, settings)
    return _plan(groups, base, settings)


def _plan(groups: Sequence[PromptGroup], base: str, settings: PreferenceTraining) -> MemoryPlan:
    shapes = [_shape(asdict(groups[index])) for index in training_order(groups, settings)]
    return plan_memory(base, settings, shapes, dtype=base_dtype(base, settings), scorer=True)


def drop_equal_pairs(rows: Sequence[ScorerRow]) -> list[ScorerRow]:
    """The rows without pairs that have the same text on both sides. Raises `InputError` if only
    such pairs are given."""
    distinct = [
        row for row in rows if not (isinstance(row, PreferenceRow) and row.chosen == row.rejected)
    ]
    if rows and not distinct:
        raise InputError(
            f"All {len(rows)} pairs have equal sides, so there is nothing to learn; curate a run "
            "with different right and wrong solutions."
        )
    return distinct


def split_held_out(
    rows: Sequence[ScorerRow], settings: PreferenceTraining | ProbeTraining
) -> tuple[list[ScorerRow], list[ScorerRow]]:
    """Rows to train on and held-out rows, split by problem.

    Raises `InputError` if there are no rows to train on, or if all their outcomes or values are the
    same.
    """
    train: list[ScorerRow] = []
    held_out: list[ScorerRow] = []
    for row in rows:
        held = is_held_out(row.problem, settings.held_out, settings.seed)
        (held_out if held else train).append(row)
    if not train:
        raise InputError(
            f"There are no rows to train on ({len(held_out)} are held out); curate a run in which "
            "some problems have both right and wrong solutions."
        )
    labels = {row.label for row in train if isinstance(row, OutcomeRow)}
    if len(labels) == 1:
        raise InputError(
            f"All {len(train)} solutions are {'right' if labels.pop() else 'wrong'}, so there is "
            "nothing to learn; curate a run with both right and wrong solutions."
        )
    values = {row.value for row in train if isinstance(row, ValueRow)}
    if len(values) == 1:
        raise InputError(
            f"All {len(train)} values are {values.pop():g}, so there is nothing to learn; curate a "
            "run in which some problems have both right and wrong solutions."
        )
    return train, held_out


def load_groups(
    train_rows: Sequence[ScorerRow],
    held_out_rows: Sequence[ScorerRow],
    base: str,
    settings: PreferenceTraining,
) -> tuple[list[PromptGroup], list[PromptGroup], tuple[int, int]]:
    """Groups to train on, held-out groups, and how many rows of each were left out as too long.

    Raises `InputError` if there is nothing to train on.
    """
    with convert_load_errors(base):
        tokenizer = load_tokenizer(base)
    longest, shared = settings.max_tokens, settings.share_prefixes
    groups, left_out = group_rows(train_rows, tokenizer, max_tokens=longest, shared=shared)
    held_out, left_out_held = group_rows(
        held_out_rows, tokenizer, max_tokens=longest, shared=shared
    )
    if not groups:
        raise InputError(
            f"All {len(train_rows)} rows are longer than {longest} tokens; raise max_tokens."
        )
    return groups, held_out, (left_out, left_out_held)


def training_order(groups: Sequence[PromptGroup], settings: PreferenceTraining) -> list[int]:
    """Indices of the groups in training order, over all epochs."""
    sizes = [group.size for group in groups]
    micro = settings.examples_per_micro_batch(len(groups))
    return length_bucketed_order(sizes, micro, settings.epochs, settings.seed)


def preference_trainer(
    model: Any,
    tokenizer: Any,
    groups: Sequence[PromptGroup],
    work: Path,
    settings: PreferenceTraining,
    *,
    log: Callable[[str], None],
) -> Any:
    """A configured TRL trainer with the loss of the objective."""
    from datasets import Dataset
    from trl import RewardConfig

    order = training_order(groups, settings)
    model.config.use_cache = False
    model.score.float()
    trim = MemoryTrimCallback()
    progress = Progress(log, every_s=settings.progress_s, tokens=_tokens)
    with suppress_warnings():
        args = RewardConfig(
            **trainer_arguments(settings, work, examples=len(order), whole_steps=True),
            max_length=None,
        )
        trainer_class = micro_batch_trainer(
            _trainer_class(settings.objective),
            limits=settings.limits(len(order)),
            shape=_shape,
            collate=lambda examples: collate(examples, tokenizer.pad_token_id),
            loss_weight=lambda group: sum(group["weights"]),
            after_micro_batch=[progress.end_micro_batch, lambda examples: trim()],
        )
        trainer = trainer_class(
            model=model,
            args=args,
            train_dataset=Dataset.from_list([asdict(groups[index]) for index in order]),
            processing_class=tokenizer,
            data_collator=collate_step,
            peft_config=lora_config(model, settings, "SEQ_CLS"),
            callbacks=[completion_callback(), progress_callback(progress, work, settings)],
        )
    set_lora_input_casting(trainer.model, not settings.bf16)
    _compute_in_float32(value_head(trainer.model))
    return trainer


def _shape(group: Any) -> ExampleShape:
    return ExampleShape(len(group["tokens"]), max(map(len, group["tokens"])))


def _tokens(group: Any) -> int:
    return sum(map(len, group["tokens"]))


def value_head(model: Any) -> Any:
    """The value head of a scorer, with or without an adapter."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).score


def _compute_in_float32(head: Any) -> None:
    """Make a value head compute in float32 even under autocast: it learns small differences."""
    import torch

    def float32_forward(layer: Any) -> Callable[[Any], Any]:
        def forward(hidden: Any) -> Any:
            with torch.autocast(hidden.device.type, enabled=False):
                bias = None if layer.bias is None else layer.bias.float()
                return torch.nn.functional.linear(hidden.float(), layer.weight.float(), bias)

        return forward

    for layer in head.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.forward = float32_forward(layer)


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
            scores = raw_scores(model, inputs, value_head(self.accelerator.unwrap_model(model)))
            total = inputs["weights"].sum() if num_items_in_batch is None else num_items_in_batch
            loss = loss_sum(scores, inputs, objective) / total
            if num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes
            return (loss, {"raw": scores.detach()}) if return_outputs else loss

    return Trainer


def predict_values(
    model: Any, pad: int, groups: Sequence[PromptGroup], tokens: int = 4096
) -> list[list[float]]:
    """The model's values, in [-1, 1], at the positions of each group.

    A batch has at most `tokens` tokens with padding, or one group.
    """
    import torch

    model.eval()
    device = next(model.parameters()).device
    by_group: list[list[float]] = []
    with torch.inference_mode():
        for chunk in batch_groups(groups, tokens):
            inputs = {name: value.to(device) for name, value in collate(chunk, pad).items()}
            scores = raw_scores(model, inputs, value_head(model))
            by_group += split_by_group(value_from_score(scores).tolist(), chunk)
    return by_group


def split_by_group(values: list[float], groups: Sequence[PromptGroup]) -> list[list[float]]:
    """The values at all positions, in one list per group."""
    by_group: list[list[float]] = []
    for group in groups:
        by_group.append(values[: len(group.positions)])
        values = values[len(group.positions) :]
    return by_group


def held_out_metrics(
    groups: Sequence[PromptGroup], values: Sequence[Sequence[float]], objective: str
) -> dict[str, Any]:
    """Metrics of predicted values on held-out groups, with a calibration table and its error.

    Pairs have a ranking accuracy (None without groups), outcomes and Q values a mean squared error
    (0 without groups).
    """
    metrics: dict[str, Any] = {"problems": len({group.problem for group in groups})}
    if objective == "ppm":
        sides = [
            (v[chosen], v[rejected])
            for group, v in zip(groups, values, strict=True)
            for chosen, rejected in group.pairs
        ]
        table = pair_calibration(sides)
        metrics |= {"pairs": len(sides), "accuracy": ranking_accuracy(sides)}
    else:
        predicted = [(1 + v) / 2 for group_values in values for v in group_values]
        targets = [target for group in groups for target in group.targets]
        if objective == "pqm":
            targets = [(1 + q) / 2 for q in targets]
        table = calibration(predicted, targets)
        errors = [(2 * p - 2 * t) ** 2 for p, t in zip(predicted, targets, strict=True)]
        mean_error = sum(errors) / max(1, len(errors))
        metrics |= {"values": len(predicted), "squared_error": mean_error}
    return {
        **metrics,
        "calibration_error": calibration_error(table),
        "calibration": [asdict(row) for row in table if row.count],
    }
