"""Chooses the final answer of a search by votes, and decides when a search may stop early.

Each rule takes one vote per path that ended with an answer. It works in the same way for a tree, a
set of chains or several searches, and never sees a reference answer.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, comb, floor
from time import monotonic

from rstar_math.config.sections import SearchConfig
from rstar_math.costs import add_cost, track_cost
from rstar_math.protocols import AnswerGrouper
from rstar_math.search.tree import ROOT, Node, Tree
from rstar_math.types import Cost


@dataclass(frozen=True, slots=True)
class Vote:
    """The answer of one path, with its weight and value."""

    answer: str
    node: int
    """Index of the path's last node in its tree."""
    weight: float = 1.0
    """Weight of the vote, in (0, 1]."""
    value: float | None = None
    """The scorer's value of the whole path, else its Q, in [-1, 1]; None if neither is known."""
    run: int = 0
    """Number of the independent search that found the path."""

    @property
    def rank(self) -> float:
        """The value, or -2 (below every value) if it is unknown."""
        return -2.0 if self.value is None else self.value


@dataclass(frozen=True, slots=True)
class Choice:
    """A final answer, with the votes for it."""

    answer: str | None
    """The chosen answer; None if no path ended with an answer."""
    node: int | None
    """Last node of the path shown for the answer: the path with the highest value, then the
    first."""
    share: float
    """Share of the votes for the answer, in [0, 1]."""
    votes: dict[str, float]
    """Votes per answer, most votes first. Equal answers are written as in their first path."""


NO_CHOICE = Choice(None, None, 0.0, {})
"""The choice for a tree without answers."""
AnswerRule = Callable[[Sequence[Vote], AnswerGrouper], Awaitable[Choice]]
"""Chooses an answer from votes."""


def votes_of(tree: Tree) -> list[Vote]:
    """Return one vote per answer of a tree, in order of creation.

    The weight of a path estimates the probability that the policy writes it: the product, over its
    steps, of each step's share of its parent's samples. The votes of a tree thus estimate the votes
    of infinitely many chains. An answer gains nothing from many wordings, or from lying where the
    search looked most. The weights of each run, and of each independent chain, sum to at most 1.
    """
    probabilities = path_probabilities(tree)
    votes: list[Vote] = []
    for end in tree.answers():
        node = tree.nodes[end]
        assert node.step is not None
        assert node.step.answer is not None
        votes.append(Vote(node.step.answer, end, probabilities[end], node.leaf_value, node.run))
    return votes


def path_probabilities(tree: Tree) -> list[float]:
    """Return, per node, the estimated probability in [0, 1] that the policy reaches it."""
    samples: dict[tuple[int, int], int] = {}
    for node in tree.nodes[1:]:
        samples[_sibling_key(node)] = samples.get(_sibling_key(node), 0) + node.count
    probabilities = [1.0]
    for node in tree.nodes[1:]:
        share = probabilities[node.parent] * node.count / samples[_sibling_key(node)]
        probabilities.append(share)
    return probabilities


VOTE_WEIGHTS: Mapping[str, Callable[[Vote], float]] = {
    "majority": lambda vote: vote.weight,
    "paths": lambda vote: 1.0,
    "weighted": lambda vote: vote.weight * (1 + (vote.value or 0.0)) / 2,
}
"""Weight of a path's vote, by the name of the rule."""


