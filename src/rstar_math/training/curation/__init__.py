"""Curation: pure functions from trees to training data.

ledger     one pass over a tree: the judged ends below each node, what each path is worth
likeness   how far apart two texts are
solutions  right solutions to imitate
pairs      preference pairs of steps and of whole solutions
labels     outcomes, values, step labels
noise      problems whose reference is probably wrong
curating   which rule is applied to what
"""

from rstar_math.runs.results import SearchedProblem
from rstar_math.training.curation.curate import curate
from rstar_math.training.curation.records import (
    ALL_DATA,
    Curated,
    CurationConfig,
    Data,
    LabelledSteps,
    Outcome,
    PrefixValue,
    Report,
    SelectedPair,
    SelectedSolution,
    SuspectLabel,
    TreeNodeRef,
)

__all__ = [
    "ALL_DATA",
    "Curated",
    "CurationConfig",
    "Data",
    "LabelledSteps",
    "Outcome",
    "PrefixValue",
    "Report",
    "SearchedProblem",
    "SelectedPair",
    "SelectedSolution",
    "SuspectLabel",
    "TreeNodeRef",
    "curate",
]
