"""Compares strategies at equal cost: the same policy, scorer and budget of sampled tokens for each.

    python examples/compare_strategies.py

The problems are from a toy world (adding numbers, one per step, with a model that makes errors).
The example therefore takes seconds and prints the same everywhere. Best-of-N is ahead at this
budget; benchmarks/toy_quality.py has other budgets and worlds. With a real model, run:

    rstar eval problems.jsonl --budget tokens=2000 --strategy greedy,sc@8,mcts --run run.rstar

Printed (2 s of one core):

    strategy     right   95 % interval  tokens
    greedy          8%        2% - 25%      90
    sc             52%       33% - 70%   4,057
    bon            96%       80% - 99%   4,057
    beam           28%       14% - 48%   4,039
    mcts           72%       52% - 86%   4,020
"""

import asyncio
from collections.abc import Sequence

from rstar_math.config import SearchConfig
from rstar_math.evaluation.metrics import wilson
from rstar_math.search import SearchComponents, Tree, run_strategy
from rstar_math.search.strategies import parse_strategies
from rstar_math.testing import ToyWorld

PROBLEMS, TOKENS = 25, 4000


async def same_text(answers: Sequence[str]) -> list[int]:
    """Classes of equal answers; for real answers the grader does this."""
    seen: dict[str, int] = {}
    return [seen.setdefault(answer, len(seen)) for answer in answers]


async def main() -> None:
    """Search every problem with every strategy and print a table."""
    world = ToyWorld(steps=4)
    parts = SearchComponents(world.policy, world.executor, world.scorer(noise=0.5))
    config = SearchConfig(token_budget=TOKENS, candidates=8, backup="all")
    print(f"{'strategy':10} {'right':>7} {'95 % interval':>15} {'tokens':>7}")
    for strategy in parse_strategies("greedy,sc,bon,beam@4,mcts@1000"):
        right, spent = 0, 0
        for problem in world.problems(PROBLEMS):
            tree = Tree(problem.question)
            choice = await run_strategy(tree, strategy, parts, config, group=same_text)
            right += choice.answer == problem.reference
            spent += tree.cost.sampled_tokens
        low, high = wilson(right, PROBLEMS)
        interval = f"{low:.0%} - {high:.0%}"
        print(f"{strategy.kind:10} {right / PROBLEMS:>7.0%} {interval:>15} {spent // PROBLEMS:>7,}")


if __name__ == "__main__":
    asyncio.run(main())
