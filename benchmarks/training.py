"""Speed and memory of LoRA fine-tuning on a CPU: `rstar train policy` compared with a plain loop.

    python benchmarks/training.py [--json] [--base MODEL] [--lora 16] [--steps N] [--repeat R]
    python benchmarks/training.py --only ours --solutions 300 --base FOLDER    # peak of a whole run

Both sides keep the base model frozen in bfloat16 (with `--lora 0`: train all weights in float32),
train an adapter of the same rank with PEFT and AdamW, use the same solutions in the same
micro-batches, and compute logits only at positions with loss. Tokens are counted without padding.
Each side runs in its own process. The sides alternate `--repeat` times, and medians are compared,
by wall time and by processor time, which other programs disturb less. The first step is not timed.
The solutions are generated and as long as those of grade-school problems (about 250 tokens with the
question). The peak is the largest resident set of the process, including loading and saving.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rstar_math.training.rows import SftRow, solution_row
from rstar_math.types import Execution, ExecutionStatus, Question, Step

NAMES = ("apples", "clips", "marbles", "books", "stamps", "tickets")
SIDES = ("plain", "ours")


def made_up(number: int) -> SftRow:
    """A solution of 2 to 7 steps."""
    rng = random.Random(number)
    count = rng.randint(2, 7)
    values = [rng.randint(2, 90) for _ in range(count)]
    thing = rng.choice(NAMES)
    text = " ".join(f"On day {i + 1} Ada buys {v} {thing}." for i, v in enumerate(values))
    steps = [
        Step(
            prose=f"# On day {i + 1} Ada buys {v} {thing}, which are added to the total.\n",
            code=f"total_{i} = {f'total_{i - 1}' if i else 0} + {v}\n",
        )
        for i, v in enumerate(values)
    ]
    total = sum(values)
    run = Execution(ExecutionStatus.OK, f"{total}\n")
    steps.append(
        Step("# Print the total.\n", f"print(total_{count - 1})\n", kind="code", execution=run)
    )
    steps.append(Step(f"Ada has \\boxed{{{total}}} {thing}.", kind="answer", answer=str(total)))
    return solution_row(Question(str(number), f"{text} How many {thing} has Ada?"), steps)


def settings_of(args: argparse.Namespace) -> Any:
    """The settings of both sides."""
    from rstar_math.training.settings import PolicyTraining

    return PolicyTraining(
        batch_size=args.batch,
        micro_batch_size=args.batch,
        micro_batch_tokens=args.micro_tokens,
        lora_rank=args.lora,
        gradient_checkpointing=args.checkpointing,
        learning_rate=1e-4,
        epochs=1,
        save_steps=10_000,
    )


def plain(args: argparse.Namespace) -> tuple[float, float]:
    """Tokens per second of a plain loop without padding, by wall time and by processor time."""
    import torch
    from peft import LoraConfig, get_peft_model

    from rstar_math.models.loading import load_policy
    from rstar_math.training.batches import ExampleShape, split_micro_batches
    from rstar_math.training.sft import encode_solution
    from rstar_math.training.trainer import base_dtype

    settings = settings_of(args)
    model, tokenizer = load_policy(args.base, dtype=base_dtype(args.base, settings))
    if args.lora:
        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=args.lora, lora_alpha=32, target_modules=names))
    if args.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    causal = model.get_base_model() if args.lora else model
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    tokens, started = 0, now()
    for step in range(args.steps + 1):
        if step == 1:
            tokens, started = 0, now()
        examples = [
            encode_solution(tokenizer, made_up(step * args.batch + i)) for i in range(args.batch)
        ]
        shapes = [ExampleShape(1, len(one["input_ids"])) for one in examples]
        items = sum(label != -100 for one in examples for label in one["labels"])
        for part in split_micro_batches(shapes, settings.limits(args.batch)):
            length = max(shapes[i].tokens for i in part)
            ids = torch.full((len(part), length), tokenizer.pad_token_id)
            labels = torch.full((len(part), length), -100)
            mask = torch.zeros((len(part), length), dtype=torch.long)
            for row, index in enumerate(part):
                size = shapes[index].tokens
                ids[row, :size] = torch.tensor(examples[index]["input_ids"])
                labels[row, :size] = torch.tensor(examples[index]["labels"])
                mask[row, :size] = 1
            with torch.autocast("cpu", torch.bfloat16):
                hidden = causal.model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
                there = labels[:, 1:] != -100
                logits = causal.lm_head(hidden[:, :-1][there])
            targets = labels[:, 1:][there]
            loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
            (loss / items).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(shape.tokens for shape in shapes)
    return rates(tokens, started, now())


def now() -> tuple[float, float]:
    """Wall seconds and processor seconds."""
    return time.perf_counter(), time.process_time()


def rates(tokens: int, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Tokens per second, by wall time and by processor time."""
    return tokens / (end[0] - start[0]), tokens / (end[1] - start[1])


