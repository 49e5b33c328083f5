"""Supervised fine-tuning of the policy on solutions found by search, with TRL's SFTTrainer
(rStar-Math, arXiv:2501.04519, section 3.2).

The loss covers only the text that the model wrote, not the question and not program output.
"""

import json
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import is_complete
from rstar_math.config.sections import Section
from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.llm.vllm_servers import find_program, with_watchdog
from rstar_math.models.loading import convert_load_errors, load_policy, load_tokenizer
from rstar_math.tracking import current_run
from rstar_math.training.batches import (
    PAD_MULTIPLE,
    ExampleShape,
    collate_step,
    length_bucketed_order,
    micro_batch_trainer,
)
from rstar_math.training.chunked_loss import cross_entropy_sum
from rstar_math.training.lora_targets import is_transposed, layer_matrices, lora_targets
from rstar_math.training.memory import MemoryPlan, plan_memory, require_memory
from rstar_math.training.progress import Progress, progress_callback
from rstar_math.training.rows import SftRow, fingerprint, render_rows
from rstar_math.training.settings import PolicyTraining
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

IGNORE_INDEX = -100
"""Label of a token that is not trained on."""
_LOGIT_SETTINGS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)
"""Config fields of models that change the logits after the LM head."""


def encode_solution(tokenizer: Any, row: SftRow) -> dict[str, list[int]]:
    """`input_ids` and `labels` of a solution, tokenized as one text, as at inference.

    A token is trained on if the model wrote all of it.
    """
    text = row.prompt + row.completion
    encoded = tokenizer(text, return_offsets_mapping=True)
    start = len(row.prompt)
    not_trained = [(0, start), *((start + a, start + b) for a, b in row.outputs)]
    labels = []
    for token, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        ignored = a == b or any(a < end and b > begin for begin, end in not_trained)
        labels.append(IGNORE_INDEX if ignored else token)
    return {"input_ids": list(encoded["input_ids"]), "labels": labels}


