"""Chooses the final answer of a search by votes, and decides when a search may stop early.

Every rule is a function of votes, one for each path that ended with an answer, and of nothing
else: it works for a tree, a set of chains or several searches alike, and sees no reference answer.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, comb, floor
from time import monotonic

from rstar_math.config.sections import SearchConfig
from rstar_math.costs import add_cost, track_cost
from rstar_math.protocols import AnswerGrouper
from rstar_math.search.tree import ROOT, Node, Tree
from rstar_math.types import Cost


@dataclass(frozen=True, slots=True)
class Vote:
    """One path's answer and what speaks for it."""

    answer: str
    node: int
    """The path's end in its tree."""
    weight: float = 1.0
    """What its vote counts, in (0, 1]."""
    value: float | None = None
    """The scorer's value of the whole path, else its Q, in [-1, 1]."""
    run: int = 0
    """The independent search that found it."""

    @property
    def rank(self) -> float:
        """The value; below every other where it has none."""
        return -2.0 if self.value is None else self.value


@dataclass(frozen=True, slots=True)
class Choice:
    """A final answer and what speaks for it."""

    answer: str | None
    """None where no path ended with an answer."""
    node: int | None
    """The path shown for it: of those with this answer, the one with the highest value, then the
    first."""
    share: float
    """Share of the votes for it, in [0, 1]."""
    votes: dict[str, float]
    """Votes by answer, in the words of each group's first path, most votes first."""


NO_CHOICE = Choice(None, None, 0.0, {})
Rule = Callable[[Sequence[Vote], AnswerGrouper], Awaitable[Choice]]


def votes_of(tree: Tree) -> list[Vote]:
    """A tree's answers, in order of creation.

    A path's weight is how likely the policy is to write it, as far as was seen: the product, over
    its steps, of the share of its node's samples that were this step. So the votes of a tree
    estimate what infinitely many chains would vote, and an answer does not win by being worded in
    many ways or by lying where the search happened to look. A chain, and every run as a whole,
    weighs 1.
    """
    mass = path_probabilities(tree)
    found: list[Vote] = []
    for end in tree.answers():
        node = tree.nodes[end]
        assert node.step is not None
        assert node.step.answer is not None
        value = node.leaf_value
        found.append(Vote(node.step.answer, end, mass[end], value, node.run))
    return found


def path_probabilities(tree: Tree) -> list[float]:
    """For each node, the probability in [0, 1] that the policy goes there, as far as was seen."""
    drawn: dict[tuple[int, int], int] = {}
    for node in tree.nodes[1:]:
        drawn[_siblings(node)] = drawn.get(_siblings(node), 0) + node.count
    mass = [1.0]
    for node in tree.nodes[1:]:
        mass.append(mass[node.parent] * node.count / drawn[_siblings(node)])
    return mass


VOTES: Mapping[str, Callable[[Vote], float]] = {
    "majority": lambda vote: vote.weight,
    "paths": lambda vote: 1.0,
    "weighted": lambda vote: vote.weight * (1 + (vote.value or 0.0)) / 2,
}
"""What a path's vote counts by the rules that count votes."""


