"""Supervised fine-tuning of the policy on solutions found by search, on TRL's SFTTrainer
(rStar-Math, arXiv:2501.04519, section 3.2).

Only what the model wrote itself is trained on: not the question, not what programs printed.
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
from rstar_math.training.batches import (
    ALIGNED,
    Shape,
    in_micro_batches,
    length_bucketed_order,
    step_tokens,
)
from rstar_math.training.chunked_loss import cross_entropy_sum
from rstar_math.training.lora_targets import is_transposed, layer_matrices, lora_targets
from rstar_math.training.memory import Plan, plan, require_memory
from rstar_math.training.progress import Progress, watching
from rstar_math.training.rows import SftRow, fingerprint, render_rows
from rstar_math.training.settings import PolicyTraining
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

IGNORED = -100
"""Label of a token that is not trained on."""
_SCALED_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)
"""Settings of models that change the logits after the product with the word head."""


def encode_solution(tokenizer: Any, row: SftRow) -> dict[str, list[int]]:
    """Tokens and labels of a solution, tokenised as one text, as at inference. A token is trained
    on if all of it was written by the model."""
    text = row.prompt + row.completion
    encoded = tokenizer(text, return_offsets_mapping=True)
    start = len(row.prompt)
    spans = [(0, start), *((start + a, start + b) for a, b in row.outputs)]
    labels = []
    for token, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        foreign = a == b or any(a < end and b > begin for begin, end in spans)
        labels.append(IGNORED if foreign else token)
    return {"input_ids": list(encoded["input_ids"]), "labels": labels}


def train_policy(
    rows: Sequence[SftRow],
    base: str,
    out: Path,
    settings: PolicyTraining,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a policy and write it to `out`; the report has the losses and counts.

    A training that was killed goes on from its last checkpoint when the same is called again, and
    ends as if it had not been. On a CPU the same call gives the same weights. Raises `InputError`,
    `MissingDependencyError`, `StoreError`, and `TrainingError` where the training diverges or does
    not fit into memory; `out` is whole or not there.
    """
    require_training()
    if not on_gpu():
        set_malloc_limits()
    about = {"kind": "policy", "base": base, "settings": settings.recorded()}
    inputs = {**about, "data": fingerprint(rows), "rows": len(rows)}
    with training_folder(out, inputs) as work:
        rendered, prompting = render_rows(rows, base, settings.mode)
        examples = fitting_examples(rendered, base, settings)
        require_memory(_planned(examples, base, settings), base, settings)
        model, tokenizer = load_policy(base, dtype=base_dtype(base, settings))
        trainer = policy_trainer(model, tokenizer, examples, work, settings, say=say)
        losses = run(trainer, work)
        report = {
            "steps": trainer.state.global_step,
            "solutions": len(examples),
            "left_out_as_too_long": len(rows) - len(examples),
            "trained_tokens": sum(map(_trained, examples)),
            "first_loss": losses[0]["loss"],
            "last_loss": losses[-1]["loss"],
        }
        finish(trainer, out, work, {**inputs, "prompting": prompting, "report": report})
    return {**report, "losses": losses}


def plan_policy(rows: Sequence[SftRow], base: str, settings: PolicyTraining) -> Plan:
    """What `train_policy` would need, without loading any weights. Raises `InputError`."""
    require_training()
    rendered, _ = render_rows(rows, base, settings.mode)
    return _planned(fitting_examples(rendered, base, settings), base, settings)


def _planned(examples: Sequence[dict[str, list[int]]], base: str, settings: PolicyTraining) -> Plan:
    shapes = [_shape(examples[index]) for index in order_of(examples, settings)]
    return plan(base, settings, shapes, dtype=base_dtype(base, settings))


def fitting_examples(
    rows: Sequence[SftRow], base: str, settings: PolicyTraining
) -> list[dict[str, list[int]]]:
    """The solutions that are short enough, encoded. Raises `InputError` if there are none."""
    with convert_load_errors(base):
        tokenizer = load_tokenizer(base)
    examples = [encode_solution(tokenizer, row) for row in rows]
    fitting = [e for e in examples if len(e["input_ids"]) <= settings.max_tokens]
    if not any(_trained(example) for example in fitting):
        raise InputError(
            f"None of {len(rows)} solutions has {settings.max_tokens} tokens or fewer; allow "
            "longer ones with max_tokens."
        )
    return fitting


def order_of(examples: Sequence[dict[str, list[int]]], settings: PolicyTraining) -> list[int]:
    """The order in which examples are trained on."""
    lengths = [len(e["input_ids"]) for e in examples]
    return length_bucketed_order(
        lengths, settings.at_once(len(examples)), settings.epochs, settings.seed
    )


def _shape(example: Any) -> Shape:
    return Shape(1, len(example["input_ids"]))


def _trained(example: Any) -> int:
    """Tokens of an example that are trained on; the first token of a text cannot be."""
    return sum(label != IGNORED for label in example["labels"][1:])


