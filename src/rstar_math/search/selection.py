"""Selection rules as pure functions of visit counts and values."""

import math


def uct(q: float | None, visits: int, parent_visits: int, c: float) -> float:
    """Q + c sqrt(ln N_parent / N), the UCT of rStar-Math (arXiv:2501.04519, section 3.1).

    `q` in [-1, 1]. An unvisited child is worth +infinity: it is tried before any other (standard
    UCT).
    """
    if q is None or visits == 0:
        return math.inf
    return q + c * math.sqrt(math.log(max(parent_visits, 1)) / visits)


def uct_zero(q: float | None, visits: int, parent_visits: int, c: float) -> float:
    """As `uct`, but an unvisited child is worth 0 (the public rStar-Math code, where it is
    deliberate: higher-Q children first). Without a scorer the search then goes down its first
    path only."""
    if q is None or visits == 0:
        return 0.0
    return uct(q, visits, parent_visits, c)
