"""One strategy on one question within its budget."""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, get_args

from rstar_math.config.sections import MutualConfig, SearchConfig
from rstar_math.costs import as_discriminator_cost, reclassify_cost
from rstar_math.errors import ConfigError
from rstar_math.protocols import AnswerGrouper, Discriminator, Scorer
from rstar_math.search.beam import beam, best_first
from rstar_math.search.expansion import SearchComponents, complete_best_path, score_prefixes
from rstar_math.search.mcts import RolloutCallback, grow
from rstar_math.search.mutual import Segments, check_candidates, choose_by_agreement
from rstar_math.search.sampling import sample_chains
from rstar_math.search.tree import Tree
from rstar_math.search.voting import (
    MAX_EMPTY_RUNS,
    RULES,
    Choice,
    StopCondition,
    best,
    majority_is_decided,
    record_savings,
    spent_tokens,
    top_k_of_runs,
    track_tree_cost,
    votes_of,
)
from rstar_math.seeding import derive
from rstar_math.types import Question

Kind = Literal[
    "greedy",
    "sc",
    "bon",
    "beam",
    "dvts",
    "tot",
    "rap",
    "value",
    "mcts",
    "zero",
    "cot",
    "gen",
    "rstar",
    "verify",
    "peer",
]
CHAINS = ("greedy", "sc", "bon", "zero", "cot", "peer")
"""Kinds that sample whole solutions and search no tree."""
ACTIONS = ("gen", "rstar", "verify")
"""Kinds that search over rStar's actions."""
SCORED = ("bon", "beam", "dvts", "value")
"""Kinds that go by the scorer of the configuration, and need one."""
WORDS = ("zero", "cot", "peer", *ACTIONS)
"""Kinds that reason in words, by the prompts of `actions.load_action_prompts`."""
KNOWN = (
    "greedy, sc@8, bon@8, beam@8, dvts@8, tot, rap, value, mcts, mcts@16, mcts@16x4 (4 runs); in "
    "words instead of programs: zero, cot, cot@8, gen@32, rstar@32, verify@32, peer"
)
"""The strategies, as help and errors list them."""
_SPEC = re.compile(r"([a-z]+)(?:@(\d{1,6}))?(?:x(\d{1,4}))?\Z")
_SIZES: dict[str, int | None] = {
    "greedy": None,
    "sc": 8,
    "bon": 8,
    "beam": 8,
    "dvts": 8,
    "tot": 5,
    "value": 1,
    "rap": 10,
    "mcts": None,
    "zero": None,
    "cot": None,
    "peer": None,
    "gen": 32,
    "rstar": 32,
    "verify": 32,
}
"""The number after @ where none is given. Beam 8: rStar-Math's code; Tree of Thoughts 5, RAP 10
and rStar 32: their papers."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to solve.

    "greedy" one chain at temperature 0; "sc" a majority over `n` chains, "bon" the best of them by
    score; "beam" a step-level beam of `n`, "dvts" `n` subtrees that each follow their best step;
    "tot" Tree of Thoughts with a beam of `n`; "value" best-first search until `n` answers; "rap"
    sub-questions in a tree of `n` rollouts; "mcts" a tree of `n` rollouts (None: as many as the
    config says).

    In words instead of programs (`actions.load_action_prompts` has the prompts): "zero" one
    zero-shot chain of thought at temperature 0, "cot" one few-shot chain at temperature 0 or with
    `n` a majority over `n`; "gen" a tree of `n` rollouts over rStar's actions and a majority of its
    paths, "rstar" the same with the discriminator, "verify" with the model's own verification
    instead; "peer" what the discriminator's model answers by itself, as "cot".
    """

    kind: Kind
    n: int | None = None
    runs: int | None = None
    """Independent runs under different seeds; None for one, or as many as a token budget allows."""

    @property
    def name(self) -> str:
        """The text that `parse_strategies` reads this from."""
        size = "" if self.n is None else f"@{self.n}"
        return f"{self.kind}{size}" + ("" if self.runs is None else f"x{self.runs}")

    @property
    def is_greedy(self) -> bool:
        """Whether it is one chain at temperature 0."""
        return self.kind in CHAINS and self.n is None

    def max_runs(self, *, endless: bool) -> int | None:
        """Runs to make: `runs`, or where none are given one, or any number if `endless`."""
        if self.kind == "dvts" and (self.runs or not endless):
            return (self.n or 8) * (self.runs or 1)
        return self.runs if self.runs is not None or endless else 1


def missing_scorer_error(kind: str) -> ConfigError:
    """What to say where a kind that goes by a scorer has none."""
    return ConfigError(
        f"{kind} goes by a scorer, and there is none; type --set search.scorer=self, or give "
        "Solver a scorer."
    )


def parse_strategies(text: str) -> list[Strategy]:
    """The strategies of a comma-separated list. Raises `ConfigError` for one that is unknown or
    listed twice."""
    found: list[Strategy] = []
    for spec in (part.strip() for part in text.split(",")):
        strategy = _parsed(spec)
        if strategy in found:
            raise ConfigError(f"The strategy {strategy.name} is listed twice; once is enough.")
        found.append(strategy)
    return found