async def majority(cast: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """The answer with the most votes; of equal ones the one found first (self-consistency, Wang
    et al., arXiv:2203.11171)."""
    return await _choose(cast, group, VOTES["majority"])


async def one_vote_per_path(cast: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """The answer that most paths end in, whatever they weigh; of equal ones the one found first
    (rStar's generator alone, "@maj", arXiv:2408.06195, table 2; its code counts a path again for
    each rollout that ends there)."""
    return await _choose(cast, group, VOTES["paths"])


async def weighted(cast: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """The answer with the highest sum of (1 + value) / 2 over its votes (weighted best-of-N, Li
    et al., arXiv:2206.02336); a path without a value counts as one of value 0."""
    return await _choose(cast, group, VOTES["weighted"])


async def best(cast: Sequence[Vote], group: AnswerGrouper) -> Choice:
    """The answer of the path with the highest value (best-of-N); of equal ones the answer with
    more votes, then the one found first. Paths without a value come last."""
    return await _choose(cast, group, VOTES["majority"], by_value=True)


async def top_k_of_runs(cast: Sequence[Vote], group: AnswerGrouper, *, keep: int = 4) -> Choice:
    """The paper's rule for several searches: of each run the path with the highest value, of these
    the `keep` with the highest value, and of these the majority (rStar-Math, arXiv:2501.04519,
    section 4 and the authors' evaluation, whose K is 4 by default and 4 to 8 by their advice)."""
    return await one_vote_per_path(best_path_per_run(cast, keep), group)


def best_path_per_run(cast: Sequence[Vote], keep: int) -> list[Vote]:
    """Of each run the path with the highest value, of these the `keep` with the highest."""
    firsts: dict[int, Vote] = {}
    for vote in cast:
        if vote.run not in firsts or vote.rank > firsts[vote.run].rank:
            firsts[vote.run] = vote
    return sorted(firsts.values(), key=lambda vote: -vote.rank)[:keep]


RULES: Mapping[str, Rule] = {
    "majority": majority,
    "paths": one_vote_per_path,
    "weighted": weighted,
    "best": best,
}
"""By the name that `search.answer` gives them; `top_k_of_runs` takes a number besides."""


async def _choose(
    cast: Sequence[Vote],
    group: AnswerGrouper,
    weigh: Callable[[Vote], float],
    *,
    by_value: bool = False,
) -> Choice:
    """The answer with the most votes, or the one with the best vote."""
    if not cast:
        return NO_CHOICE
    groups = await group([vote.answer for vote in cast])
    votes: dict[int, float] = {}
    shown: dict[int, Vote] = {}
    for vote, member in zip(cast, groups, strict=True):
        votes[member] = votes.get(member, 0.0) + weigh(vote)
        if member not in shown or vote.rank > shown[member].rank:
            shown[member] = vote
    value = {g: shown[g].rank if by_value else 0.0 for g in votes}
    leader = max(votes, key=lambda g: (value[g], round(votes[g], 12)))
    total = sum(votes.values())
    return Choice(
        answer=shown[leader].answer,
        node=shown[leader].node,
        share=votes[leader] / total if total else 0.0,
        votes={
            cast[groups.index(g)].answer: votes[g] for g in sorted(votes, key=lambda g: -votes[g])
        },
    )


def _siblings(node: Node) -> tuple[int, int]:
    """What a node and those sampled beside it have in common: the parent; below the root of a tree
    that holds several searches, the search too."""
    return node.parent, node.run if node.parent == ROOT else 0


MAX_EMPTY_RUNS = 3
"""Runs or blocks in a row without a sampled token after which a token budget is given up."""
StopCondition = Callable[[Tree, float], Awaitable[bool]]
"""Asked as a search goes on whether it may stop; the number is the most votes that the rest of its
budget can add."""


def majority_is_decided(group: AnswerGrouper, sure: float) -> StopCondition:
    """Stop when the leading answer is settled: when no vote to come can change it, or, with
    `sure` < 1, when `confidence` reaches it. Writes the reason to the tree."""

    async def enough(tree: Tree, more: float) -> bool:
        cast = votes_of(tree)
        votes = [*(await majority(cast, group)).votes.values()]
        if decided(votes, more):
            tree.stop_reason = "decided"
            return True
        each = _effective_votes(tree, cast) / (sum(votes) or 1.0)
        if sure < 1 and confidence([vote * each for vote in votes]) >= sure:
            tree.stop_reason = "confident"
            return True
        return False

    return enough


def unexplored_probability(tree: Tree) -> float:
    """The most votes that going on with a tree can add: the probability, in [0, 1], that the
    policy goes where the search has not been."""
    mass = path_probabilities(tree)
    return sum(mass[i] for i, node in enumerate(tree) if not node.expanded and not node.closed)


def _effective_votes(tree: Tree, cast: Sequence[Vote]) -> float:
    """How many equal votes say as much as these: (sum w)^2 / sum w^2 over the programs (Kish 1965);
    readings of one program's output are one."""
    programs: dict[int, float] = {}
    for vote in cast:
        parent = tree.nodes[vote.node].parent
        program = parent if parent != ROOT else -vote.node
        programs[program] = programs.get(program, 0.0) + vote.weight
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


def record_savings(left: float, tokens: int | None, *, done: int, spent: int) -> None:
    """Charge what an early stop spares: the rest of the token budget, or without one the `left`
    rollouts at the mean of those done."""
    if tokens is not None:
        add_cost(Cost(saved_tokens=max(0, tokens - spent)))
    elif done:
        add_cost(Cost(saved_tokens=round(left * spent / done)))


def spent_tokens(cost: Cost, config: SearchConfig) -> int:
    """The tokens of a cost that count against `config.token_budget`: those sampled, or with
    `config.budget = "total"` those of the prompts too."""
    prompts = cost.prompt_tokens if config.budget == "total" else 0
    return cost.sampled_tokens + prompts


class TokenBudget:
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
    def exhausted(self) -> bool:
        """Whether the budget is spent."""
        return self._tokens is not None and self.spent >= self._tokens

    def reserve(self, wanted: int, *, least: int = 1) -> int:
        """How many of the samples that are wanted to ask for, at least `least`; they count as
        spent until they are paid for."""
        size = wanted
        if self._tokens is not None and self.spent:
            each = self.spent / self._paid_for
            left = (self._tokens - self.spent) / each - self._out
            size = min(wanted, max(least, ceil(left)))
        self._out += size
        return size

    def settle(self, size: int, tokens: int) -> None:
        """Put down what samples that were asked for have cost."""
        self._out -= size
        self._paid_for += size
        self.spent += tokens


@contextmanager
def track_tree_cost(tree: Tree) -> Iterator[None]:
    """Charge a tree for what is done in the block, its wall time too."""
    started = monotonic()
    with track_cost(tree.cost):
        try:
            yield
        finally:
            tree.cost.seconds += monotonic() - started


def _two(votes: Sequence[float]) -> tuple[float, float]:
    """The votes of the first two; 0 for those that are not there."""
    ranked = sorted(votes, reverse=True)
    return (ranked[0] if ranked else 0.0), (ranked[1] if len(ranked) > 1 else 0.0)
