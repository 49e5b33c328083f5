"""One strategy on one question within its budget."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Any

from rstar_math.config import SearchConfig
from rstar_math.protocols import Grouper
from rstar_math.search.answers import RULES, Choice, ballots, top_of_runs
from rstar_math.search.beam import beam, best_first
from rstar_math.search.expansion import Parts
from rstar_math.search.finishing import finish
from rstar_math.search.mcts import OnRollout, grow
from rstar_math.search.review import Review
from rstar_math.search.sampling import sample_chains
from rstar_math.search.stopping import (
    MOST_EMPTY,
    Enough,
    on_the_bill_of,
    settled,
    spare,
    spent_tokens,
)
from rstar_math.search.strategy import ACTIONS, CHAINS, Strategy, without_scorer
from rstar_math.search.tree import Tree
from rstar_math.seeding import derive

_UNSCORED = ("greedy", "sc", "mcts", "zero", "cot", "peer", "gen", "rstar", "verify")
"""Strategies that can do without a scorer."""
_SIDE_BY_SIDE = 4
"""Runs of one question in flight at once, where no token budget may end them."""

_TURNS, _TOO_LITTLE = 4, 0.1
"""Most turns of search and review within a budget, and the share of it for which no further one is
begun."""
_RSTAR = {"selection": "uct", "ties": "random", "backup": "walks"}
_HABITS: dict[str, dict[str, Any]] = {"rap": {"backup": "all"}, **dict.fromkeys(ACTIONS, _RSTAR)}
"""Options in which a search differs from rStar-Math's by its own paper."""

Run = Callable[[Tree, SearchConfig], Coroutine[Any, Any, None]]


async def pursue(
    tree: Tree,
    strategy: Strategy,
    parts: Parts,
    config: SearchConfig,
    *,
    group: Grouper,
    on_rollout: OnRollout | None = None,
    review: Review | None = None,
) -> Choice:
    """Search a tree, new or loaded, as a strategy says, and choose the answer.

    A strategy's `n` is the size of one run. With `config.tokens` runs are repeated under new seeds
    until as many tokens are sampled, so that all strategies can be given the same budget; what was
    asked for when the budget ran out is still used, and where no path has ended by then one is
    followed to its end. A `review` chooses in the place of a rule.
    Raises `ModelError`; the tree then holds what was found.
    """
    if parts.scorer is None and strategy.kind not in _UNSCORED:
        raise without_scorer(strategy.kind)
    tree.stopped = None
    rule = answer_rule(strategy, config, scored=parts.scorer is not None)
    # What a review chooses, and votes among actions, are no draws from one distribution.
    votes = rule == "majority" and review is None and strategy.kind not in ACTIONS
    sure = config.confidence if votes else None

    async def search(config: SearchConfig) -> None:
        enough = None if sure is None else settled(group, sure)
        if strategy.kind in CHAINS:
            n = 1 if strategy.cold else _chains(strategy, config)
            await sample_chains(tree, n, parts=parts, config=config, enough=enough)
            return
        most = strategy.most_runs(endless=config.tokens is not None)
        one = _run(strategy, parts, enough if most == 1 else None, on_rollout)
        if most == 1:
            await one(tree, config)
        else:
            await repeat(tree, one, most, config, enough)
        if config.tokens is not None and strategy.kind not in ACTIONS:
            await finish(tree, parts=parts, config=config)

    if review is not None and config.tokens is not None:
        return await _in_turns(tree, search, review, config, once=strategy.runs is not None)
    await search(config)
    if review is not None:
        return await review.look(tree, None)
    return await choose(tree, rule, config, group)


async def _in_turns(
    tree: Tree,
    search: Callable[[SearchConfig], Awaitable[None]],
    review: Review,
    config: SearchConfig,
    *,
    once: bool,
) -> Choice:
    """Search and second look within one budget: what the one leaves over the other is given. The
    second look has its share in any case."""
    assert config.tokens is not None
    whole, before = config.tokens, spent_tokens(tree.cost, config)
    reserve = round(review.reserve * whole)
    for turn in range(_TURNS):
        spent = spent_tokens(tree.cost, config) - before
        part = max(1, round((whole - spent) * (1 - review.reserve)))
        await search(config.model_copy(update={"tokens": part}))
        left = whole - (spent_tokens(tree.cost, config) - before)
        choice = await review.look(tree, max(left, 0 if turn else reserve))
        left = whole - (spent_tokens(tree.cost, config) - before)
        idle = spent_tokens(tree.cost, config) - before == spent
        if once or idle or left < _TOO_LITTLE * whole:
            break
    return choice


