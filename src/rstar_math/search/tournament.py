"""A knock-out tournament of finished paths: a judge compares two at a time.

The entrants are seeded by their votes. If their number is no power of two, the best seeds have a
bye in the first round. A tie goes to the better seed, and so does a pair with equal answers, for
which the judge is not asked.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from rstar_math.concurrency import gather
from rstar_math.protocols import AnswerGrouper
from rstar_math.search.budget import track_tree_cost
from rstar_math.search.review import Reviewer
from rstar_math.search.tree import Tree
from rstar_math.search.voting import NO_CHOICE, Choice, Vote, best, votes_of
from rstar_math.types import Question, Step


class PairJudge(Protocol):
    """Compares two solutions of a question."""

    async def compare(
        self, question: Question, first: Sequence[Step], second: Sequence[Step]
    ) -> float:
        """Return the share of the verdicts for `first`, in [0, 1]; 0.5 is a tie."""
        ...


def bracket(entrants: int) -> list[int | None]:
    """Return the seeds (from 0) in the order of the bracket; None is a free place.

    Neighbours meet. The two best seeds can meet only in the last round.
    """
    order = [0]
    while len(order) < entrants:
        size = 2 * len(order)
        order = [seed for each in order for seed in (each, size - 1 - each)]
    return [seed if seed < entrants else None for seed in order]


def tournament_review(judge: PairJudge, *, group: AnswerGrouper) -> Reviewer:
    """Return a review that chooses the answer of the winner.

    The score of a path's last node becomes 2 r / R - 1 for r of R rounds won, in [-1, 1]. A pair is
    compared once, also over several reviews of a growing tree.
    """
    shares: dict[tuple[int, int], float] = {}

    async def review(tree: Tree, max_tokens: int | None) -> Choice:
        votes = votes_of(tree)
        if not votes:
            return NO_CHOICE
        groups = await group([vote.answer for vote in votes])
        classes = {vote.node: each for vote, each in zip(votes, groups, strict=True)}
        seeds = _seeded(votes, classes)

        async def prefers(better: int, other: int) -> bool:
            """Whether the better seed wins."""
            if classes[better] == classes[other]:
                return True
            pair = better, other
            if pair not in shares:
                paths = tree.prefix(better), tree.prefix(other)
                shares[pair] = await judge.compare(tree.question, *paths)
            return shares[pair] >= 0.5

        with track_tree_cost(tree):
            won, rounds = await play(seeds, prefers)
        for node, count in won.items():
            tree.nodes[node].score = 2.0 * count / rounds - 1.0 if rounds else 1.0
        scored = [replace(vote, value=tree.nodes[vote.node].score) for vote in votes]
        return await best(scored, group)

    return Reviewer(review)


async def play(
    seeds: Sequence[int], prefers: Callable[[int, int], Awaitable[bool]]
) -> tuple[dict[int, int], int]:
    """Play a tournament of entrants, the best seed first; return the rounds that each won, and the
    number of rounds.

    `prefers(a, b)` tells whether a, the better seed of the two, wins. The pairs of a round are
    compared concurrently. A bye counts as a round won.
    """
    rank = {entrant: number for number, entrant in enumerate(seeds)}
    places = [None if seed is None else seeds[seed] for seed in bracket(len(seeds))]
    won, rounds = dict.fromkeys(seeds, 0), 0

    async def winner(a: int | None, b: int | None) -> int:
        if a is None or b is None:
            remaining = b if a is None else a
            assert remaining is not None, "a bracket has at most one free place per pair"
            return remaining
        better, other = sorted((a, b), key=rank.__getitem__)
        return better if await prefers(better, other) else other

    while len(places) > 1:
        rounds += 1
        pairs = zip(places[::2], places[1::2], strict=True)
        winners = await gather(winner(a, b) for a, b in pairs)
        for entrant in winners:
            won[entrant] += 1
        places = [*winners]
    return won, rounds


def _seeded(votes: Sequence[Vote], classes: dict[int, int]) -> list[int]:
    """Return the nodes of the votes, those whose answers have the most votes first."""
    totals: dict[int, float] = {}
    for vote in votes:
        each = classes[vote.node]
        totals[each] = totals.get(each, 0.0) + vote.weight
    ranked = sorted(votes, key=lambda v: (-round(totals[classes[v.node]], 12), v.node))
    return [vote.node for vote in ranked]
