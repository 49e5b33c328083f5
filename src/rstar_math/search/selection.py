"""Selection rules of MCTS, as pure functions of visit counts and values."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rstar_math.config.loading import import_object
from rstar_math.errors import ConfigError
from rstar_math.search.tree import Tree


class ChildStats(NamedTuple):
    """Statistics of a child, as seen by a selection rule."""

    q: float | None
    """Mean value, in [-1, 1]; None before the first visit."""
    visits: int
    """Number of visits, including rollouts in flight."""
    prior: float = 1.0
    """Share of the parent's samples that were this child, in (0, 1]; it estimates the policy's
    probability of this step."""
    score: float | None = None
    """The scorer's value, in [-1, 1]; None without a scorer."""
    depth: int = 1
    """Number of steps from the root."""


def uct(child: ChildStats, parent_visits: int, c: float) -> float:
    """Return Q + c sqrt(ln N_parent / N), the UCT of rStar-Math (arXiv:2501.04519, section 3.1).

    An unvisited child has value +infinity and is tried first (Kocsis and Szepesvari 2006).
    """
    if child.q is None or child.visits == 0:
        return math.inf
    return child.q + c * math.sqrt(math.log(max(parent_visits, 1)) / child.visits)


def uct_zero(child: ChildStats, parent_visits: int, c: float) -> float:
    """Return the value of `uct`, but 0 for an unvisited child, as in the public rStar-Math code.

    There it is deliberate: children with a higher Q come first. Without a scorer, a search with
    this rule follows only its first path.
    """
    if child.q is None or child.visits == 0:
        return 0.0
    return uct(child, parent_visits, c)


def puct(child: ChildStats, parent_visits: int, c: float) -> float:
    """Return Q + c P sqrt(N_parent) / (1 + N), the rule of AlphaZero.

    Q of an unvisited child is 0, the middle of the range. Source: Silver et al. 2018,
    doi:10.1126/science.aar6404.
    """
    bonus = c * child.prior * math.sqrt(max(parent_visits, 1)) / (1 + child.visits)
    return (child.q or 0.0) + bonus


SelectionRule = Callable[[ChildStats, int, float], float]
"""Returns a child's priority from its statistics, its parent's visits and `search.exploration`."""
SELECTION_RULES: Mapping[str, SelectionRule] = {"uct": uct, "uct-zero": uct_zero, "puct": puct}
"""Selection rules by the value of `search.selection`."""


def selection_rule(name: str, *, valued: bool = True) -> SelectionRule:
    """Return the rule with a name: a key of `SELECTION_RULES`, "module:rule" or "auto".

    "auto" is UCT if nodes have values (`valued`), else PUCT. Raises `ConfigError`.
    """
    if name == "auto":
        return uct if valued else puct
    if name in SELECTION_RULES:
        return SELECTION_RULES[name]
    if ":" not in name:
        known = ", ".join(("auto", *SELECTION_RULES))
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
    """Return the children of a node with the highest priority by a rule, in sibling order.

    A visited child without a value gets Q = -1 here, so that the search turns to its siblings; the
    stored Q stays unknown. Each rollout in flight through a child counts as one more visit with
    value -1, so that rollouts spread (virtual loss; Chaslot et al. 2008).
    """
    parent = tree.nodes[index]
    parent_visits = max(parent.visits, parent.rollouts) + in_flight[index]
    samples = sum(tree.nodes[child].count for child in parent.children)

    def priority(child: int) -> float:
        node = tree.nodes[child]
        virtual_losses = in_flight[child]
        # A branch that only failed has rollouts but no values.
        visits = max(node.visits, node.rollouts)
        q = node.q if node.q is not None else -1.0 if visits else None
        if virtual_losses:
            q = (visits * (q or 0.0) - virtual_losses) / (visits + virtual_losses)
        prior = node.count / samples
        stats = ChildStats(q, visits + virtual_losses, prior, node.score, node.depth)
        return rule(stats, parent_visits, exploration)

    priorities = [priority(child) for child in children]
    best = max(priorities)
    return [child for child, value in zip(children, priorities, strict=True) if value == best]