def ours(args: argparse.Namespace) -> tuple[float, float]:
    """The same for the project's trainer, which loads, trains, merges and saves."""
    import transformers.trainer
    from transformers import TrainerCallback

    from rstar_math.training import sft

    times: list[tuple[float, float]] = []

    class Clock(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            times.append(now())

    transformers.trainer.DEFAULT_CALLBACKS.append(Clock)
    rows = [made_up(number) for number in range((args.steps + 1) * args.batch)]
    settings = settings_of(args)
    with tempfile.TemporaryDirectory() as folder:
        sft.train_policy(rows, args.base, Path(folder) / "out", settings, log=_say)
    examples = sft.encode_solutions(rows, args.base, settings)
    order = sft.training_order(examples, settings)[args.batch :]
    return rates(sum(len(examples[i]["input_ids"]) for i in order), times[0], times[-1])


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def apart(side: str, args: argparse.Namespace) -> tuple[float, float, float]:
    """Run one side in its own process.

    Returns tokens per second by wall time and by processor time, and the peak memory in GB.
    """
    command = [sys.executable, __file__, "--side", side, "--base", args.base]
    for name in ("steps", "batch", "micro_tokens", "lora"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    command += ["--checkpointing"] if args.checkpointing else []
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rate, worked, peak = map(float, run.stdout.strip().splitlines()[-1].split())
    return rate, worked, peak


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--base", default="local", help="a model, as for rstar train")
    parser.add_argument("--lora", type=int, default=16, help="rank of the adapter; 0 for none")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a run")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each side")
    parser.add_argument("--batch", type=int, default=8, help="solutions to a step")
    parser.add_argument("--micro-tokens", type=int, default=1024, help="tokens computed at once")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--solutions", type=int, help="train on so many, in place of --steps")
    parser.add_argument("--only", choices=SIDES, help="run one side")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.solutions:
        args.steps = max(1, args.solutions // args.batch - 1)
    if args.side:
        found = {"plain": plain, "ours": ours}[args.side](args)
        # ru_maxrss is in kilobytes on Linux.
        print(*found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
        return
    sides = [args.only] if args.only else list(SIDES)
    runs = [{side: apart(side, args) for side in sides} for _ in range(args.repeat)]
    figures = {}
    for side in sides:
        figures[f"{side}_tokens_per_s"] = statistics.median(run[side][0] for run in runs)
        figures[f"{side}_tokens_per_cpu_s"] = statistics.median(run[side][1] for run in runs)
        figures[f"{side}_peak_gb"] = max(run[side][2] for run in runs)
    if not args.only:
        figures["over_plain"] = figures["ours_tokens_per_s"] / figures["plain_tokens_per_s"]
        figures["over_plain_by_cpu"] = (
            figures["ours_tokens_per_cpu_s"] / figures["plain_tokens_per_cpu_s"]
        )
    for name, value in figures.items():
        print(f"{name:24} {value:12.2f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
