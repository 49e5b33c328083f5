"""A selection rule of your own: UCB1-tuned without the variance term, which explores less.

PYTHONPATH=examples rstar solve "..." --set search.selection=extensions.selection_rule:cautious
"""

import math

from rstar_math.search.selection import ChildStats


def cautious(child: ChildStats, parent_visits: int, exploration: float) -> float:
    """Q + exploration * sqrt(ln N_parent / N) / 2; if unvisited, score + exploration."""
    if child.q is None or child.visits == 0:
        return math.inf if child.score is None else child.score + exploration
    return child.q + exploration / 2 * math.sqrt(math.log(max(parent_visits, 1)) / child.visits)
