"""What ends a search before its budget is spent, and the bill.

The rules speak of a majority: votes by answer. Other ways to choose an answer use their whole
budget.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil, comb, floor
from time import monotonic

from rstar_math.config import SearchConfig
from rstar_math.meter import charge, metering
from rstar_math.protocols import Grouper
from rstar_math.search.answers import Ballot, ballots, majority, masses
from rstar_math.search.tree import ROOT, Tree
from rstar_math.types import Cost

MOST_EMPTY = 3
"""Runs or blocks in a row without a sampled token after which a token budget is given up."""

Enough = Callable[[Tree, float], Awaitable[bool]]
"""Asked as a search goes on whether it may stop; the number is the most votes that the rest of its
budget can add."""


def settled(group: Grouper, sure: float) -> Enough:
    """Stop when the leading answer is settled: when no vote to come can change it, or, with
    `sure` < 1, when `confidence` reaches it. Writes the reason to the tree."""

    async def enough(tree: Tree, more: float) -> bool:
        cast = ballots(tree)
        votes = [*(await majority(cast, group)).votes.values()]
        if decided(votes, more):
            tree.stopped = "decided"
            return True
        each = _effective(tree, cast) / (sum(votes) or 1.0)
        if sure < 1 and confidence([vote * each for vote in votes]) >= sure:
            tree.stopped = "confident"
            return True
        return False

    return enough


def unseen(tree: Tree) -> float:
    """The most votes that going on with a tree can add: the probability, in [0, 1], that the
    policy goes where the search has not been."""
    mass = masses(tree)
    return sum(mass[i] for i, node in enumerate(tree) if not node.expanded and not node.closed)


def _effective(tree: Tree, cast: Sequence[Ballot]) -> float:
    """How many equal votes say as much as these: (sum w)^2 / sum w^2 over the programs (Kish 1965);
    readings of one program's output are one."""
    programs: dict[int, float] = {}
    for ballot in cast:
        parent = tree.nodes[ballot.node].parent
        program = parent if parent != ROOT else -ballot.node
        programs[program] = programs.get(program, 0.0) + ballot.weight
    squares = sum(weight * weight for weight in programs.values())
    return sum(programs.values()) ** 2 / squares if squares else 0.0


def decided(votes: Sequence[float], more: float) -> bool:
    """Whether at most `more` further votes, all for one other answer, cannot outvote the
    leader."""
    leader, runner_up = _two(votes)
    return leader - runner_up - more > 1e-9


def confidence(votes: Sequence[float]) -> float:
    """How sure it is, in [0, 1], that the leader would also lead among infinitely many votes.

    P(p > 1/2) for p ~ Beta(leader + 1, runner-up + 1): the leader against the runner-up, with a
    uniform prior (Adaptive-Consistency, Aggarwal et al., arXiv:2305.11860, its Beta rule).
    Fractional votes are rounded against the leader. Without a vote it is 0. It takes votes for
    independent; those of one tree share prefixes, so there it is surer than it should be.
    """
    leader, runner_up = _two(votes)
    if leader == 0:
        return 0.0
    a, b = floor(leader) + 1, ceil(runner_up) + 1
    n = a + b - 1
    return float(sum(comb(n, k) for k in range(a)) / 2**n)


def spare(left: float, tokens: int | None, *, done: int, spent: int) -> None:
    """Charge what an early stop spares: the rest of the token budget, or without one the `left`
    rollouts at the mean of those done."""
    if tokens is not None:
        charge(Cost(spared_tokens=max(0, tokens - spent)))
    elif done:
        charge(Cost(spared_tokens=round(left * spent / done)))


def spent_tokens(cost: Cost, config: SearchConfig) -> int:
    """The tokens of a cost that count against `config.tokens`: those sampled, or with
    `config.budget = "total"` those of the prompts too."""
    prompts = cost.prompt_tokens if config.budget == "total" else 0
    return cost.sampled_tokens + prompts


class Allowance:
    """What is left of a budget of tokens, and how many samples it is enough for, so that a
    layer of a search does not spend it several times over. None is no budget.

    A sample is reckoned at the mean of those that were paid for; before that nothing is known, and
    as many are asked for as are wanted.
    """

    def __init__(self, tokens: int | None) -> None:
        self._tokens = tokens
        self.spent = 0
        """Tokens paid for."""
        self._paid_for, self._out = 0, 0

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self._tokens is not None and self.spent >= self._tokens

    def ask(self, wanted: int, *, least: int = 1) -> int:
        """How many of the samples that are wanted to ask for, at least `least`; they count as
        spent until they are paid for."""
        size = wanted
        if self._tokens is not None and self.spent:
            each = self.spent / self._paid_for
            left = (self._tokens - self.spent) / each - self._out
            size = min(wanted, max(least, ceil(left)))
        self._out += size
        return size

    def pay(self, size: int, tokens: int) -> None:
        """Put down what samples that were asked for have cost."""
        self._out -= size
        self._paid_for += size
        self.spent += tokens


@contextmanager
def on_the_bill_of(tree: Tree) -> Iterator[None]:
    """Charge a tree for what is done in the block, its wall time too."""
    started = monotonic()
    with metering(tree.cost):
        try:
            yield
        finally:
            tree.cost.seconds += monotonic() - started


def _two(votes: Sequence[float]) -> tuple[float, float]:
    """The votes of the first two; 0 for those that are not there."""
    ranked = sorted(votes, reverse=True)
    return (ranked[0] if ranked else 0.0), (ranked[1] if len(ranked) > 1 else 0.0)
