"""Supervised fine-tuning of the policy on solutions found by search, on TRL's SFTTrainer
(rStar-Math, arXiv:2501.04519, section 3.2).

Only what the model wrote itself is trained on: not the question, not what programs printed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.loading import load_policy
from rstar_math.training.order import bucketed
from rstar_math.training.process import (
    arguments,
    at_work,
    finish,
    hushed,
    keep_memory,
    marking,
    on_gpu,
    require_training,
    run,
    trimming,
)
from rstar_math.training.rows import SolutionRow, fingerprint
from rstar_math.training.settings import PolicyTraining

IGNORED = -100
"""Label of a token that is not trained on."""
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Where adapters go, in models of the Llama family."""


def encode_solution(tokenizer: Any, row: SolutionRow) -> dict[str, list[int]]:
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
    rows: Sequence[SolutionRow],
    base: str,
    out: Path,
    settings: PolicyTraining,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a policy and write it to `out`; the report has the losses and counts.

    A training that was killed goes on from its last checkpoint when the same is called again, and
    ends as if it had not been. On a CPU the same call gives the same weights. Raises `InputError`,
    `MissingExtra` and `StoreError`; `out` is whole or not there.
    """
    require_training()
    if not on_gpu():
        keep_memory()
    about = {"kind": "policy", "base": base, "settings": settings.model_dump(mode="json")}
    inputs = {**about, "data": fingerprint(rows), "rows": len(rows)}
    with at_work(out, inputs) as work:
        model, tokenizer = load_policy(base)
        examples = [encode_solution(tokenizer, row) for row in rows]
        fitting = [e for e in examples if len(e["input_ids"]) <= settings.max_tokens]
        if not any(label != IGNORED for e in fitting for label in e["labels"]):
            raise InputError(
                f"None of {len(rows)} solutions has {settings.max_tokens} tokens or fewer; allow "
                "longer ones with max_tokens."
            )
        trainer = policy_trainer(model, tokenizer, fitting, work, settings)
        losses = run(trainer, work, say)
        report = {
            "steps": trainer.state.global_step,
            "solutions": len(fitting),
            "left_out_as_too_long": len(rows) - len(fitting),
            "trained_tokens": sum(x != IGNORED for e in fitting for x in e["labels"]),
            "first_loss": losses[0]["loss"],
            "last_loss": losses[-1]["loss"],
        }
        finish(trainer, out, work, {**inputs, "report": report})
    return {**report, "losses": losses}


def policy_trainer(
    model: Any,
    tokenizer: Any,
    examples: Sequence[dict[str, list[int]]],
    work: Path,
    settings: PolicyTraining,
) -> Any:
    """TRL's trainer, set up; on a CPU with a loss that runs the LM head where there is loss and
    nowhere else."""
    from datasets import Dataset
    from trl import SFTConfig

    order = bucketed(
        [len(e["input_ids"]) for e in examples],
        settings.at_once(len(examples)),
        settings.epochs,
        settings.seed,
    )
    packed = settings.packing and on_gpu()
    if settings.matrices and not settings.lora:
        for name, weights in model.named_parameters():
            weights.requires_grad_(name.split(".")[-2] in LORA_MODULES)
    model.config.use_cache = False
    with hushed():
        args = SFTConfig(
            **arguments(settings, work, examples=len(order)),
            max_length=settings.max_tokens if packed else None,
            packing=packed,
            dataset_kwargs=None if packed else {"skip_prepare_dataset": True},
        )
        return _trainer_class()(
            model=model,
            args=args,
            train_dataset=Dataset.from_list([examples[index] for index in order]),
            processing_class=tokenizer,
            peft_config=lora_config(settings.lora, settings.lora_alpha, "CAUSAL_LM"),
            callbacks=[marking(), trimming()],
        )


def lora_config(rank: int, alpha: float, task: str) -> Any:
    """PEFT's configuration of an adapter; None for rank 0. A value head is trained in full."""
    if rank == 0:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(LORA_MODULES),
        task_type=task,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )


def _trainer_class() -> Any:
    from trl import SFTTrainer

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
            if return_outputs or not alone:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return sparse_loss(model, inputs, num_items_in_batch, bf16=self.args.bf16)

    return Trainer


def sparse_loss(model: Any, inputs: Any, items: Any = None, *, bf16: bool) -> Any:
    """Sum of the cross-entropies at trained positions over `items` (by default their number)."""
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
        logits = causal.get_output_embeddings()(hidden[there])
    total = torch.nn.functional.cross_entropy(logits.float(), labels[there], reduction="sum")
    return total / (there.sum().clamp(min=1) if items is None else items)