def train_policy(
    rows: Sequence[SftRow],
    base: str,
    out: Path,
    settings: PolicyTraining,
    *,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a policy, write it to `out`, and return a report with losses and counts.

    A killed training resumes from its latest checkpoint when called again with the same arguments,
    and gives the same result. On a CPU equal calls give equal weights. `log` receives progress
    lines. `out` is complete or absent.

    Raises `InputError`, `MissingDependencyError`, `StoreError`, and `TrainingError` if the training
    diverges or does not fit into memory.
    """
    require_training()
    if not on_gpu():
        set_malloc_limits()
    inputs = {
        "kind": "policy",
        "base": base,
        "settings": settings.recorded(),
        "data": fingerprint(rows),
        "rows": len(rows),
    }
    with training_folder(out, inputs) as work:
        rendered, prompting = render_rows(rows, base, settings.mode)
        examples = encode_solutions(rendered, base, settings)
        require_memory(_plan(examples, base, settings), base, settings)
        model, tokenizer = load_policy(base, dtype=base_dtype(base, settings))
        trainer = policy_trainer(model, tokenizer, examples, work, settings, log=log)
        losses = run_trainer(trainer, work)
        report = {
            "steps": trainer.state.global_step,
            "solutions": len(examples),
            "left_out_as_too_long": len(rows) - len(examples),
            "trained_tokens": sum(map(_trained_tokens, examples)),
            "first_loss": losses[0]["loss"],
            "last_loss": losses[-1]["loss"],
        }
        notes = {**inputs, "prompting": prompting, "report": report}
        save_trained_model(trainer, out, work, notes)
    return {**report, "losses": losses}


def plan_policy(rows: Sequence[SftRow], base: str, settings: PolicyTraining) -> MemoryPlan:
    """The memory plan of `train_policy`, without loading any weights. Raises `InputError` and
    `MissingDependencyError`."""
    require_training()
    rendered, _ = render_rows(rows, base, settings.mode)
    return _plan(encode_solutions(rendered, base, settings), base, settings)


def _plan(
    examples: Sequence[dict[str, list[int]]], base: str, settings: PolicyTraining
) -> MemoryPlan:
    shapes = [_shape(examples[index]) for index in training_order(examples, settings)]
    return plan_memory(base, settings, shapes, dtype=base_dtype(base, settings))


def encode_solutions(
    rows: Sequence[SftRow], base: str, settings: PolicyTraining
) -> list[dict[str, list[int]]]:
    """The solutions of at most `settings.max_tokens` tokens, encoded. Raises `InputError` if there
    are none."""
    with convert_load_errors(base):
        tokenizer = load_tokenizer(base)
    examples = [encode_solution(tokenizer, row) for row in rows]
    fitting = [e for e in examples if len(e["input_ids"]) <= settings.max_tokens]
    if not any(_trained_tokens(example) for example in fitting):
        raise InputError(
            f"All {len(rows)} solutions are longer than {settings.max_tokens} tokens or have "
            "nothing to train on; raise max_tokens."
        )
    return fitting


def training_order(examples: Sequence[dict[str, list[int]]], settings: PolicyTraining) -> list[int]:
    """Indices of the examples in training order, over all epochs."""
    lengths = [_tokens(example) for example in examples]
    micro = settings.examples_per_micro_batch(len(examples))
    return length_bucketed_order(lengths, micro, settings.epochs, settings.seed)


def _shape(example: Any) -> ExampleShape:
    return ExampleShape(1, _tokens(example))


def _tokens(example: Any) -> int:
    return len(example["input_ids"])


def _trained_tokens(example: Any) -> int:
    """Number of tokens that are trained on. The first token of a text has no prediction."""
    return sum(label != IGNORE_INDEX for label in example["labels"][1:])


def policy_trainer(
    model: Any,
    tokenizer: Any,
    examples: Sequence[dict[str, list[int]]],
    work: Path,
    settings: PolicyTraining,
    *,
    log: Callable[[str], None],
) -> Any:
    """A configured TRL trainer.

    It computes a step's examples in micro-batches. On a CPU it computes logits only at trained
    positions.
    """
    from datasets import Dataset
    from trl import SFTConfig

    order = training_order(examples, settings)
    packed = settings.packing and on_gpu()
    if settings.matrices_only and not settings.lora_rank:
        freeze_all_but_matrices(model)
    model.config.use_cache = False
    progress = Progress(log, every_s=settings.progress_s, tokens=_tokens, trained=_trained_tokens)
    with suppress_warnings():
        args = SFTConfig(
            **trainer_arguments(settings, work, examples=len(order), whole_steps=not packed),
            max_length=settings.max_tokens if packed else None,
            packing=packed,
            dataset_kwargs=None if packed else {"skip_prepare_dataset": True},
        )
        trainer = _trainer_class(settings, len(order), tokenizer.pad_token_id, progress, packed)(
            model=model,
            args=args,
            train_dataset=Dataset.from_list([examples[index] for index in order]),
            processing_class=tokenizer,
            data_collator=None if packed else collate_step,
            peft_config=lora_config(model, settings, "CAUSAL_LM"),
            callbacks=[completion_callback(), progress_callback(progress, work, settings)],
        )
    set_lora_input_casting(trainer.model, not settings.bf16)
    return trainer


def freeze_all_but_matrices(model: Any) -> None:
    """Make only the attention and MLP matrices trainable. Raises `InputError` as
    `layer_matrices`."""
    trained = {id(module.weight) for module in layer_matrices(model).values()}
    for weights in model.parameters():
        weights.requires_grad_(id(weights) in trained)


def lora_config(model: Any, settings: Any, task: str) -> Any:
    """PEFT's config of an adapter on all attention and MLP matrices; None for rank 0.

    A value head is trained in full. Raises `InputError` as `layer_matrices`.
    """
    if settings.lora_rank == 0:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules=lora_targets(model),
        fan_in_fan_out=any(map(is_transposed, layer_matrices(model).values())),
        task_type=task,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )


def set_lora_input_casting(model: Any, enabled: bool) -> None:
    """Turn PEFT's casting of adapter inputs on or off.

    PEFT copies each input into float32, and autocast copies it back. Off, this saves one tensor per
    matrix that is kept for the backward pass. Requires autocast while it is off.
    """
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = enabled


def _trainer_class(
    settings: PolicyTraining, examples: int, pad: int, progress: Progress, packed: bool
) -> Any:
    from trl import SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    class Trainer(SFTTrainer):  # type: ignore[misc,unused-ignore]
        """On a CPU, TRL computes logits at every position; this class only at trained ones."""

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            one_cpu = self.accelerator.num_processes == 1 and self.args.device.type == "cpu"
            if return_outputs or not (one_cpu and has_plain_head(model)) or self.aux_loss_enabled:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return sparse_loss(model, inputs, num_items_in_batch, bf16=self.args.bf16)

    if packed:
        return Trainer
    trim = MemoryTrimCallback()
    return micro_batch_trainer(
        Trainer,
        limits=settings.limits(examples),
        shape=_shape,
        collate=DataCollatorForLanguageModeling(pad_token_id=pad, pad_to_multiple_of=PAD_MULTIPLE),
        loss_weight=_trained_tokens,
        after_micro_batch=[progress.end_micro_batch, lambda examples: trim()],
    )


def has_plain_head(model: Any) -> bool:
    """Whether a model's logits are the product of hidden states and LM head, without bias or
    scaling."""
    config = model.config.get_text_config()
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in _LOGIT_SETTINGS):
        return False
    return getattr(model.get_output_embeddings(), "bias", None) is None


def sparse_loss(model: Any, inputs: Any, items: Any = None, *, bf16: bool) -> Any:
    """The cross-entropy sum over trained positions, divided by `items` (default: their number).

    Requires a model with a plain head (`has_plain_head`).
    """
    import torch

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = causal.base_model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        ).last_hidden_state[:, :-1]
    labels = inputs["labels"][:, 1:]
    trained = labels != IGNORE_INDEX
    weight = causal.get_output_embeddings().weight
    dtype = torch.bfloat16 if bf16 else weight.dtype
    total = cross_entropy_sum(hidden[trained].to(dtype), weight, labels[trained])
    return total / (trained.sum().clamp(min=1) if items is None else items)


_KEPT_LINES = 40
"""Number of last output lines that are searched for the reason of a failure."""


def run_launcher(
    launcher: Sequence[str],
    training: Sequence[str],
    out: Path,
    settings: Section,
    *,
    log: Callable[[str], None],
) -> None:
    """Run `rstar train` with the arguments `training` through a launcher, until the model is
    written.

    A launcher is a command line that takes a module and its arguments, such as `accelerate launch
    --num_processes 8 -m`. The training resumes from its latest checkpoint. It is terminated when
    this process ends, in whatever way.

    Raises `MissingDependencyError` if the launcher is not found, and `InputError` with the reason
    if the training fails.
    """
    command = [_find_launcher(launcher[0]), *launcher[1:], "rstar_math.cli", "train", *training]
    command += ["--out", str(out)]
    if (run := current_run()) is not None:
        command += [f"--tracker={name}" for name in run.trackers]
        command += ["--tracker-run", run.name]
    for name, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
    with subprocess.Popen(
        with_watchdog(command),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                last_lines.append(line.rstrip())
                if line.startswith("step "):
                    log(line.rstrip())
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
    if not is_complete(out):
        raise InputError(
            f"The training started by {launcher[0]} ended with code {process.returncode}: "
            f"{_failure_reason(last_lines)}; run the same command again to resume from the latest "
            "checkpoint."
        )


def _find_launcher(name: str) -> str:
    """Path of the launcher's program."""
    path = find_program(name)
    if path is None:
        raise MissingDependencyError(
            f"The launcher {name} was not found; install it or change the option launcher."
        )
    return path


def _failure_reason(lines: Sequence[str]) -> str:
    """The last line of a program's output that looks like an error; else its first line."""
    errors = [line for line in lines if "Error" in line or line.startswith("rstar:")]
    line = errors[-1] if errors else next(iter(lines), "it printed nothing")
    return line.strip().removeprefix("rstar: ").rstrip(".")