def _parsed(spec: str) -> Strategy:
    """One strategy from its name."""
    match = _SPEC.match(spec)
    if match is None or match[1] not in get_args(Kind) or "0" in (match[2], match[3]):
        raise ConfigError(f"{spec!r} is no strategy; give some of {KNOWN}; separated by commas.")
    kind: Kind = match[1]  # type: ignore[assignment]
    if (kind in ("greedy", "zero") and match[2]) or (kind in CHAINS and match[3]):
        raise ConfigError(f"{spec!r} has a number too many; {kind} is one {_shape(kind)}.")
    n = int(match[2]) if match[2] else _SIZES[kind]
    return Strategy(kind, n, int(match[3]) if match[3] else None)


def _shape(kind: str) -> str:
    """How a chain strategy is written."""
    if kind in ("greedy", "zero"):
        return f"chain, written {kind}"
    return f"set of chains, written {kind}@8"


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A second look."""

    review: Callable[[Tree, int | None], Awaitable[Choice]]
    """Checks what a search found and was not checked yet, on the tree's bill and with about so many
    sampled tokens (None: as many as it takes), and chooses."""
    budget_share: float = 0.0
    """Share in [0, 1) of a budget of sampled tokens that is left to it."""


def discriminator_review(
    peer: Discriminator, units: Segments, *, group: AnswerGrouper, config: MutualConfig, seed: int
) -> Reviewer:
    """rStar's discriminator: what a second model completes to the same answer is trusted (Qi et al.
    2024, arXiv:2408.06195, section 3.3)."""

    async def review(tree: Tree, tokens: int | None) -> Choice:
        billed = _DiscriminatorCost(peer)
        await check_candidates(
            tree,
            peer=billed,
            units=units,
            group=group,
            config=config,
            seed=seed,
            tokens=tokens,
        )
        return await choose_by_agreement(tree, group, config)

    return Reviewer(review, config.budget_share)


def scorer_review(scorer: Scorer, *, group: AnswerGrouper) -> Reviewer:
    """The answer of the solution that a scorer, asked about whole solutions alone, values most:
    rStar's "self-verification" where the scorer is the policy's model (its table 5). What it costs
    is `scorer_tokens`, beside the budget as of every scorer."""

    async def review(tree: Tree, tokens: int | None) -> Choice:
        ends = [end for end in tree.answers() if tree.nodes[end].score is None]
        with track_tree_cost(tree):
            values = await score_prefixes(tree.question, scorer, [tree.prefix(end) for end in ends])
        for end, value in zip(ends, values, strict=True):
            tree.nodes[end].score = value
        return await best(votes_of(tree), group)

    return Reviewer(review)


class _DiscriminatorCost:
    """A peer whose tokens are told apart on the bill."""

    def __init__(self, peer: Discriminator) -> None:
        self._peer = peer

    async def answers(
        self, question: Question, begun: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Discriminator`."""
        with reclassify_cost(as_discriminator_cost):
            return await self._peer.answers(question, begun, n, seed=seed)


_UNSCORED = ("greedy", "sc", "mcts", "zero", "cot", "peer", "gen", "rstar", "verify")
"""Strategies that can do without a scorer."""
_SIDE_BY_SIDE = 4
"""Runs of one question in flight at once, where no token budget may end them."""
_TURNS, _TOO_LITTLE = 4, 0.1
"""Most turns of search and review within a budget, and the share of it for which no further one is
begun."""
_RSTAR = {"selection": "uct", "tie_break": "random", "backup": "rollout"}
_HABITS: dict[str, dict[str, Any]] = {"rap": {"backup": "all"}, **dict.fromkeys(ACTIONS, _RSTAR)}
"""Options in which a search differs from rStar-Math's by its own paper."""
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
    if parts.scorer is None and strategy.kind not in _UNSCORED:
        raise missing_scorer_error(strategy.kind)
    tree.stop_reason = None
    rule = answer_rule(strategy, config, scored=parts.scorer is not None)
    # What a review chooses, and votes among actions, are no draws from one distribution.
    votes = rule == "majority" and review is None and strategy.kind not in ACTIONS
    sure = config.confidence if votes else None

    async def search(config: SearchConfig) -> None:
        enough = None if sure is None else majority_is_decided(group, sure)
        if strategy.kind in CHAINS:
            n = 1 if strategy.is_greedy else _chains(strategy, config)
            await sample_chains(tree, n, parts=parts, config=config, enough=enough)
            return
        most = strategy.max_runs(endless=config.token_budget is not None)
        one = _run(strategy, parts, enough if most == 1 else None, on_rollout)
        if most == 1:
            await one(tree, config)
        else:
            await repeat(tree, one, most, config, enough)
        if config.token_budget is not None and strategy.kind not in ACTIONS:
            await complete_best_path(tree, parts=parts, config=config)

    if review is not None and config.token_budget is not None:
        return await _alternate_search_and_review(
            tree, search, review, config, once=strategy.runs is not None
        )
    await search(config)
    if review is not None:
        return await review.review(tree, None)
    return await choose(tree, rule, config, group)


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
                side = 1 if config.token_budget is not None else _SIDE_BY_SIDE
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


def _chains(strategy: Strategy, config: SearchConfig) -> int | None:
    """Chains to sample; None for as many as the tokens allow."""
    if config.token_budget is not None:
        return None
    return config.rollouts if strategy.n is None else strategy.n


def _run(
    strategy: Strategy,
    parts: SearchComponents,
    enough: StopCondition | None,
    on_rollout: RolloutCallback | None,
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
