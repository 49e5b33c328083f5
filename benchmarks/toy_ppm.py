"""Training of preference models in a toy world with known true values, measured on unseen problems.

    python benchmarks/toy_ppm.py [--json] [--seeds N] [--problems N] [--rollouts N] [--slips]

Problems of the toy world are searched with their references (MCTS, 8 rollouts) and curated with the
defaults. Fewer rollouts make the values of steps less certain. A random Llama of about 120,000
weights is fine-tuned on the right solutions. Four models start from this policy: a PPM (pairs), an
ORM (outcomes), a PQM (Q values) and a probe of the frozen policy (pairs). They use the same trees
of the same problems. The three that train all weights process the same number of tokens, in batches
of equal size, with the same learning rate. The number of labels per token differs by kind, as in
practice.

The metric: of two next steps after the same right prefix, only one of which can lead to the right
answer, does the better one get the higher value? All such pairs among 16 samples at each step of 40
unseen problems count, ties half. Results are means over problems and seeds with 95 % intervals
(problems are resampled, and within each its seeds).

The errors are steps that add a number twice, with a reason. Their text shows the error, in three
wordings. With `--slips` half of the errors are slips: a number differs between a comment and its
code. Only a model that compares numbers can detect them; this tiny model does not learn that from
so little data.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from rstar_math.config import SearchConfig
from rstar_math.evaluation.statistics import bootstrap_seeds
from rstar_math.ppm.scorer import LocalPPM
from rstar_math.prompts.templates import prompt_text, solution_text
from rstar_math.search import Tree, grow
from rstar_math.testing import ToyWorld
from rstar_math.testing.toy_world import Effect, effect_of
from rstar_math.training.batches import group_rows
from rstar_math.training.curation import ALL_DATA, Data, SearchedProblem, curate
from rstar_math.training.preference import train_preference
from rstar_math.training.probe import train_probe
from rstar_math.training.rows import OutcomeRow, PreferenceRow, SftRow, ValueRow, rows_of
from rstar_math.training.settings import PolicyTraining, PreferenceTraining, ProbeTraining
from rstar_math.training.sft import train_policy
from rstar_math.types import Problem, Step

BUDGETS = (10_000, 60_000)
"""Tokens per training."""
STEP_TOKENS = 1000
"""Tokens per optimizer step."""
RATE = 2e-3
KINDS: dict[Data, Any] = {
    "sft": SftRow,
    "preference": PreferenceRow,
    "outcome": OutcomeRow,
    "value": ValueRow,
}
Objective = Literal["ppm", "orm", "pqm"]
DATA: dict[Objective, Data] = {"ppm": "preference", "orm": "outcome", "pqm": "value"}
UNSEEN = 1000
"""Seed of the unseen problems."""


def world(seed: int, *, slips: bool = False) -> ToyWorld:
    """The world with the problems of a seed."""
    slip = 0.15 if slips else 0.0
    return ToyWorld(steps=3, slip=slip, trap=0.3 - slip, seed=seed)


async def same_text(answers: Sequence[str]) -> list[int]:
    """Classes of equal answers."""
    seen: dict[str, int] = {}
    return [seen.setdefault(one, len(seen)) for one in answers]


def data(toys: ToyWorld, problems: int, rollouts: int = 8) -> dict[Data, list[Any]]:
    """The training rows that search and curation create from the first problems, by kind."""

    async def work() -> dict[Data, list[Any]]:
        searched = []
        config = SearchConfig(rollouts=rollouts)
        for problem in toys.problems(problems):
            tree = Tree(problem.question)
            judge = toys.verifier(problem)
            await grow(
                tree, policy=toys.policy, executor=toys.executor, verifier=judge, config=config
            )
            searched.append(SearchedProblem(problem, (("mcts", tree),)))
        found = await curate(searched, lambda question: same_text, None, ALL_DATA)
        return {
            name: [kind.model_validate(row.model_dump()) for row in rows_of(found, name)]
            for name, kind in KINDS.items()
        }

    return asyncio.run(work())


def save_random_policy(folder: Path, texts: Sequence[str], seed: int) -> int:
    """Write a random model and a tokenizer of these texts' words and single digits.

    Returns the number of weights.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.1,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return int(sum(p.numel() for p in model.parameters()))


@dataclass(frozen=True, slots=True)
class Contest:
    """Two next steps after one prefix, as texts; `better` has the higher true value."""

    problem: str
    better: str
    worse: str
    depth: int


def contests(toys: ToyWorld, problems: int) -> list[Contest]:
    """All pairs of sampled steps with different true values, along one right path per problem."""

    async def work() -> list[Contest]:
        return [one for p in toys.problems(problems) for one in await _contests_of(toys, p)]

    return asyncio.run(work())


async def _contests_of(toys: ToyWorld, problem: Problem) -> list[Contest]:
    found: list[Contest] = []
    prefix: tuple[Step, ...] = ()
    rng = random.Random(problem.id)
    for depth in range(toys.steps):
        sampled = await toys.policy.propose(problem.question, prefix, 16, seed=depth)
        steps = [
            replace(step, execution=await toys.executor.run(prefix, step))
            for step in {step.text: step for step in sampled}.values()
        ]
        valued = [(step, toys.value((*prefix, step))) for step in steps]
        known = [(step, value) for step, value in valued if value is not None]

        def text(step: Step, before: tuple[Step, ...] = prefix) -> str:
            return prompt_text(problem.question) + solution_text((*before, step))

        found += [
            Contest(problem.id, text(one), text(other), depth)
            for one, high in known
            for other, low in known
            if high > low
        ]
        right = [step for step in steps if effect_of(step) is Effect.RIGHT]
        if not right:
            break
        prefix = (*prefix, rng.choice(right))
    return found


