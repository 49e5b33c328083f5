"""The search: trees, selection rules, MCTS, chains, and how a final answer is chosen.

Takes functions, not models: nothing in here imports HTTP, torch or a prompt.
"""

from rstar_math.search.beam import beam, best_first
from rstar_math.search.expansion import Parts
from rstar_math.search.mcts import grow
from rstar_math.search.mutual import examine, mutual_choice
from rstar_math.search.sampling import sample_chains
from rstar_math.search.strategies import pursue
from rstar_math.search.tree import ROOT, Node, Tree, from_record, to_record
from rstar_math.search.voting import (
    Ballot,
    Choice,
    ballots,
    best,
    majority,
    paths,
    top_of_runs,
    weighted,
)

__all__ = [
    "ROOT",
    "Ballot",
    "Choice",
    "Node",
    "Parts",
    "Tree",
    "ballots",
    "beam",
    "best",
    "best_first",
    "examine",
    "from_record",
    "grow",
    "majority",
    "mutual_choice",
    "paths",
    "pursue",
    "sample_chains",
    "to_record",
    "top_of_runs",
    "weighted",
]
