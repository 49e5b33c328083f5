"""Runs one strategy on one question within its budget."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any

from rstar_math.config.sections import SearchConfig
from rstar_math.protocols import AnswerGrouper
from rstar_math.search.expansion import SearchComponents, complete_best_path
from rstar_math.search.mcts import RolloutCallback
from rstar_math.search.review import Reviewer
from rstar_math.search.strategies import (
    RunHooks,
    Strategy,
    StrategySpec,
    answer_rule,
    missing_scorer_error,
)
from rstar_math.search.tree import Tree
from rstar_math.search.voting import (
    MAX_EMPTY_RUNS,
    RULES,
    Choice,
    StopCondition,
    majority_is_decided,
    record_savings,
    spent_tokens,
    top_k_of_runs,
    track_tree_cost,
    votes_of,
)
from rstar_math.seeding import derive

MAX_CONCURRENT_RUNS = 4
"""Runs of one question in flight at once, where no token budget may end them."""
_TURNS, _TOO_LITTLE = 4, 0.1
"""Most turns of search and review within a budget, and the share of it for which no further one is
begun."""
Run = Callable[[Tree, SearchConfig], Coroutine[Any, Any, None]]


async def run_strategy(
    tree: Tree,
    strategy: Strategy,
    parts: SearchComponents,
    config: SearchConfig,
    *,
    group: AnswerGrouper,
    on_rollout: RolloutCallback | None = None,
    review: Reviewer | None = None,
) -> Choice:
    """Search a tree, new or loaded, as a strategy says, and choose the answer.

    A strategy's `n` is the size of one run. With `config.token_budget` runs are repeated under new
    seeds until as many tokens are sampled, so that all strategies can be given the same budget;
    what was asked for when the budget ran out is still used, and where no path has ended by then
    one is followed to its end. A `review` chooses in the place of a rule. Raises `ModelError`; the
    tree then holds what was found.
    """
    spec = strategy.spec
    if parts.scorer is None and spec.scorer not in ("none", "optional"):
        raise missing_scorer_error(strategy.kind)
    tree.stop_reason = None
    rule = answer_rule(strategy, config, scored=parts.scorer is not None)
    # What a review chooses, and votes among actions, are no draws from one distribution.
    votes = rule == "majority" and review is None and spec.policy != "actions"
    sure = config.confidence if votes else None

    async def search(config: SearchConfig) -> None:
        enough = None if sure is None else majority_is_decided(group, sure)
        budgeted = config.token_budget is not None
        most = strategy.max_runs(unlimited=budgeted)
        if spec.is_chain or most == 1:
            n = strategy.run_size
            if spec.is_chain:
                n = 1 if strategy.is_greedy else None if budgeted else n
            await _OneRun(spec, n, parts, RunHooks(on_rollout, enough))(tree, config)
        else:
            one = _OneRun(spec, strategy.run_size, parts, RunHooks(on_rollout))
            await repeat(tree, one, most, config, enough)
        if spec.is_chain:
            return
        if budgeted and spec.policy != "actions":
            await complete_best_path(tree, parts=parts, config=config)

    if review is not None and config.token_budget is not None:
        return await _alternate_search_and_review(
            tree, search, review, config, once=strategy.runs is not None
        )
    await search(config)
    if review is not None:
        return await review.review(tree, None)
    return await choose(tree, rule, config, group)


@dataclass(frozen=True, slots=True)
class _OneRun:
    """One run of a strategy, with the options that its paper sets."""

    spec: StrategySpec
    n: int | None
    parts: SearchComponents
    hooks: RunHooks

    async def __call__(self, tree: Tree, config: SearchConfig) -> None:
        own = config.model_copy(update=self.spec.overrides)
        await self.spec.run(tree, self.n, self.parts, own, self.hooks)


async def _alternate_search_and_review(
    tree: Tree,
    search: Callable[[SearchConfig], Awaitable[None]],
    review: Reviewer,
    config: SearchConfig,
    *,
    once: bool,
) -> Choice:
    """Search and second look within one budget: what the one leaves over the other is given. The
    second look has its share in any case."""
    assert config.token_budget is not None
    whole, before = config.token_budget, spent_tokens(tree.cost, config)
    reserve = round(review.budget_share * whole)
    for turn in range(_TURNS):
        spent = spent_tokens(tree.cost, config) - before
        part = max(1, round((whole - spent) * (1 - review.budget_share)))
        await search(config.model_copy(update={"token_budget": part}))
        left = whole - (spent_tokens(tree.cost, config) - before)
        choice = await review.review(tree, max(left, 0 if turn else reserve))
        left = whole - (spent_tokens(tree.cost, config) - before)
        idle = spent_tokens(tree.cost, config) - before == spent
        if once or idle or left < _TOO_LITTLE * whole:
            break
    return choice


async def choose(tree: Tree, rule: str, config: SearchConfig, group: AnswerGrouper) -> Choice:
    """The answer of a tree by a rule."""
    if rule == "top-of-runs":
        return await top_k_of_runs(votes_of(tree), group, keep=config.top_k)
    return await RULES[rule](votes_of(tree), group)


async def repeat(
    tree: Tree,
    one: Run,
    most: int | None,
    config: SearchConfig,
    enough: StopCondition | None = None,
) -> None:
    """Independent runs of a search, each under its own seed in a tree of its own, put together in
    order: `most` of them, or as many as `config.token_budget` allow.

    Runs under a token budget follow one another and each is told what is left; without one some are
    in flight at once. Runs that an error cut short are kept as far as they got.
    """
    flying: deque[tuple[Tree, asyncio.Task[None]]] = deque()
    started, tokens, empty, spent = 0, 0, 0, False
    before = tree.runs
    with track_tree_cost(tree):
        try:
            while True:
                side = 1 if config.token_budget is not None else MAX_CONCURRENT_RUNS
                while len(flying) < side and not spent and (most is None or started < most):
                    rest = None if config.token_budget is None else config.token_budget - tokens
                    seed = derive(config.seed, "run", before + started)
                    own = config.model_copy(update={"token_budget": rest, "seed": seed})
                    branch = Tree(tree.question)
                    flying.append((branch, asyncio.create_task(one(branch, own))))
                    started += 1
                if not flying:
                    return
                await flying[0][1]
                branch, _ = flying.popleft()
                tokens += spent_tokens(branch.cost, config)
                tree.merge(branch)
                if config.token_budget is not None:
                    empty = 0 if branch.cost.sampled_tokens else empty + 1
                    spent = tokens >= config.token_budget or empty == MAX_EMPTY_RUNS
                left = inf if most is None else float(most - started + len(flying))
                if enough is not None and left and not spent and await enough(tree, left):
                    record_savings(
                        left, config.token_budget, done=started - len(flying), spent=tokens
                    )
                    spent = True
        finally:
            for _, task in flying:
                task.cancel()
            await asyncio.gather(*(task for _, task in flying), return_exceptions=True)
            for branch, _ in flying:
                tree.merge(branch)
