"""How fast a CPU fine-tunes the embedded model: tokens a second of `rstar train policy` and of the
plain loop that one would write, on the same solutions.

    python benchmarks/training.py [--json] [--steps N] [--repeat R] [--base MODEL]

Both sides take the same solutions, 8 to a step of AdamW, train all weights and count real tokens,
not padding. The plain loop is float32, batches in the order of the data, padded to their longest,
logits at every position. Each side runs in a process of its own, for the C library keeps its
settings; they take turns `--repeat` times, and the medians are compared. The first step is not
timed. The solutions are made up, as long as those of grade-school problems (some 200 tokens with
the question).
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rstar_math.training.rows import SolutionRow, solution_row
from rstar_math.types import Execution, ExecutionStatus, Question, Step

NAMES = ("apples", "clips", "marbles", "books", "stamps", "tickets")


def made_up(number: int) -> SolutionRow:
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


def plain(base: str, steps: int, batch: int) -> float:
    """Real tokens a second of a plain loop."""
    import torch

    from rstar_math.models.loading import load_policy

    model, tokenizer = load_policy(base)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    tokens, started = 0, 0.0
    for step in range(steps + 1):
        if step == 1:
            tokens, started = 0, time.perf_counter()
        rows = [made_up(step * batch + i) for i in range(batch)]
        texts = [row.prompt + row.completion for row in rows]
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        labels = inputs.input_ids.masked_fill(inputs.attention_mask == 0, -100)
        for i, row in enumerate(rows):
            labels[i, : len(tokenizer(row.prompt).input_ids)] = -100
        model(**inputs, labels=labels, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens += int(inputs.attention_mask.sum())
    return tokens / (time.perf_counter() - started)


def ours(base: str, steps: int, batch: int) -> float:
    """Real tokens a second of the project's trainer."""
    from transformers import TrainerCallback

    from rstar_math.models.loading import load_policy
    from rstar_math.training.policy import encode_solution, policy_trainer
    from rstar_math.training.process import keep_memory
    from rstar_math.training.settings import PolicyTraining

    keep_memory()
    model, tokenizer = load_policy(base)
    examples = [encode_solution(tokenizer, made_up(n)) for n in range((steps + 1) * batch)]
    settings = PolicyTraining(batch=batch, micro=batch, epochs=1, save_every=10_000)
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = policy_trainer(model, tokenizer, examples, Path(folder), settings)
        trainer.args.save_strategy = "no"
        trainer.add_callback(Clock())
        first = trainer.train_dataset[:batch]["input_ids"]
        trainer.train()
    tokens = sum(len(e["input_ids"]) for e in examples) - sum(map(len, first))
    return tokens / (times[-1] - times[0])


def apart(side: str, args: argparse.Namespace) -> float:
    """One side, in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--base", args.base]
    command += ["--steps", str(args.steps), "--batch", str(args.batch)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(run.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a run")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each side")
    parser.add_argument("--batch", type=int, default=8, help="solutions to a step")
    parser.add_argument("--base", default="local")
    parser.add_argument("--side", choices=("plain", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print({"plain": plain, "ours": ours}[args.side](args.base, args.steps, args.batch))
        return
    runs = [{side: apart(side, args) for side in ("plain", "ours")} for _ in range(args.repeat)]
    figures = {
        f"{side}_tokens_per_s": statistics.median(run[side] for run in runs)
        for side in ("plain", "ours")
    }
    figures["over_plain"] = figures["ours_tokens_per_s"] / figures["plain_tokens_per_s"]
    for name, value in figures.items():
        print(f"{name:24} {value:12.2f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
