"""Runs one strategy on one question, within its token budget."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from rstar_math.config.sections import SearchConfig
from rstar_math.errors import ConfigError
from rstar_math.protocols import AnswerGrouper
from rstar_math.search.budget import (
    MAX_EMPTY_RUNS,
    record_savings,
    spent_tokens,
    track_tree_cost,
)
from rstar_math.search.expansion import SearchComponents, add_children, expand
from rstar_math.search.mcts import RolloutCallback
from rstar_math.search.review import Reviewer
from rstar_math.search.stopping import StopCondition, majority_is_decided
from rstar_math.search.strategies import (
    SearchHooks,
    Strategy,
    StrategySpec,
    answer_rule_name,
    missing_scorer_error,
)
from rstar_math.search.tree import Tree
from rstar_math.search.voting import ANSWER_RULES, Choice, top_k_of_runs, votes_of
from rstar_math.seeding import derive

MAX_CONCURRENT_RUNS = 4
"""Maximum number of concurrent runs of one question without a token budget."""
_MAX_TURNS = 4
"""Maximum number of turns of search and review within a token budget."""
_MIN_TURN_SHARE = 0.1
"""A new turn starts only if this share of the token budget is left."""
Run = Callable[[Tree, SearchConfig], Coroutine[Any, Any, None]]
"""Runs a search once, on a given tree with given options."""


async def run_strategy(
    tree: Tree,
    strategy: Strategy,
    parts: SearchComponents,
    config: SearchConfig,
    *,
    group: AnswerGrouper,
    on_rollout: RolloutCallback | None = None,
    reviewer: Reviewer | None = None,
) -> Choice:
    """Search a tree (new or loaded) with a strategy, and return the chosen answer.

    With `config.token_budget`, runs with new seeds are repeated until the budget is spent, so that
    strategies can be compared at equal budgets. Requests in flight when the budget ends are still
    used. If no path has an answer by then, one path is completed. A `reviewer` replaces the answer
    rule. Raises `ModelError`; the tree then holds
    everything found so far.
    """
    spec = strategy.spec
    reviewed = reviewer is not None and spec.is_chain
    if parts.scorer is None and spec.scorer not in ("none", "optional") and not reviewed:
        raise missing_scorer_error(strategy.kind)
    tree.stop_reason = None
    rule = answer_rule_name(strategy, config, scored=parts.scorer is not None)
    # Early stopping assumes independent samples from one distribution. Answers chosen by a review
    # and votes among actions are not.
    samples_answers = rule == "majority" and reviewer is None and not spec.uses_actions
    stop = None
    confidence = config.confidence if config.confidence is not None else spec.confidence
    if samples_answers and confidence is not None:
        stop = majority_is_decided(group, confidence)

    async def search(config: SearchConfig) -> None:
        has_budget = config.token_budget is not None
        max_runs = strategy.max_runs(has_budget=has_budget)
        if spec.is_chain:
            size = _number_of_chains(strategy, has_budget=has_budget)
            await _SingleRun(spec, size, parts, SearchHooks(on_rollout, stop))(tree, config)
        elif max_runs == 1:
            hooks = SearchHooks(on_rollout, stop)
            await _SingleRun(spec, strategy.run_size, parts, hooks)(tree, config)
        else:
            run = _SingleRun(spec, strategy.run_size, parts, SearchHooks(on_rollout))
            await repeat_runs(tree, run, max_runs, config, stop)
        if has_budget and not spec.is_chain and not spec.uses_actions:
            await complete_deepest_path(tree, parts=parts, config=config)

    if reviewer is not None and config.token_budget is not None:
        # A number of runs (xM) fixes the amount of search, so a second turn would exceed it.
        return await _alternate_search_and_review(
            tree, search, reviewer, config, single_turn=strategy.runs is not None
        )
    await search(config)
    if reviewer is not None:
        return await reviewer.review(tree, None)
    return await choose(tree, rule, config, group)


def _number_of_chains(strategy: Strategy, *, has_budget: bool) -> int | None:
    """Return the number of chains to sample; None means as many as the token budget allows."""
    if strategy.is_greedy:
        return 1
    if strategy.fills_budget and not has_budget:
        raise ConfigError(
            f"{strategy.name} needs a token budget; set search.token_budget, or give a number of "
            f"chains, such as {strategy.kind}@8."
        )
    return None if has_budget else strategy.run_size


@dataclass(frozen=True, slots=True)
class _SingleRun:
    """One run of a strategy, with the options that its paper prescribes."""

    spec: StrategySpec
    size: int | None
    parts: SearchComponents
    hooks: SearchHooks

    async def __call__(self, tree: Tree, config: SearchConfig) -> None:
        run_config = config.model_copy(update=self.spec.overrides)
        await self.spec.search(tree, self.size, self.parts, run_config, self.hooks)


async def _alternate_search_and_review(
    tree: Tree,
    search: Callable[[SearchConfig], Awaitable[None]],
    reviewer: Reviewer,
    config: SearchConfig,
    *,
    single_turn: bool,
) -> Choice:
    """Alternate search and review within one token budget, and return the last choice.

    Tokens that one of the two leaves over are available to the other. The first review gets at
    least its reserved share, even if the search overspends.
    """
    assert config.token_budget is not None
    budget, cost_before = config.token_budget, spent_tokens(tree.cost, config)
    reserved = round(reviewer.budget_share * budget)
    spent = 0
    for turn in range(_MAX_TURNS):
        spent_before = spent
        search_budget = max(1, round((budget - spent) * (1 - reviewer.budget_share)))
        await search(config.model_copy(update={"token_budget": search_budget}))
        spent = spent_tokens(tree.cost, config) - cost_before
        # Only the first review has a reserved share. Later ones get what is left, perhaps nothing.
        minimum = reserved if turn == 0 else 0
        choice = await reviewer.review(tree, max(budget - spent, minimum))
        spent = spent_tokens(tree.cost, config) - cost_before
        if single_turn or spent == spent_before or budget - spent < _MIN_TURN_SHARE * budget:
            break
    return choice


async def complete_deepest_path(
    tree: Tree, *, parts: SearchComponents, config: SearchConfig
) -> None:
    """Extend the deepest open path one step at a time until a path ends with an answer.

    Of equally deep paths, the one with the highest score is extended. If a path fails, the next one
    follows, up to `config.max_depth` new steps in total. Does nothing if the tree has an answer.
    Raises `ModelError`.
    """
    with track_tree_cost(tree):
        for _ in range(config.max_depth):
            leaf = None if tree.answer_nodes() else _deepest_open_leaf(tree)
            if leaf is None:
                return
            seed = derive(config.seed, tree.question.id, leaf)
            expansion = await expand(tree.question, tree.prefix(leaf), parts, 1, seed)
            for child in add_children(tree, leaf, expansion, config):
                tree.rollouts += tree.nodes[child].answered


def _deepest_open_leaf(tree: Tree) -> int | None:
    """Return the deepest leaf that can be expanded, or None if every path has ended."""
    leaves = [i for i, node in enumerate(tree) if not node.expanded and not node.closed]

    def rank(index: int) -> tuple[int, float, int]:
        node = tree.nodes[index]
        return node.depth, -1.0 if node.leaf_value is None else node.leaf_value, -index

    return max(leaves, key=rank, default=None)


async def choose(tree: Tree, rule: str, config: SearchConfig, group: AnswerGrouper) -> Choice:
    """Return the answer of a tree by a rule: a key of `voting.ANSWER_RULES`, or "top-of-runs"."""
    votes = votes_of(tree, config)
    if rule == "top-of-runs":
        return await top_k_of_runs(votes, group, keep=config.top_k)
    return await ANSWER_RULES[rule](votes, group)


async def repeat_runs(
    tree: Tree,
    run: Run,
    max_runs: int | None,
    config: SearchConfig,
    stop_condition: StopCondition | None = None,
) -> None:
    """Run a search several times and merge the runs into `tree`, in order.

    Each run has its own seed and its own tree. There are `max_runs` runs, or as many as
    `config.token_budget` allows. With a token budget, runs are sequential, and each gets the
    remaining budget. Without one, up to `MAX_CONCURRENT_RUNS` are concurrent. After an error or a
    cancellation, unfinished runs are merged as well.
    """
    budget = config.token_budget
    concurrency = MAX_CONCURRENT_RUNS if budget is None else 1
    in_flight: deque[tuple[Tree, asyncio.Task[None]]] = deque()
    started, spent, empty_runs, stopping = 0, 0, 0, False
    runs_before = tree.runs
    with track_tree_cost(tree):
        try:
            while True:
                while (
                    len(in_flight) < concurrency
                    and not stopping
                    and (max_runs is None or started < max_runs)
                ):
                    update = {
                        "token_budget": None if budget is None else budget - spent,
                        "seed": derive(config.seed, "run", runs_before + started),
                    }
                    run_tree = Tree(tree.question)
                    tree.in_progress.append(partial(_itself, run_tree))
                    task = asyncio.create_task(run(run_tree, config.model_copy(update=update)))
                    in_flight.append((run_tree, task))
                    started += 1
                if not in_flight:
                    return
                await in_flight[0][1]
                run_tree, _ = in_flight.popleft()
                del tree.in_progress[0]
                spent += spent_tokens(run_tree.cost, config)
                tree.merge(run_tree)
                if budget is not None:
                    empty_runs = 0 if run_tree.cost.sampled_tokens else empty_runs + 1
                    stopping = spent >= budget or empty_runs == MAX_EMPTY_RUNS
                finished = started - len(in_flight)
                remaining = inf if max_runs is None else float(max_runs - finished)
                if stop_condition is None or stopping or not remaining:
                    continue
                if await stop_condition(tree, remaining):
                    record_savings(remaining, budget, finished=finished, spent=spent)
                    stopping = True
        finally:
            for _, task in in_flight:
                task.cancel()
            await asyncio.gather(*(task for _, task in in_flight), return_exceptions=True)
            tree.in_progress.clear()
            for run_tree, _ in in_flight:
                tree.merge(run_tree)


def _itself(tree: Tree) -> Tree:
    """Return the tree, for `Tree.in_progress`."""
    return tree