def fine_tuned(rows: Sequence[SftRow], base: Path, out: Path, epochs: float = 2) -> None:
    """The policy that all models start from."""
    settings = PolicyTraining(
        learning_rate=1e-2,
        epochs=epochs,
        batch_size=4,
        micro_batch_size=4,
        bf16=False,
        save_steps=10**6,
    )
    train_policy(rows, str(base), out, settings)


def trained(
    objective: Objective, rows: Sequence[Any], base: Path, out: Path, tokens: int
) -> dict[str, Any]:
    """A scorer trained on a number of tokens, and the training's report."""
    from rstar_math.models.loading import load_tokenizer

    groups, _ = group_rows(rows, load_tokenizer(str(base)), max_tokens=1000)
    each = mean(group.size for group in groups)
    batch = max(1, round(STEP_TOKENS / each))
    settings = PreferenceTraining(
        objective=objective,
        learning_rate=RATE,
        epochs=tokens / (each * len(groups)),
        batch_size=batch,
        micro_batch_size=batch,
        held_out=1e-9,
        bf16=False,
        save_steps=10**6,
    )
    started = time.process_time()
    report = train_preference(rows, str(base), out, settings)
    seconds = time.process_time() - started
    return {
        "rows": len(rows),
        "steps": report["steps"],
        "epochs": settings.epochs,
        "cpu_s": seconds,
    }


def ranked(checkpoint: Path, pairs: Sequence[Contest]) -> dict[str, float]:
    """The ranking accuracy of a scorer by problem, in [0, 1]."""
    texts = list(dict.fromkeys(text for one in pairs for text in (one.better, one.worse)))
    values = asyncio.run(LocalPPM.load(checkpoint).score_texts(texts))
    value = {text: found or 0.0 for text, found in zip(texts, values, strict=True)}
    hits: dict[str, list[float]] = {}
    for one in pairs:
        a, b = value[one.better], value[one.worse]
        hits.setdefault(one.problem, []).append(0.5 if a == b else float(a > b))
    return {problem: mean(each) for problem, each in hits.items()}


def seeded(
    seed: int, pairs: Sequence[Contest], args: argparse.Namespace
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """The ranking accuracies by scorer and problem, and the training reports, for one seed."""
    rows = data(world(seed, slips=args.slips), args.problems, args.rollouts)
    found: dict[str, dict[str, float]] = {}
    went: dict[str, Any] = {str(name): len(some) for name, some in rows.items()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        texts = [row.prompt + row.completion for row in rows["outcome"][:300]]
        went["weights"] = save_random_policy(root / "random", texts, seed)
        fine_tuned(rows["sft"], root / "random", root / "policy")
        for tokens in BUDGETS:
            for objective, name in DATA.items():
                out = root / f"{objective}-{tokens}"
                went[out.name] = trained(objective, rows[name], root / "policy", out, tokens)
                found[out.name] = ranked(out, pairs)
        settings = ProbeTraining(held_out=1e-9, layers=(1, 2))
        train_probe(rows["preference"], str(root / "policy"), root / "probe", settings)
        found["probe"] = ranked(root / "probe", pairs)
    return found, went


def summarised(found: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Means and intervals over seeds and problems, and comparisons of the PPM with the others."""

    def figure(table: Sequence[Sequence[float]]) -> dict[str, Any]:
        share = mean(mean(row) for row in table)
        return {"mean": share, "interval_95": bootstrap_seeds(table, resamples=2000)}

    problems = list(next(iter(found[0].values())))
    tables = {
        name: [[one[name][problem] for one in found] for problem in problems] for name in found[0]
    }
    figures: dict[str, Any] = {name: figure(table) for name, table in tables.items()}
    for name, table in tables.items():
        if name.startswith(("orm", "pqm")):
            ours = tables[f"ppm{name[3:]}"]
            gaps = [
                [a - b for a, b in zip(*rows, strict=True)]
                for rows in zip(ours, table, strict=True)
            ]
            figures[f"ppm_minus_{name}"] = figure(gaps)
    for name, table in tables.items():
        figures[name]["by_seed"] = [mean(column) for column in zip(*table, strict=True)]
    return figures


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=60, help="problems searched, a seed")
    parser.add_argument("--rollouts", type=int, default=8, help="of each search")
    parser.add_argument("--slips", action="store_true", help="errors that only comparing shows")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    started, cpu = time.perf_counter(), time.process_time()
    pairs = contests(world(UNSEEN, slips=args.slips), 40)
    runs = [seeded(seed, pairs, args) for seed in range(args.seeds)]
    figures: dict[str, Any] = {
        "ranking_accuracy": summarised([found for found, _ in runs]),
        "pairs": len(pairs),
        "seeds": args.seeds,
        "trainings": runs[0][1],
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
    }
    for name, one in figures["ranking_accuracy"].items():
        low, high = one["interval_95"]
        print(f"{name:24} {one['mean']:7.3f}  [{low:.3f}, {high:.3f}]")
    print(f"{len(pairs)} pairs, {figures['cpu_seconds']:.0f} s of processor time")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
