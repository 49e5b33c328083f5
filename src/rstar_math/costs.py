"""Cost accounting: each cost is added to all trackers active in the current context.

    with track_cost() as cost:
        await policy.propose(...)
    print(cost.sampled_tokens)

The current meter travels with the asyncio context, so concurrent searches do not mix their bills,
and a policy or a transport need not know who called it.

A scorer that asks a language model bills what it used as a scorer's, not as the policy's:

    with rebilled(as_scoring):
        await completer.complete(...)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from rstar_math.types import Cost

_trackers: ContextVar[tuple[Cost, ...]] = ContextVar("rstar_math_meters", default=())


@contextmanager
def track_cost(cost: Cost | None = None) -> Iterator[Cost]:
    """A `Cost` that grows by all that is charged inside the block; blocks nest, and each gets its
    share."""
    cost = Cost() if cost is None else cost
    token = _trackers.set((*_trackers.get(), cost))
    try:
        yield cost
    finally:
        _trackers.reset(token)


def add_cost(cost: Cost) -> None:
    """Add a cost to every meter that is open around the caller; no meter, no bill."""
    for meter in _trackers.get():
        meter.add(cost)


@contextmanager
def reclassify_cost(bill: Callable[[Cost], Cost]) -> Iterator[Cost]:
    """A `Cost` that grows by all that is charged inside the block and by nothing else; the meters
    around the block are charged `bill` of it, once, when the block ends.

    An error or a cancellation ends the block too: what was used up to there is billed.
    """
    spent = Cost()
    token = _trackers.set((spent,))
    try:
        yield spent
    finally:
        _trackers.reset(token)
        add_cost(bill(spent))


def as_discriminator_cost(cost: Cost) -> Cost:
    """The cost of a second model that was asked to solve: as it is, with its sampled tokens told
    apart as `discriminator_tokens`."""
    return replace(cost, discriminator_tokens=cost.sampled_tokens)


def as_scorer_cost(cost: Cost) -> Cost:
    """The cost of a language model that was asked for scores: its tokens, of prompts and samples
    together, are `scorer_tokens`; its samples are no steps, so `samples` is 0. The rest stays."""
    return replace(
        cost,
        samples=0,
        prompt_tokens=0,
        cached_tokens=0,
        sampled_tokens=0,
        scorer_tokens=cost.scorer_tokens + cost.prompt_tokens + cost.sampled_tokens,
    )


ENVIRONMENT_FIELDS = frozenset({"seconds", "retries", "failures", "cached_tokens"})
"""Parts of a cost that say how the servers fared, not what the search did."""
