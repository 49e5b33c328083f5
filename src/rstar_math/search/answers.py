"""How a final answer is chosen from what a search found.

Every rule is a function of ballots, one for each path that ended with an answer, and of nothing
else: it works for a tree, a set of chains or several searches alike, and sees no reference answer.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rstar_math.protocols import Grouper
from rstar_math.search.tree import Tree


@dataclass(frozen=True, slots=True)
class Ballot:
    """One path's answer and what speaks for it."""

    answer: str
    node: int
    """The path's end in its tree."""
    weight: Fraction = Fraction(1)
    """Its share of its program's vote, in (0, 1]."""
    value: float | None = None
    """The scorer's value of the whole path, else its Q, in [-1, 1]."""
    run: int = 0
    """The independent search that found it."""


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

    Every program that was run to an answer has one vote: where several readings of its output
    were sampled, they share it by how often each was drawn. (Without that, one program whose
    answer can be worded in eight ways would outvote seven others.)
    """
    ends = tree.answers()
    copies: dict[tuple[int, int], int] = {}
    for end in ends:
        program = _program(tree, end)
        copies[program] = copies.get(program, 0) + tree.nodes[end].copies
    found: list[Ballot] = []
    for end in ends:
        node = tree.nodes[end]
        assert node.step is not None
        assert node.step.answer is not None
        weight = Fraction(node.copies, copies[_program(tree, end)])
        value = node.q if node.score is None else node.score
        found.append(Ballot(node.step.answer, end, weight, value, node.run))
    return found


async def majority(cast: Sequence[Ballot], group: Grouper) -> Choice:
    """The answer with the most votes; of equal ones the one found first (self-consistency, Wang
    et al., arXiv:2203.11171)."""
    return await _elect(cast, group, lambda ballot: ballot.weight)


async def weighted(cast: Sequence[Ballot], group: Grouper) -> Choice:
    """The answer with the highest sum of (1 + value) / 2 over its votes (weighted best-of-N, Li
    et al., arXiv:2206.02336); a path without a value counts as one of value 0."""
    return await _elect(cast, group, lambda b: b.weight * Fraction(1 + (b.value or 0.0)) / 2)


async def best(cast: Sequence[Ballot], group: Grouper) -> Choice:
    """The answer of the path with the highest value (best-of-N); of equal ones the answer with
    more votes, then the one found first. Paths without a value come last."""
    return await _elect(cast, group, lambda ballot: ballot.weight, by_value=True)


async def top_of_runs(cast: Sequence[Ballot], group: Grouper, *, keep: int = 4) -> Choice:
    """The paper's rule for several searches: of each run the path with the highest value, of these
    the `keep` with the highest value, and of these the majority (rStar-Math, arXiv:2501.04519,
    section 4 and the authors' evaluation, whose K is 4 by default and 4 to 8 by their advice)."""
    firsts: dict[int, Ballot] = {}
    for ballot in cast:
        if ballot.run not in firsts or _value(ballot) > _value(firsts[ballot.run]):
            firsts[ballot.run] = ballot
    kept = sorted(firsts.values(), key=lambda ballot: -_value(ballot))[:keep]
    whole = [Ballot(b.answer, b.node, Fraction(1), b.value, b.run) for b in kept]
    return await majority(whole, group)


RULES: Mapping[str, Rule] = {"majority": majority, "weighted": weighted, "best": best}
"""By the name that `search.answer` gives them; `top_of_runs` takes a number besides."""


async def _elect(
    cast: Sequence[Ballot],
    group: Grouper,
    vote: Callable[[Ballot], Fraction],
    *,
    by_value: bool = False,
) -> Choice:
    """The answer whose ballots' votes sum to the most, or the one with the best ballot."""
    if not cast:
        return NO_CHOICE
    groups = await group([ballot.answer for ballot in cast])
    votes: dict[int, Fraction] = {}
    shown: dict[int, Ballot] = {}
    for ballot, member in zip(cast, groups, strict=True):
        votes[member] = votes.get(member, Fraction(0)) + vote(ballot)
        if member not in shown or _value(ballot) > _value(shown[member]):
            shown[member] = ballot
    value = {g: _value(shown[g]) if by_value else 0.0 for g in votes}
    leader = max(votes, key=lambda g: (value[g], votes[g]))
    total = sum(votes.values())
    return Choice(
        answer=shown[leader].answer,
        node=shown[leader].node,
        share=float(votes[leader] / total) if total else 0.0,
        votes={
            cast[groups.index(g)].answer: float(votes[g])
            for g in sorted(votes, key=lambda g: -votes[g])
        },
    )


def _value(ballot: Ballot) -> float:
    """A ballot's value; below every other where it has none."""
    return -2.0 if ballot.value is None else ballot.value


def _program(tree: Tree, end: int) -> tuple[int, int]:
    """What tells programs apart: the node before the answer; at the root, the run too."""
    node = tree.nodes[end]
    return node.parent, node.run if node.parent == 0 else 0
