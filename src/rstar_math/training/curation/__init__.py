"""Curation: pure functions that select training data from search trees.

arithmetic  finds false calculations in the words of a solution
curate      selects solutions, outcomes and values; detects wrong references
pairs       builds preference pairs of steps and of whole solutions
records     options and results
"""

from rstar_math.runs.results import SearchedProblem
from rstar_math.training.curation.curate import curate
from rstar_math.training.curation.records import (
    ALL_DATA,
    Curated,
    CurationConfig,
    Data,
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
