"""Token budgets and the costs of a search."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from time import monotonic

from rstar_math.config.sections import SearchConfig
from rstar_math.costs import add_cost, track_cost
from rstar_math.rejected import collect_rejected
from rstar_math.search.tree import Tree
from rstar_math.types import Cost

MAX_EMPTY_RUNS = 3
"""A search with a token budget stops after this many consecutive runs without a sampled token."""


class TokenBudget:
    """A token budget from which concurrent requests reserve samples. A limit of None is no limit.

    A sample is expected to cost the mean of all finished samples. Before the first sample has
    finished, its cost is unknown, and every reservation is granted in full.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.spent = 0
        """Tokens spent on finished samples."""
        self._finished_samples, self._reserved_samples = 0, 0

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent."""
        return self._limit is not None and self.spent >= self._limit

    def reserve(self, wanted: int, *, minimum: int = 1) -> int:
        """Reserve up to `wanted` samples, but at least `minimum`, and return their number.

        Reserved samples count as spent until `commit` records their real cost.
        """
        samples = wanted
        if self._limit is not None and self.spent:
            tokens_per_sample = self.spent / self._finished_samples
            affordable = (self._limit - self.spent) / tokens_per_sample - self._reserved_samples
            samples = min(wanted, max(minimum, ceil(affordable)))
        self._reserved_samples += samples
        return samples

    def commit(self, samples: int, tokens: int) -> None:
        """Replace a reservation of `samples` by the `tokens` that they cost."""
        self._reserved_samples -= samples
        self._finished_samples += samples
        self.spent += tokens


def spent_tokens(cost: Cost, config: SearchConfig) -> int:
    """Return the tokens of a cost that count against `config.token_budget`.

    These are the sampled tokens, with `config.budget` = "total" also the prompt tokens, and with
    "all" also the tokens of scorers.
    """
    prompts = cost.prompt_tokens if config.budget != "sampled" else 0
    scorers = cost.scorer_tokens if config.budget == "all" else 0
    return cost.sampled_tokens + prompts + scorers


def record_savings(remaining: float, budget: int | None, *, finished: int, spent: int) -> None:
    """Record the tokens that an early stop saves, as `Cost.saved_tokens`.

    They are the rest of the token `budget`. Without a budget, they are the `remaining` rollouts (or
    runs) times the mean of the `spent` tokens per `finished` one.
    """
    if budget is not None:
        add_cost(Cost(saved_tokens=max(0, budget - spent)))
    elif finished:
        add_cost(Cost(saved_tokens=round(remaining * spent / finished)))


@contextmanager
def track_tree_cost(tree: Tree) -> Iterator[None]:
    """Add the costs, the wall time and the rejected samples of the block to a tree."""
    started = monotonic()
    with track_cost(tree.cost), collect_rejected(tree.rejected):
        try:
            yield
        finally:
            tree.cost.seconds += monotonic() - started
