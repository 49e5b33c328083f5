"""The search: trees, selection rules, MCTS, chains, and how a final answer is chosen.

Takes functions, not models: nothing in here imports HTTP, torch or a prompt.
"""

from rstar_math.search.answers import Choice, majority
from rstar_math.search.mcts import grow
from rstar_math.search.record import from_record, to_record
from rstar_math.search.sampling import sample_chains
from rstar_math.search.tree import ROOT, Node, Tree

__all__ = [
    "ROOT",
    "Choice",
    "Node",
    "Tree",
    "from_record",
    "grow",
    "majority",
    "sample_chains",
    "to_record",
]