def policy_trainer(
    model: Any,
    tokenizer: Any,
    examples: Sequence[dict[str, list[int]]],
    work: Path,
    settings: PolicyTraining,
    *,
    say: Callable[[str], None],
) -> Any:
    """TRL's trainer, set up: it takes a step's examples in micro-batches, and on a CPU computes
    logits only where there is loss."""
    from datasets import Dataset
    from trl import SFTConfig

    order = order_of(examples, settings)
    packed = settings.packing and on_gpu()
    if settings.matrices_only and not settings.lora_rank:
        only_matrices(model)
    model.config.use_cache = False
    progress = Progress(say, every_s=settings.progress_s, tokens=_tokens, trained=_trained)
    with suppress_warnings():
        args = SFTConfig(
            **arguments(settings, work, examples=len(order), whole_steps=not packed),
            max_length=settings.max_tokens if packed else None,
            packing=packed,
            dataset_kwargs=None if packed else {"skip_prepare_dataset": True},
        )
        trainer = _trainer_class(settings, len(order), tokenizer.pad_token_id, progress, packed)(
            model=model,
            args=args,
            train_dataset=Dataset.from_list([examples[index] for index in order]),
            processing_class=tokenizer,
            data_collator=None if packed else step_tokens,
            peft_config=lora_config(model, settings, "CAUSAL_LM"),
            callbacks=[CompletionCallback(), watching(progress, work, settings)],
        )
    share_inputs(trainer.model, settings.bf16)
    return trainer


def only_matrices(model: Any) -> None:
    """Let only the matrices of attention and MLP be trained."""
    wanted = {id(module.weight) for module in layer_matrices(model).values()}
    for weights in model.parameters():
        weights.requires_grad_(id(weights) in wanted)


def lora_config(model: Any, settings: Any, task: str) -> Any:
    """PEFT's configuration of an adapter on all matrices of attention and MLP; None for rank 0. A
    value head is trained in full."""
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


def share_inputs(model: Any, shared: bool) -> None:
    """Let adapters take the inputs of their layers as they are, for use under autocast. PEFT copies
    each into float32, which autocast then copies back: for every matrix one more tensor kept for
    the backward pass."""
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = not shared


def _tokens(example: Any) -> int:
    return len(example["input_ids"])


def _trainer_class(
    settings: PolicyTraining, examples: int, pad: int, progress: Progress, packed: bool
) -> Any:
    from trl import SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    class Trainer(SFTTrainer):  # type: ignore[misc,unused-ignore]
        """TRL's scores every position on a CPU, trained on or not; this one only the trained."""

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            alone = self.accelerator.num_processes == 1 and self.args.device.type == "cpu"
            if return_outputs or not (alone and has_plain_head(model)) or self.aux_loss_enabled:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return sparse_loss(model, inputs, num_items_in_batch, bf16=self.args.bf16)

    if packed:
        return Trainer
    trim = MemoryTrimCallback()
    return in_micro_batches(
        Trainer,
        limits=settings.limits(examples),
        shape=_shape,
        collate=DataCollatorForLanguageModeling(pad_token_id=pad, pad_to_multiple_of=ALIGNED),
        items=_trained,
        on_part=[progress.part, lambda examples: trim()],
    )


def has_plain_head(model: Any) -> bool:
    """Whether a model's logits are the product with its word head and nothing else."""
    config = model.config.get_text_config()
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in _SCALED_LOGITS):
        return False
    return getattr(model.get_output_embeddings(), "bias", None) is None


def sparse_loss(model: Any, inputs: Any, items: Any = None, *, bf16: bool) -> Any:
    """Sum of the cross-entropies at trained positions over `items` (by default their number), for
    models with a plain head (`has_plain_head`)."""
    import torch

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = causal.base_model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        ).last_hidden_state[:, :-1]
    labels = inputs["labels"][:, 1:]
    there = labels != IGNORED
    chosen = hidden[there]
    weight = causal.get_output_embeddings().weight
    dtype = torch.bfloat16 if bf16 else weight.dtype
    total = cross_entropy_sum(chosen.to(dtype), weight, labels[there])
    return total / (there.sum().clamp(min=1) if items is None else items)


_KEPT = 40
"""Lines of a training's words that are looked through for why it failed."""


def run_launcher(
    launcher: Sequence[str],
    training: Sequence[str],
    out: Path,
    settings: Section,
    *,
    say: Callable[[str], None],
) -> None:
    """Run `rstar train` with the arguments `training` and `--out`, by a launcher: a command line
    that takes a module and its arguments (`accelerate launch --num_processes 8 -m`). Returns when
    the model is written.

    It goes on from its last checkpoint, and ends when this process ends, however that does. Raises
    `MissingDependencyError` where there is no such launcher, `InputError` with its last words where
    it fails.
    """
    command = [_found(launcher[0]), *launcher[1:], "rstar_math.cli", "train", *training]
    command += ["--out", str(out)]
    for name, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    last: deque[str] = deque(maxlen=_KEPT)
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
                last.append(line.rstrip())
                if line.startswith("step "):
                    say(line.rstrip())
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
    if not is_complete(out):
        raise InputError(
            f"The training that {launcher[0]} started ended with code {process.returncode}: "
            f"{_why(last)}; the same command goes on from its last checkpoint."
        )


def _found(name: str) -> str:
    """The launcher's program."""
    found = find_program(name)
    if found is None:
        raise MissingDependencyError(
            f"There is no program {name} to start a training with; install it or change launch."
        )
    return found


def _why(lines: Sequence[str]) -> str:
    """The line that says most of a failure."""
    told: list[Any] = [line for line in lines if "Error" in line or line.startswith("rstar:")]
    line = str(told[-1] if told else next(iter(lines), "it said nothing"))
    return line.strip().removeprefix("rstar: ").rstrip(".")