async def majority(votes: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """Return the answer with the most votes; of equal ones, the one found first.

    Source: self-consistency, Wang et al., arXiv:2203.11171.
    """
    return await _choose(votes, group, VOTE_WEIGHTS["majority"])


async def one_vote_per_path(votes: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """Return the answer of the most paths, each with weight 1; of equal ones, the first found.

    Source: rStar's generator without discriminator ("@maj", arXiv:2408.06195, table 2). Its code
    counts a path once per rollout that ends there.
    """
    return await _choose(votes, group, VOTE_WEIGHTS["paths"])


async def weighted(votes: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """Return the answer with the highest sum of weight * (1 + value) / 2 over its paths.

    A path without a value counts as value 0. Source: weighted best-of-N, Li et al.,
    arXiv:2206.02336.
    """
    return await _choose(votes, group, VOTE_WEIGHTS["weighted"])


async def best(votes: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """Return the answer of the path with the highest value (best-of-N).

    Ties go to the answer with more votes, then to the one found first. Paths without a value come
    last.
    """
    return await _choose(votes, group, VOTE_WEIGHTS["majority"], by_value=True)


async def top_k_of_runs(votes: Sequence[Vote], group: AnswerGrouper, *, keep: int = 4) -> Choice:
    """Return the majority answer among the best paths of the `keep` best runs.

    Source: rStar-Math, arXiv:2501.04519, section 4 and the authors' evaluation code. Their K is 4
    by default; they advise 4 to 8.
    """
    return await one_vote_per_path(best_path_per_run(votes, keep), group)


def best_path_per_run(votes: Sequence[Vote], keep: int) -> list[Vote]:
    """Return the path with the highest value of each run, limited to the `keep` best runs."""
    best_of_run: dict[int, Vote] = {}
    for vote in votes:
        if vote.run not in best_of_run or vote.rank > best_of_run[vote.run].rank:
            best_of_run[vote.run] = vote
    return sorted(best_of_run.values(), key=lambda vote: -vote.rank)[:keep]


RULES: Mapping[str, AnswerRule] = {
    "majority": majority,
    "paths": one_vote_per_path,
    "weighted": weighted,
    "best": best,
}
"""Answer rules by the value of `search.answer`; `top_k_of_runs` needs a number as well."""


async def _choose(
    votes: Sequence[Vote],
    group: AnswerGrouper,
    weight_of: Callable[[Vote], float],
    *,
    by_value: bool = False,
) -> Choice:
    """Return the answer with the most votes, or with `by_value` the answer with the best path."""
    if not votes:
        return NO_CHOICE
    groups = await group([vote.answer for vote in votes])
    totals: dict[int, float] = {}
    best_vote: dict[int, Vote] = {}
    for vote, g in zip(votes, groups, strict=True):
        totals[g] = totals.get(g, 0.0) + weight_of(vote)
        if g not in best_vote or vote.rank > best_vote[g].rank:
            best_vote[g] = vote
    value = {g: best_vote[g].rank if by_value else 0.0 for g in totals}
    leader = max(totals, key=lambda g: (value[g], round(totals[g], 12)))
    total = sum(totals.values())
    ranking = sorted(totals, key=lambda g: -totals[g])
    return Choice(
        answer=best_vote[leader].answer,
        node=best_vote[leader].node,
        share=totals[leader] / total if total else 0.0,
        votes={votes[groups.index(g)].answer: totals[g] for g in ranking},
    )


def _sibling_key(node: Node) -> tuple[int, int]:
    """Return a key that a node shares with the nodes sampled beside it.

    The key is the parent. Below the root it includes the run, because a tree may hold several.
    """
    return node.parent, node.run if node.parent == ROOT else 0


MAX_EMPTY_RUNS = 3
"""A search with a token budget stops after this many consecutive runs without a sampled token."""
StopCondition = Callable[[Tree, float], Awaitable[bool]]
"""Returns whether a search may stop now, given the tree and the maximum number of votes that the
rest of the search can add."""


def majority_is_decided(group: AnswerGrouper, min_confidence: float) -> StopCondition:
    """Return a condition that stops a search once the majority answer is settled.

    The answer is settled if no remaining vote can change it, or, with `min_confidence` < 1, if
    `confidence` reaches `min_confidence`. The reason is stored in `Tree.stop_reason`.
    """

    async def stop_condition(tree: Tree, remaining: float) -> bool:
        votes = votes_of(tree)
        totals = [*(await majority(votes, group)).votes.values()]
        if is_decided(totals, remaining):
            tree.stop_reason = "decided"
            return True
        scale = _effective_votes(tree, votes) / (sum(totals) or 1.0)
        if min_confidence < 1 and confidence([n * scale for n in totals]) >= min_confidence:
            tree.stop_reason = "confident"
            return True
        return False

    return stop_condition


def unexplored_probability(tree: Tree) -> float:
    """Return the estimated probability in [0, 1] that the policy reaches an unexpanded node.

    It is the maximum weight of the votes that further search can add.
    """
    probabilities = path_probabilities(tree)
    return sum(
        probabilities[i] for i, node in enumerate(tree) if not node.expanded and not node.closed
    )


def _effective_votes(tree: Tree, votes: Sequence[Vote]) -> float:
    """Return the effective number of votes, (sum w)^2 / sum w^2 over programs (Kish 1965).

    Several answers read from the output of one program count as one vote.
    """
    weights: dict[int, float] = {}
    for vote in votes:
        parent = tree.nodes[vote.node].parent
        program = parent if parent != ROOT else -vote.node
        weights[program] = weights.get(program, 0.0) + vote.weight
    squares = sum(weight * weight for weight in weights.values())
    return sum(weights.values()) ** 2 / squares if squares else 0.0


def is_decided(votes: Sequence[float], remaining: float) -> bool:
    """Return whether `remaining` more votes, all for one other answer, cannot beat the leader."""
    leader, runner_up = _top_two(votes)
    return leader - runner_up - remaining > 1e-9


def confidence(votes: Sequence[float]) -> float:
    """Return the probability in [0, 1] that the leader also leads among infinitely many votes.

    It is P(p > 1/2) for p ~ Beta(leader + 1, runner-up + 1), with a uniform prior. Fractional votes
    are rounded against the leader. Without votes, the result is 0. The rule assumes independent
    votes. The votes of one tree share prefixes, so the result is too high for them. Source: the
    Beta rule of Adaptive-Consistency, Aggarwal et al., arXiv:2305.11860.
    """
    leader, runner_up = _top_two(votes)
    if leader == 0:
        return 0.0
    a, b = floor(leader) + 1, ceil(runner_up) + 1
    n = a + b - 1
    return float(sum(comb(n, k) for k in range(a)) / 2**n)


def record_savings(remaining: float, budget: int | None, *, finished: int, spent: int) -> None:
    """Record the tokens that an early stop saves, as `Cost.saved_tokens`.

    They are the rest of the token `budget`. Without a budget, they are the `remaining` rollouts (or
    runs) times the mean of the `spent` tokens per `finished` one.
    """
    if budget is not None:
        add_cost(Cost(saved_tokens=max(0, budget - spent)))
    elif finished:
        add_cost(Cost(saved_tokens=round(remaining * spent / finished)))


def spent_tokens(cost: Cost, config: SearchConfig) -> int:
    """Return the tokens of a cost that count against `config.token_budget`.

    These are the sampled tokens, and with `config.budget` = "total" also the prompt tokens.
    """
    prompts = cost.prompt_tokens if config.budget == "total" else 0
    return cost.sampled_tokens + prompts


class TokenBudget:
    """A token budget from which concurrent requests reserve samples. A limit of None is no limit.

    A sample is expected to cost the mean of all finished samples. Before the first sample has
    finished, its cost is unknown, and every reservation is granted in full.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.spent = 0
        """Tokens spent on finished samples."""
        self._finished_samples, self._reserved_samples = 0, 0

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent."""
        return self._limit is not None and self.spent >= self._limit

    def reserve(self, wanted: int, *, minimum: int = 1) -> int:
        """Reserve up to `wanted` samples, but at least `minimum`, and return their number.

        Reserved samples count as spent until `commit` records their real cost.
        """
        samples = wanted
        if self._limit is not None and self.spent:
            tokens_per_sample = self.spent / self._finished_samples
            affordable = (self._limit - self.spent) / tokens_per_sample - self._reserved_samples
            samples = min(wanted, max(minimum, ceil(affordable)))
        self._reserved_samples += samples
        return samples

    def commit(self, samples: int, tokens: int) -> None:
        """Replace a reservation of `samples` by the `tokens` that they cost."""
        self._reserved_samples -= samples
        self._finished_samples += samples
        self.spent += tokens


@contextmanager
def track_tree_cost(tree: Tree) -> Iterator[None]:
    """Add the costs and the wall time of the block to the cost of a tree."""
    started = monotonic()
    with track_cost(tree.cost):
        try:
            yield
        finally:
            tree.cost.seconds += monotonic() - started


def _top_two(votes: Sequence[float]) -> tuple[float, float]:
    """Return the two highest vote counts, 0 for a missing one."""
    ranked = sorted(votes, reverse=True)
    return (ranked[0] if ranked else 0.0), (ranked[1] if len(ranked) > 1 else 0.0)
