"""Accuracy of strategies at equal cost in a toy world.

    python benchmarks/toy_quality.py [--json] [--problems N]

All strategies use the same policy and the same budget of sampled tokens per problem. Strategies
that use scores share one noisy scorer. In the worlds with traps it gives a trap a high value until
two steps later. `mcts` is rStar-Math as in the paper; `mcts-all` also backs up the scores of new
nodes (`search.backup=all`). Without a scorer only votes decide. Below each table, MCTS is compared
with the best other strategy at that budget on the same problems, with the 95 % interval of the
difference (paired bootstrap). `tot` and `rap` need a language model and are left out. `greedy` is
one chain at every budget.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rstar_math.config import SearchConfig
from rstar_math.evaluation.metrics import wilson
from rstar_math.search import SearchComponents, Tree, run_strategy
from rstar_math.search.strategies import parse_strategies
from rstar_math.testing import ToyWorld

BUDGETS = (1000, 2000, 4000, 8000, 16000)
OURS = ("mcts", "mcts-all")
Hits = dict[tuple[str, int], list[bool]]


@dataclass(frozen=True, slots=True)
class Setting:
    """A world, with or without a scorer."""

    name: str
    title: str
    world: ToyWorld
    scored: bool


SETTINGS = (
    Setting("traps", "4 steps, scorer that falls for traps", ToyWorld(steps=4), True),
    Setting("long", "7 steps, scorer, no traps", ToyWorld(steps=7, slip=0.3, trap=0.0), True),
    Setting("votes", "4 steps, no scorer", ToyWorld(steps=4), False),
)


async def same_text(answers: Sequence[str]) -> list[int]:
    """Classes of equal texts."""
    seen: dict[str, int] = {}
    return [seen.setdefault(answer, len(seen)) for answer in answers]


async def hits(setting: Setting, problems: int) -> tuple[Hits, dict[tuple[str, int], float]]:
    """Whether each strategy solved each problem at each budget, and the mean sampled tokens."""
    world = setting.world
    scorer = world.scorer(noise=0.5) if setting.scored else None
    parts = SearchComponents(world.policy, world.executor, scorer)
    names = ["sc", "bon", "beam@4", "dvts", "value", *OURS] if scorer else ["sc", "mcts"]
    found: Hits = {}
    spent: dict[tuple[str, int], float] = {}
    for name in names:
        spec = "mcts@1000" if name in OURS else name
        (strategy,) = parse_strategies(spec)
        for budget in BUDGETS:
            backup = "all" if name == "mcts-all" else "answers"
            config = SearchConfig(token_budget=budget, candidates=8, backup=backup)
            for problem in world.problems(problems):
                tree = Tree(problem.question)
                choice = await run_strategy(tree, strategy, parts, config, group=same_text)
                found.setdefault((name, budget), []).append(choice.answer == problem.reference)
                cost = tree.cost.sampled_tokens / problems
                spent[name, budget] = spent.get((name, budget), 0.0) + cost
    return found, spent


def difference(ours: list[bool], theirs: list[bool], rounds: int = 2000) -> list[float]:
    """The mean difference on the same problems and its 95 % bootstrap interval, in points."""
    rng = random.Random(0)
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    means = sorted(sum(rng.choices(gaps, k=len(gaps))) / len(gaps) for _ in range(rounds))
    bounds = means[round(0.025 * rounds)], means[round(0.975 * rounds) - 1]
    return [100 * sum(gaps) / len(gaps), *(100 * bound for bound in bounds)]


def table(found: Hits, spent: dict[tuple[str, int], float]) -> dict[str, float]:
    """Print the table of one setting and return its results by name."""
    figures: dict[str, float] = {}
    names = list(dict.fromkeys(name for name, _ in found))
    print(f"{'':9}" + "".join(f"{f'{budget} tokens':>18}" for budget in BUDGETS))
    for name in names:
        row = f"{name:9}"
        for budget in BUDGETS:
            got = found[name, budget]
            low, high = wilson(sum(got), len(got))
            figures[f"{name}_{budget}"] = share = sum(got) / len(got)
            row += f"{100 * share:6.1f} [{100 * low:3.0f}, {100 * high:3.0f}]"
        print(row)
    print("really sampled, least and most over the strategies:")
    costs = [[spent[name, budget] for name in names] for budget in BUDGETS]
    print(" " * 9 + "".join(f"{f'{min(c):.0f} - {max(c):.0f}':>18}" for c in costs))
    rivals = [name for name in names if name not in OURS]
    for ours in (name for name in names if name in OURS):
        for budget in BUDGETS:
            rival = max(rivals, key=lambda name: sum(found[name, budget]))
            mean, low, high = difference(found[ours, budget], found[rival, budget])
            figures[f"{ours}_minus_best_rival_{budget}"] = mean
            verdict = "better" if low > 0 else "worse" if high < 0 else "no difference seen"
            gap = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
            print(f"  {budget:>6}: {ours} - {rival} = {gap} {verdict}")
    return figures


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--problems", type=int, default=200)
    args = parser.parse_args()
    started = time.monotonic()
    figures: dict[str, float] = {"problems": args.problems}
    for setting in SETTINGS:
        print(f"\n{setting.title}: right of {args.problems}, % [95 % interval]")
        part = table(*asyncio.run(hits(setting, args.problems)))
        figures |= {f"{setting.name}_{name}": value for name, value in part.items()}
    figures["seconds"] = time.monotonic() - started
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
