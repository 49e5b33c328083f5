"""Cost accounting: each cost is added to all trackers active in the current context.

    with track_cost() as cost:
        await policy.propose(...)
    print(cost.sampled_tokens)

Trackers live in a context variable. Concurrent searches therefore count separately, and a policy
or a transport does not need to know its caller.

A scorer that calls a language model records its tokens as scorer tokens, not policy tokens:

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
    """Yield a `Cost` that collects everything spent inside the block; pass `cost` to extend one.

    Blocks nest: a cost is added to every enclosing block.
    """
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
    """Collect the costs of the block and add `convert(cost)` to the outer trackers at its end.

    Yields the collected `Cost`. If the block ends with an error or a cancellation, the costs up to
    that point are still added.
    """
    spent = Cost()
    token = _trackers.set((spent,))
    try:
        yield spent
    finally:
        _trackers.reset(token)
        add_cost(convert(spent))


def as_discriminator_cost(cost: Cost) -> Cost:
    """Return the cost of a discriminator call (the second model of rStar).

    The sampled tokens also count as `discriminator_tokens`.
    """
    return replace(cost, discriminator_tokens=cost.sampled_tokens)


def as_scorer_cost(cost: Cost) -> Cost:
    """Return the cost of a language model call that scores steps.

    Prompt and sampled tokens become `scorer_tokens`. `samples` is 0, because nothing was sampled
    for the tree.
    """
    return replace(
        cost,
        samples=0,
        prompt_tokens=0,
        cached_tokens=0,
        sampled_tokens=0,
        scorer_tokens=cost.scorer_tokens + cost.prompt_tokens + cost.sampled_tokens,
    )


ENVIRONMENT_FIELDS = frozenset({"seconds", "retries", "failures", "cached_tokens"})
"""Fields of `Cost` that depend on servers and the clock. Stored trees omit them."""
