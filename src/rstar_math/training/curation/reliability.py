"""Synthetic problems whose own trajectories seldom come to their reference (rStar-Math,
arXiv:2501.04519: those below 50 % are dropped)."""

from collections.abc import Sequence

from rstar_math.search.answers import masses
from rstar_math.training.curation.ledger import Ledger
from rstar_math.training.curation.records import Unreliable
from rstar_math.types import SYNTHETIC, Problem

RELIABLE = 0.5
"""Least share of the judged paths that come to the reference (paper: 50 %)."""


def unreliable(problem: Problem, ledgers: Sequence[Ledger]) -> Unreliable | None:
    """A synthetic problem as one to leave out; None where it is none, is reliable, or nobody came
    to an answer that could be judged.

    A path weighs as likely as the policy is to write it (`search.answers.masses`): a search that
    knows the reference goes where it is found, and its paths as they are counted would bear it out.
    """
    if problem.source != SYNTHETIC:
        return None
    right = judged = 0.0
    for ledger in ledgers:
        mass = masses(ledger.tree)
        found = sum(mass[end.node] for end in ledger.right_ends)
        right += found
        judged += found + sum(mass[end.node] for end in ledger.wrong_ends)
    if not judged or right / judged >= RELIABLE:
        return None
    ends = sum(len(ledger.right_ends) + len(ledger.wrong_ends) for ledger in ledgers)
    return Unreliable(problem.id, right / judged, ends)
