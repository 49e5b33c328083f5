"""Selection rules as pure functions of visit counts and values."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rstar_math.config.loading import import_object
from rstar_math.errors import ConfigError
from rstar_math.search.tree import Tree


class ChildStats(NamedTuple):
    """What a rule may know of a child."""

    q: float | None
    """Mean value, in [-1, 1]; None before the first visit."""
    visits: int
    prior: float = 1.0
    """Share of the node's samples that were this child, in (0, 1]: the policy's probability of it
    as far as it was drawn."""
    score: float | None = None
    """The scorer's value, in [-1, 1]; None without a scorer."""
    depth: int = 1
    """Steps from the root."""


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


SelectionRule = Callable[[ChildStats, int, float], float]
"""What a child is worth: its statistics, its parent's visits, `search.exploration`."""
RULES: Mapping[str, SelectionRule] = {"uct": uct, "uct-zero": uct_zero, "puct": puct}
"""By the name that `search.selection` gives them."""


def selection_rule(name: str, *, valued: bool = True) -> SelectionRule:
    """The rule of a name of `RULES`, or "module:rule"; "auto" is UCT where nodes have values and
    PUCT where they have none. Raises `ConfigError`."""
    if name == "auto":
        return uct if valued else puct
    if name in RULES:
        return RULES[name]
    if ":" not in name:
        known = ", ".join(("auto", *RULES))
        raise ConfigError(f"Unknown search.selection {name!r}; use {known} or module:rule.")
    rule: SelectionRule = import_object(name)
    return rule


def best_children(
    tree: Tree,
    index: int,
    children: list[int],
    rule: SelectionRule,
    *,
    in_flight: Mapping[int, int],
    exploration: float,
) -> list[int]:
    """The children of a node with the highest value by a rule, in order.

    A visited child without a value counts as -1 here, so that the search turns to its siblings;
    its Q stays unknown. Every rollout in flight through a child counts as one more visit with
    value -1 (virtual loss; Chaslot et al. 2008), so that rollouts spread.
    """
    parent = tree.nodes[index]
    parent_visits = max(parent.visits, parent.rollouts) + in_flight[index]
    samples = sum(tree.nodes[child].count for child in parent.children)

    def value(child: int) -> float:
        node = tree.nodes[child]
        flying = in_flight[child]
        visits = max(node.visits, node.rollouts)
        q = node.q if node.q is not None else -1.0 if visits else None
        if flying:
            q = (visits * (q or 0.0) - flying) / (visits + flying)
        prior = node.count / samples
        stats = ChildStats(q, visits + flying, prior, node.score, node.depth)
        return rule(stats, parent_visits, exploration)

    values = [value(child) for child in children]
    best = max(values)
    return [child for child, one in zip(children, values, strict=True) if one == best]
