"""Selection rules as pure functions of visit counts and values."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rstar_math.config.sections import SearchConfig
from rstar_math.search.tree import Tree


class ChildStats(NamedTuple):
    """What a rule may know of a child."""

    q: float | None
    """Mean value, in [-1, 1]; None before the first visit."""
    visits: int
    prior: float = 1.0
    """Share of the node's samples that were this child, in (0, 1]: the policy's probability of it
    as far as it was drawn."""


def uct(child: ChildStats, parent_visits: int, c: float) -> float:
    """Q + c sqrt(ln N_parent / N), the UCT of rStar-Math (arXiv:2501.04519, section 3.1).

    An unvisited child is worth +infinity: it is tried before any other (standard UCT; Kocsis and
    Szepesvari 2006).
    """
    if child.q is None or child.visits == 0:
        return math.inf
    return child.q + c * math.sqrt(math.log(max(parent_visits, 1)) / child.visits)


def uct_zero(child: ChildStats, parent_visits: int, c: float) -> float:
    """As `uct`, but an unvisited child is worth 0 (the public rStar-Math code, where it is
    deliberate: higher-Q children first). Without a scorer the search then goes down its first
    path only."""
    if child.q is None or child.visits == 0:
        return 0.0
    return uct(child, parent_visits, c)


def puct(child: ChildStats, parent_visits: int, c: float) -> float:
    """Q + c P sqrt(N_parent) / (1 + N), the rule of AlphaZero (Silver et al. 2018,
    doi:10.1126/science.aar6404); Q of an unvisited child is 0, the middle of the range."""
    bonus = c * child.prior * math.sqrt(max(parent_visits, 1)) / (1 + child.visits)
    return (child.q or 0.0) + bonus


Rule = Callable[[ChildStats, int, float], float]
RULES: Mapping[str, Rule] = {"uct": uct, "uct-zero": uct_zero, "puct": puct}
"""By the name that `search.selection` gives them."""


def select(
    tree: Tree, index: int, children: list[int], through: Counter[int], config: SearchConfig
) -> list[int]:
    """The children with the highest worth by `config.selection`, in order.

    A child that was walked to and led to nothing that has a value counts as -1 here, so that the
    search turns to its siblings; its Q stays unknown. Every walk in flight through a child counts
    as one more visit worth -1 (virtual loss; Chaslot et al. 2008), so that walks spread.
    """
    rule = RULES[config.selection]
    parent = tree.nodes[index]
    parent_visits = max(parent.visits, parent.rollouts) + through[index]
    samples = sum(tree.nodes[child].count for child in parent.children)

    def worth(child: int) -> float:
        node = tree.nodes[child]
        flying = through[child]
        visits = max(node.visits, node.rollouts)
        q = node.q if node.q is not None else -1.0 if visits else None
        if flying:
            q = (visits * (q or 0.0) - flying) / (visits + flying)
        return rule(
            ChildStats(q, visits + flying, node.count / samples), parent_visits, config.exploration
        )

    worths = [worth(child) for child in children]
    most = max(worths)
    return [child for child, value in zip(children, worths, strict=True) if value == most]
