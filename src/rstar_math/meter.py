"""Who pays: costs are charged to the piece of work that is under way, wherever in its call tree
they arise.

    with metering() as cost:
        await policy.propose(...)
    print(cost.sampled_tokens)

The current meter travels with the asyncio context, so concurrent searches do not mix their bills,
and a policy or a transport need not know who called it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rstar_math.types import Cost

_meters: ContextVar[tuple[Cost, ...]] = ContextVar("rstar_math_meters", default=())


@contextmanager
def metering(cost: Cost | None = None) -> Iterator[Cost]:
    """A `Cost` that grows by all that is charged inside the block; blocks nest, and each gets its
    share."""
    cost = Cost() if cost is None else cost
    token = _meters.set((*_meters.get(), cost))
    try:
        yield cost
    finally:
        _meters.reset(token)


def charge(cost: Cost) -> None:
    """Add a cost to every meter that is open around the caller; no meter, no bill."""
    for meter in _meters.get():
        meter.add(cost)
