"""How a tree's final answer is chosen."""

from dataclasses import dataclass
from fractions import Fraction

from rstar_math.protocols import Grouper
from rstar_math.search.tree import Tree


@dataclass(frozen=True, slots=True)
class Choice:
    """A final answer and what speaks for it."""

    answer: str | None
    """None where no path ended with an answer."""
    node: int | None
    """The path shown for it: of those with this answer, the one with the highest Q, then the
    first."""
    share: float
    """Share of the votes for it, in [0, 1]."""
    votes: dict[str, float]
    """Votes by answer, in the words of each group's first path, most votes first."""


NO_CHOICE = Choice(None, None, 0.0, {})


async def majority(tree: Tree, group: Grouper) -> Choice:
    """The answer with the most votes; of equal ones the one found first.

    Every program that was run to an answer has one vote: where several readings of its output
    were sampled, they share it by how often each was drawn. (Without that, one program whose
    answer can be worded in eight ways would outvote seven others.)
    """
    ends = tree.answers()
    if not ends:
        return NO_CHOICE
    weights = _votes(tree, ends)
    groups = await group([_answer(tree, end) for end in ends])
    votes: dict[int, Fraction] = {}
    for weight, member in zip(weights, groups, strict=True):
        votes[member] = votes.get(member, Fraction(0)) + weight
    total = sum(votes.values())
    best = max(votes, key=lambda g: votes[g])
    ranked = sorted(votes, key=lambda g: -votes[g])
    first = {g: ends[groups.index(g)] for g in votes}
    members = [end for end, g in zip(ends, groups, strict=True) if g == best]
    shown = max(members, key=lambda end: tree.nodes[end].q or 0.0)
    return Choice(
        answer=_answer(tree, shown),
        node=shown,
        share=float(votes[best] / total),
        votes={_answer(tree, first[g]): float(votes[g]) for g in ranked},
    )


def _votes(tree: Tree, ends: list[int]) -> list[Fraction]:
    """Each end's vote: 1 a parent, shared among its answered children by copies. Fractions, so
    that equal votes are equal."""
    totals: dict[int, int] = {}
    for end in ends:
        parent = tree.nodes[end].parent
        totals[parent] = totals.get(parent, 0) + tree.nodes[end].copies
    return [Fraction(tree.nodes[end].copies, totals[tree.nodes[end].parent]) for end in ends]


def _answer(tree: Tree, end: int) -> str:
    """The answer at an end; a path's end by definition has one."""
    step = tree.nodes[end].step
    assert step is not None
    assert step.answer is not None
    return step.answer
