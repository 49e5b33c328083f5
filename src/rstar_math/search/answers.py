"""How a final answer is chosen from what a search found.

Every rule is a function of ballots, one for each path that ended with an answer, and of nothing
else: it works for a tree, a set of chains or several searches alike, and sees no reference answer.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from rstar_math.protocols import Grouper
from rstar_math.search.tree import ROOT, Node, Tree


@dataclass(frozen=True, slots=True)
class Ballot:
    """One path's answer and what speaks for it."""

    answer: str
    node: int
    """The path's end in its tree."""
    weight: float = 1.0
    """What its vote counts, in (0, 1]."""
    value: float | None = None
    """The scorer's value of the whole path, else its Q, in [-1, 1]."""
    run: int = 0
    """The independent search that found it."""

    @property
    def rank(self) -> float:
        """The value; below every other where it has none."""
        return -2.0 if self.value is None else self.value


@dataclass(frozen=True, slots=True)
class Choice:
    """A final answer and what speaks for it."""

    answer: str | None
    """None where no path ended with an answer."""
    node: int | None
    """The path shown for it: of those with this answer, the one with the highest value, then the
    first."""
    share: float
    """Share of the votes for it, in [0, 1]."""
    votes: dict[str, float]
    """Votes by answer, in the words of each group's first path, most votes first."""


NO_CHOICE = Choice(None, None, 0.0, {})

Rule = Callable[[Sequence[Ballot], Grouper], Awaitable[Choice]]


def ballots(tree: Tree) -> list[Ballot]:
    """A tree's answers, in order of creation.

    A path's weight is how likely the policy is to write it, as far as was seen: the product, over
    its steps, of the share of its node's samples that were this step. So the votes of a tree
    estimate what infinitely many chains would vote, and an answer does not win by being worded in
    many ways or by lying where the search happened to look. A chain, and every run as a whole,
    weighs 1.
    """
    mass = masses(tree)
    found: list[Ballot] = []
    for end in tree.answers():
        node = tree.nodes[end]
        assert node.step is not None
        assert node.step.answer is not None
        value = node.worth
        found.append(Ballot(node.step.answer, end, mass[end], value, node.run))
    return found


def masses(tree: Tree) -> list[float]:
    """For each node, the probability in [0, 1] that the policy goes there, as far as was seen."""
    drawn: dict[tuple[int, int], int] = {}
    for node in tree.nodes[1:]:
        drawn[_siblings(node)] = drawn.get(_siblings(node), 0) + node.copies
    mass = [1.0]
    for node in tree.nodes[1:]:
        mass.append(mass[node.parent] * node.copies / drawn[_siblings(node)])
    return mass


VOTES: Mapping[str, Callable[[Ballot], float]] = {
    "majority": lambda ballot: ballot.weight,
    "paths": lambda ballot: 1.0,
    "weighted": lambda ballot: ballot.weight * (1 + (ballot.value or 0.0)) / 2,
}
"""What a path's vote counts by the rules that count votes."""


async def majority(cast: Sequence[Ballot], group: Grouper) -> Choice:
    """The answer with the most votes; of equal ones the one found first (self-consistency, Wang
    et al., arXiv:2203.11171)."""
    return await _elect(cast, group, VOTES["majority"])


async def paths(cast: Sequence[Ballot], group: Grouper) -> Choice:
    """The answer that most paths end in, whatever they weigh; of equal ones the one found first
    (rStar's generator alone, "@maj", arXiv:2408.06195, table 2; its code counts a path again for
    each rollout that ends there)."""
    return await _elect(cast, group, VOTES["paths"])


async def weighted(cast: Sequence[Ballot], group: Grouper) -> Choice:
    """The answer with the highest sum of (1 + value) / 2 over its votes (weighted best-of-N, Li
    et al., arXiv:2206.02336); a path without a value counts as one of value 0."""
    return await _elect(cast, group, VOTES["weighted"])


async def best(cast: Sequence[Ballot], group: Grouper) -> Choice:
    """The answer of the path with the highest value (best-of-N); of equal ones the answer with
    more votes, then the one found first. Paths without a value come last."""
    return await _elect(cast, group, VOTES["majority"], by_value=True)


async def top_of_runs(cast: Sequence[Ballot], group: Grouper, *, keep: int = 4) -> Choice:
    """The paper's rule for several searches: of each run the path with the highest value, of these
    the `keep` with the highest value, and of these the majority (rStar-Math, arXiv:2501.04519,
    section 4 and the authors' evaluation, whose K is 4 by default and 4 to 8 by their advice)."""
    return await paths(best_of_runs(cast, keep), group)


def best_of_runs(cast: Sequence[Ballot], keep: int) -> list[Ballot]:
    """Of each run the path with the highest value, of these the `keep` with the highest."""
    firsts: dict[int, Ballot] = {}
    for ballot in cast:
        if ballot.run not in firsts or ballot.rank > firsts[ballot.run].rank:
            firsts[ballot.run] = ballot
    return sorted(firsts.values(), key=lambda ballot: -ballot.rank)[:keep]


RULES: Mapping[str, Rule] = {
    "majority": majority,
    "paths": paths,
    "weighted": weighted,
    "best": best,
}
"""By the name that `search.answer` gives them; `top_of_runs` takes a number besides."""


async def _elect(
    cast: Sequence[Ballot],
    group: Grouper,
    vote: Callable[[Ballot], float],
    *,
    by_value: bool = False,
) -> Choice:
    """The answer whose ballots' votes sum to the most, or the one with the best ballot."""
    if not cast:
        return NO_CHOICE
    groups = await group([ballot.answer for ballot in cast])
    votes: dict[int, float] = {}
    shown: dict[int, Ballot] = {}
    for ballot, member in zip(cast, groups, strict=True):
        votes[member] = votes.get(member, 0.0) + vote(ballot)
        if member not in shown or ballot.rank > shown[member].rank:
            shown[member] = ballot
    value = {g: shown[g].rank if by_value else 0.0 for g in votes}
    leader = max(votes, key=lambda g: (value[g], round(votes[g], 12)))
    total = sum(votes.values())
    return Choice(
        answer=shown[leader].answer,
        node=shown[leader].node,
        share=votes[leader] / total if total else 0.0,
        votes={
            cast[groups.index(g)].answer: votes[g] for g in sorted(votes, key=lambda g: -votes[g])
        },
    )


def _siblings(node: Node) -> tuple[int, int]:
    """What a node and those sampled beside it have in common: the parent; below the root of a tree
    that holds several searches, the search too."""
    return node.parent, node.run if node.parent == ROOT else 0