async def choose(tree: Tree, rule: str, config: SearchConfig, group: Grouper) -> Choice:
    """The answer of a tree by a rule."""
    if rule == "top-of-runs":
        return await top_of_runs(ballots(tree), group, keep=config.keep)
    return await RULES[rule](ballots(tree), group)


def answer_rule(strategy: Strategy, config: SearchConfig, *, scored: bool) -> str:
    """The rule that `config.answer` names, or the one that belongs to the strategy."""
    if config.answer is not None:
        return config.answer
    if strategy.kind in ACTIONS:
        return "paths"
    if (strategy.kind in CHAINS and strategy.kind != "bon") or not scored:
        return "majority"
    return {"dvts": "weighted", "rap": "weighted", "mcts": "top-of-runs"}.get(strategy.kind, "best")


async def repeat(
    tree: Tree, one: Run, most: int | None, config: SearchConfig, enough: Enough | None = None
) -> None:
    """Independent runs of a search, each under its own seed in a tree of its own, put together in
    order: `most` of them, or as many as `config.tokens` allow.

    Runs under a token budget follow one another and each is told what is left; without one some are
    in flight at once. Runs that an error cut short are kept as far as they got.
    """
    flying: deque[tuple[Tree, asyncio.Task[None]]] = deque()
    started, tokens, empty, spent = 0, 0, 0, False
    before = tree.runs
    with on_the_bill_of(tree):
        try:
            while True:
                side = 1 if config.tokens is not None else _SIDE_BY_SIDE
                while len(flying) < side and not spent and (most is None or started < most):
                    rest = None if config.tokens is None else config.tokens - tokens
                    seed = derive(config.seed, "run", before + started)
                    own = config.model_copy(update={"tokens": rest, "seed": seed})
                    branch = Tree(tree.question)
                    flying.append((branch, asyncio.create_task(one(branch, own))))
                    started += 1
                if not flying:
                    return
                await flying[0][1]
                branch, _ = flying.popleft()
                tokens += spent_tokens(branch.cost, config)
                tree.graft(branch)
                if config.tokens is not None:
                    empty = 0 if branch.cost.sampled_tokens else empty + 1
                    spent = tokens >= config.tokens or empty == MOST_EMPTY
                left = inf if most is None else float(most - started + len(flying))
                if enough is not None and left and not spent and await enough(tree, left):
                    spare(left, config.tokens, done=started - len(flying), spent=tokens)
                    spent = True
        finally:
            for _, task in flying:
                task.cancel()
            await asyncio.gather(*(task for _, task in flying), return_exceptions=True)
            for branch, _ in flying:
                tree.graft(branch)


def _chains(strategy: Strategy, config: SearchConfig) -> int | None:
    """Chains to sample; None for as many as the tokens allow."""
    if config.tokens is not None:
        return None
    return config.rollouts if strategy.n is None else strategy.n


def _run(
    strategy: Strategy,
    parts: Parts,
    enough: Enough | None,
    on_rollout: OnRollout | None,
) -> Run:
    """One run of a tree search."""

    async def one(tree: Tree, config: SearchConfig) -> None:
        n = config.rollouts if strategy.n is None else strategy.n
        if strategy.kind in ("beam", "tot"):
            await beam(tree, n, parts=parts, config=config)
        elif strategy.kind == "dvts":
            await beam(tree, 1, parts=parts, config=config)
        elif strategy.kind == "value":
            await best_first(tree, n, parts=parts, config=config)
        else:
            update: dict[str, Any] = {"rollouts": n}
            update |= _HABITS.get(strategy.kind, {})
            await grow(
                tree,
                policy=parts.policy,
                executor=parts.executor,
                scorer=parts.scorer,
                verifier=parts.verifier,
                config=config.model_copy(update=update),
                on_rollout=on_rollout,
                enough=enough,
            )

    return one
