"""Searches: trees, selection rules, MCTS, beam search, chains, and the choice of a final answer.

A search takes policies, executors and scorers as objects. This package imports no HTTP client, no
torch and no prompts.
"""

from rstar_math.search.beam import beam, best_first
from rstar_math.search.expansion import SearchComponents
from rstar_math.search.mcts import grow
from rstar_math.search.mutual import check_solutions, choose_by_agreement
from rstar_math.search.particles import particle_filter
from rstar_math.search.records import from_record, to_record
from rstar_math.search.runner import run_strategy
from rstar_math.search.sampling import sample_chains
from rstar_math.search.tree import ROOT, Node, Tree
from rstar_math.search.voting import (
    Choice,
    Vote,
    best,
    majority,
    one_vote_per_path,
    top_k_of_runs,
    votes_of,
    weighted,
)

__all__ = [
    "ROOT",
    "Choice",
    "Node",
    "SearchComponents",
    "Tree",
    "Vote",
    "beam",
    "best",
    "best_first",
    "check_solutions",
    "choose_by_agreement",
    "from_record",
    "grow",
    "majority",
    "one_vote_per_path",
    "particle_filter",
    "run_strategy",
    "sample_chains",
    "to_record",
    "top_k_of_runs",
    "votes_of",
    "weighted",
]
