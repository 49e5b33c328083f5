"""Cost accounting: each cost is added to all trackers active in the current context.

    with track_cost() as cost:
        await policy.propose(...)
    print(cost.sampled_tokens)

Trackers live in a context variable, so concurrent searches count separately, and a policy or a
transport does not need to know its caller.

A scorer that asks a language model counts its tokens as a scorer's, not as the policy's:

    with reclassify_cost(as_scorer_cost):
        await completer.complete(...)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from rstar_math.types import Cost

_trackers: ContextVar[tuple[Cost, ...]] = ContextVar("rstar_math_cost_trackers", default=())


@contextmanager
def track_cost(cost: Cost | None = None) -> Iterator[Cost]:
    """Yields a `Cost` to which everything spent inside the block is added. Blocks nest: a cost
    counts in every block around it."""
    cost = Cost() if cost is None else cost
    token = _trackers.set((*_trackers.get(), cost))
    try:
        yield cost
    finally:
        _trackers.reset(token)


def add_cost(cost: Cost) -> None:
    """Add `cost` to every tracker active in this context, if any."""
    for tracker in _trackers.get():
        tracker.add(cost)


@contextmanager
def reclassify_cost(convert: Callable[[Cost], Cost]) -> Iterator[Cost]:
    """Collect the costs of the block, and add `convert(cost)` to the outer trackers at its end.

    Yields the collected `Cost`. An error or a cancellation also ends the block; what was spent
    until then is counted.
    """
    spent = Cost()
    token = _trackers.set((spent,))
    try:
        yield spent
    finally:
        _trackers.reset(token)
        add_cost(convert(spent))


def as_discriminator_cost(cost: Cost) -> Cost:
    """The cost of a discriminator (the second model of rStar): its sampled tokens also count as
    `discriminator_tokens`."""
    return replace(cost, discriminator_tokens=cost.sampled_tokens)


def as_scorer_cost(cost: Cost) -> Cost:
    """The cost of a language model used as a scorer: prompt and sampled tokens become
    `scorer_tokens`, and `samples` is 0 because nothing was sampled for the tree."""
    return replace(
        cost,
        samples=0,
        prompt_tokens=0,
        cached_tokens=0,
        sampled_tokens=0,
        scorer_tokens=cost.scorer_tokens + cost.prompt_tokens + cost.sampled_tokens,
    )


ENVIRONMENT_FIELDS = frozenset({"seconds", "retries", "failures", "cached_tokens"})
"""Fields that depend on the servers and the clock, not on what the search did."""
