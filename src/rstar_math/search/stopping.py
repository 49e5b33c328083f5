"""Decides from the votes so far whether a search may stop before its budget is spent."""

from collections.abc import Awaitable, Callable, Sequence
from math import ceil, comb, floor

from rstar_math.protocols import AnswerGrouper
from rstar_math.search.tree import ROOT, Tree
from rstar_math.search.voting import Vote, majority, path_probabilities, votes_of

StopCondition = Callable[[Tree, float], Awaitable[bool]]
"""Returns whether a search may stop now, given the tree and the maximum number of votes that the
rest of the search can add."""


def majority_is_decided(group: AnswerGrouper, min_confidence: float) -> StopCondition:
    """Return a condition that stops a search once the majority answer is settled.

    The answer is settled if no remaining vote can change it, or, with `min_confidence` < 1, if
    `lead_probability` reaches `min_confidence`. The reason is stored in `Tree.stop_reason`.
    """

    async def stop_condition(tree: Tree, remaining: float) -> bool:
        votes = votes_of(tree)
        totals = [*(await majority(votes, group)).votes.values()]
        if is_decided(totals, remaining):
            tree.stop_reason = "decided"
            return True
        scale = _effective_votes(tree, votes) / (sum(totals) or 1.0)
        if min_confidence < 1 and lead_probability([n * scale for n in totals]) >= min_confidence:
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


def lead_probability(votes: Sequence[float]) -> float:
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


def _top_two(votes: Sequence[float]) -> tuple[float, float]:
    """Return the two highest vote counts, 0 for a missing one."""
    ranked = sorted(votes, reverse=True)
    return (ranked[0] if ranked else 0.0), (ranked[1] if len(ranked) > 1 else 0.0)
