"""Chooses the final answer of a search by votes.

Each rule takes one vote per path that ended with an answer. It works in the same way for a tree, a
set of chains or several searches, and never sees a reference answer.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

from rstar_math.confidence import Measure, combine, confidence
from rstar_math.config.sections import SearchConfig
from rstar_math.protocols import AnswerGrouper
from rstar_math.search.tree import ROOT, Node, Tree
from rstar_math.types import Step


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
    confidence: float | None = None
    """Confidence of the path by its token log-probabilities, in [0, 1]; None if unknown."""

    @property
    def value_or_lowest(self) -> float:
        """The value, or -2 (below every value) if it is unknown. Votes are ranked by it."""
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

    @property
    def entropy(self) -> float:
        """Entropy of the votes over the answers, in nats; 0 if all votes are for one answer."""
        total = sum(max(0.0, votes) for votes in self.votes.values())
        shares = [votes / total for votes in self.votes.values() if votes > 0]
        return abs(sum(share * log(share) for share in shares))


NO_CHOICE = Choice(None, None, 0.0, {})
"""The choice for a tree without answers."""
AnswerRule = Callable[[Sequence[Vote], AnswerGrouper], Awaitable[Choice]]
"""Chooses an answer from votes."""


def votes_of(tree: Tree, config: SearchConfig | None = None) -> list[Vote]:
    """Return one vote per answer of a tree, in order of creation.

    The weight of a path estimates the probability that the policy writes it: the product, over its
    steps, of each step's share of its parent's samples. The votes of a tree thus estimate the votes
    of infinitely many chains. Neither many wordings nor a heavily searched region adds votes to an
    answer. The weights of each run, and of each independent chain, sum to at most 1. `config`
    selects the measure of confidence.
    """
    probabilities, config = path_probabilities(tree), config or SearchConfig()
    votes: list[Vote] = []
    for end in tree.answer_nodes():
        node = tree.nodes[end]
        assert node.step is not None
        assert node.step.answer is not None
        certain = path_confidence(tree, end, config)
        weight, value = probabilities[end], node.leaf_value
        votes.append(Vote(node.step.answer, end, weight, value, node.run, certain))
    return votes


def path_confidence(tree: Tree, node: int, config: SearchConfig) -> float | None:
    """Return the confidence of the path to a node, in [0, 1]; None without log-probabilities."""
    step = tree.nodes[node].step
    if step is None or step.token_stats is None:
        return None
    return confidence_of(tree.prefix(node), config.confidence_measure, config.confidence_window)


def confidence_of(steps: Sequence[Step], measure: Measure, window: int) -> float | None:
    """Return the confidence of some steps, in [0, 1]; None without log-probabilities."""
    stats = combine([step.token_stats for step in steps if step.token_stats is not None], window)
    return None if stats is None else confidence(stats, measure)


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
    "confidence": lambda vote: vote.weight * (1.0 if vote.confidence is None else vote.confidence),
}
"""Weight of a path's vote, by the name of the rule."""


async def majority(votes: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """Return the answer with the most votes; ties go to the one found first.

    Source: self-consistency, Wang et al., arXiv:2203.11171.
    """
    return await _choose(votes, group, VOTE_WEIGHTS["majority"])


async def one_vote_per_path(votes: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """Return the answer of the most paths, each with weight 1; ties go to the one found first.

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


async def by_confidence(votes: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """Return the answer with the highest sum of weight * confidence over its paths.

    A path of unknown confidence counts fully. Source: the confidence-weighted majority of DeepConf,
    arXiv:2508.15260, section 3.2, there with an unbounded weight.
    """
    return await _choose(votes, group, VOTE_WEIGHTS["confidence"])


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
        leader = best_of_run.setdefault(vote.run, vote)
        if vote.value_or_lowest > leader.value_or_lowest:
            best_of_run[vote.run] = vote
    return sorted(best_of_run.values(), key=lambda vote: -vote.value_or_lowest)[:keep]


ANSWER_RULES: Mapping[str, AnswerRule] = {
    "majority": majority,
    "paths": one_vote_per_path,
    "weighted": weighted,
    "confidence": by_confidence,
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
        if g not in best_vote or vote.value_or_lowest > best_vote[g].value_or_lowest:
            best_vote[g] = vote
    value = {g: best_vote[g].value_or_lowest if by_value else 0.0 for g in totals}
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
