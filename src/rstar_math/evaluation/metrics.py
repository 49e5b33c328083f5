"""Metrics of a strategy: accuracy, costs, pass@k, majority@k, scorer@k."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from typing import Any

from rstar_math.errors import ConfigError
from rstar_math.runs.results import Result
from rstar_math.types import Cost, Verdict


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one strategy over a set of problems."""

    strategy: str
    problems: int
    graded: int
    """Problems that have a reference answer."""
    right: int
    unknown: int
    """Answers that the grader could not decide; they count as not right."""
    unanswered: int
    """Problems for which no path ended with an answer."""
    cost: Cost
    failures: dict[str, int]

    @property
    def accuracy(self) -> float | None:
        """Share of the graded problems answered right, in [0, 1]; None where none is graded."""
        return self.right / self.graded if self.graded else None

    @property
    def samples_lost(self) -> float | None:
        """Share of the samples that were cut off or held no step, in [0, 1]; None without a
        sample."""
        cost = self.cost
        return (cost.truncated + cost.malformed) / cost.samples if cost.samples else None

    def as_json(self) -> dict[str, Any]:
        """The figures under plain names; `cost` holds sums over all problems, `cost_per_solved` the
        same for each problem solved."""
        low, high = wilson(self.right, self.graded) if self.graded else (None, None)
        fields = asdict(self) | {"accuracy": self.accuracy, "interval_95": [low, high]}
        fields["cost"] = asdict(self.cost)
        fields["cost_per_problem"] = each(self.cost, self.problems)
        fields["cost_per_solved"] = each(self.cost, self.right)
        fields["samples_lost"] = self.samples_lost
        return fields


def summarise(strategy: str, results: Iterable[Result]) -> Summary:
    """The figures of a strategy's results."""
    costs: list[Cost] = []
    verdicts: list[Verdict | None] = []
    failures: dict[str, int] = {}
    unanswered = 0
    for result in results:
        costs.append(result.cost)
        verdicts.append(result.verdict)
        unanswered += result.choice.answer is None
        for reason, count in result.failures.items():
            failures[reason] = failures.get(reason, 0) + count
    return Summary(
        strategy=strategy,
        problems=len(costs),
        graded=sum(v is not None for v in verdicts),
        right=sum(v is Verdict.RIGHT for v in verdicts),
        unknown=sum(v is Verdict.UNKNOWN for v in verdicts),
        unanswered=unanswered,
        cost=Cost.total(costs),
        failures=failures,
    )


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share, in [0, 1]; z = 1.96 gives 95 % (Wilson, 1927)."""
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(
        1.0, (centre + spread) / (1 + z * z / n)
    )


SHOWN = (
    "calls",
    "samples",
    "prompt_tokens",
    "cached_tokens",
    "sampled_tokens",
    "scorer_tokens",
    "code_runs",
    "seconds",
)
"""The parts of a cost that are reported by problem."""


def each(cost: Cost, among: int) -> dict[str, float] | None:
    """A cost shared out evenly, by name of its part; None among none. Of the problems solved it is
    the price of a solution: what the unsolved ones cost is in it."""
    if among == 0:
        return None
    parts = asdict(cost)
    return {name: parts[name] / among for name in SHOWN}


Judge = Callable[[Sequence["Attempt"]], float]
"""The chance, in [0, 1], that a rule's answer from some attempts is right."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recorded attempt at a problem."""

    group: int | None
    """Class of equal answers; None where it gave no answer."""
    right: bool = False
    value: float | None = None
    """What the scorer says of the whole path, in [-1, 1]."""


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance, in [0, 1], that of k attempts one is right, from `right` of n that were.

    The unbiased estimator 1 - C(n - right, k) / C(n, k) (Chen et al., arXiv:2107.03374, section
    2.1). Raises `ConfigError` where k is not in 1..n.
    """
    _check(n, k)
    return 1 - comb(n - right, k) / comb(n, k)


def maj_at_k(attempts: Sequence[Attempt], k: int) -> float:
    """The chance, in [0, 1], that the majority of k attempts is right; exact, over all choices of
    k. Equal majorities share the win evenly, as the order of attempts is chance.

    For each right answer and each number m of its votes, the ways in which no other answer has
    more, counted over the answers one after the other.
    """
    n = len(attempts)
    _check(n, k)
    sizes: dict[int, int] = {}
    right: set[int] = set()
    for attempt in attempts:
        if attempt.group is not None:
            sizes[attempt.group] = sizes.get(attempt.group, 0) + 1
            if attempt.right:
                right.add(attempt.group)
    silent = n - sum(sizes.values())
    won = 0.0
    for group in right:
        others = [size for other, size in sizes.items() if other != group]
        for votes in range(1, min(sizes[group], k) + 1):
            won += comb(sizes[group], votes) * _ways(others, silent, k - votes, votes)
    return won / comb(n, k)


def _ways(others: Sequence[int], silent: int, left: int, most: int) -> float:
    """Ways to choose `left` attempts of the other answers and the silent ones so that no answer has
    more than `most`; a way in which t of them have as many counts 1 / (t + 1)."""
    ways: dict[tuple[int, int], int] = {(0, 0): 1}
    for size in others:
        grown: dict[tuple[int, int], int] = {}
        for (used, ties), count in ways.items():
            for votes in range(min(size, most, left - used) + 1):
                key = used + votes, ties + (votes == most)
                grown[key] = grown.get(key, 0) + count * comb(size, votes)
        ways = grown
    return sum(
        count * comb(silent, left - used) / (ties + 1) for (used, ties), count in ways.items()
    )


def scorer_at_k(attempts: Sequence[Attempt], k: int) -> float:
    """The chance, in [0, 1], that of k attempts the one with the highest value is right (best of
    k); exact. Equal values share evenly; an attempt without a value comes after all that have
    one, one without an answer after those."""
    n = len(attempts)
    _check(n, k)
    levels: dict[float, list[bool]] = {}
    for attempt in attempts:
        levels.setdefault(_rank(attempt), []).append(attempt.right)
    below, won = 0, 0.0
    for level in sorted(levels):
        here = levels[level]
        ways = comb(below + len(here), k) - comb(below, k)
        won += ways * sum(here) / len(here)
        below += len(here)
    return won / comb(n, k)


def weighted(attempts: Sequence[Attempt]) -> float:
    """The chance, in [0, 1], that the answer with the highest sum of (1 + value) / 2 is right;
    equal sums share evenly (Li et al., arXiv:2206.02336). No value counts as 0."""
    votes: dict[int, float] = {}
    right: dict[int, bool] = {}
    for a in attempts:
        if a.group is not None:
            votes[a.group] = votes.get(a.group, 0.0) + (1 + (a.value or 0.0)) / 2
            right[a.group] = a.right
    if not votes:
        return 0.0
    top = max(votes.values())
    leaders = [group for group, vote in votes.items() if vote >= top - 1e-9]
    return sum(right[group] for group in leaders) / len(leaders)


def rule_at_k(attempts: Sequence[Attempt], k: int, rule: Judge, *, draws: int = 300) -> float:
    """The chance, in [0, 1], that a rule is right on k attempts: over all choices of k where there
    are few, else the share of `draws` random ones with a right attempt in which it is, times
    pass@k, so that chance never lifts it above its ceiling."""
    n, right = len(attempts), sum(attempt.right for attempt in attempts)
    ceiling = pass_at_k(n, right, k)
    if not 0 < right < n:
        return ceiling
    if comb(n, k) <= draws:
        return over_choices(attempts, k, rule)
    found = over_choices(attempts, k, rule, exact_up_to=0, draws=draws)
    hit = over_choices(attempts, k, _any_right, exact_up_to=0, draws=draws)
    return ceiling * found / hit if hit else 0.0


def top_of_runs(runs: Sequence[Attempt], keep: int = 4) -> float:
    """The chance, in [0, 1], that the paper's rule is right: of the runs, each with its best path,
    the `keep` with the highest value, and of these the majority (rStar-Math, arXiv:2501.04519,
    section 4). Of equal majorities the one whose first path has the higher value wins."""
    ranked = sorted((run for run in runs if run.group is not None), key=lambda a: -_rank(a))[:keep]
    votes: dict[int, int] = {}
    for run in ranked:
        assert run.group is not None
        votes[run.group] = votes.get(run.group, 0) + 1
    if not votes:
        return 0.0
    leader = max(votes, key=lambda group: votes[group])
    return float(next(run.right for run in ranked if run.group == leader))


def over_choices(
    attempts: Sequence[Attempt],
    k: int,
    rule: Judge,
    *,
    exact_up_to: int = 5_000,
    draws: int = 2_000,
    seed: int = 0,
) -> float:
    """The mean of a rule, in [0, 1], over choices of k attempts in their order: over all of them
    where there are at most `exact_up_to`, else over `draws` random ones, the same for a seed."""
    n = len(attempts)
    _check(n, k)
    if comb(n, k) <= exact_up_to:
        return sum(rule(chosen) for chosen in combinations(attempts, k)) / comb(n, k)
    rng = random.Random(seed)
    total = 0.0
    for _ in range(draws):
        total += rule([attempts[i] for i in sorted(rng.sample(range(n), k))])
    return total / draws


def _any_right(attempts: Sequence[Attempt]) -> float:
    """Whether some attempt is right."""
    return float(any(attempt.right for attempt in attempts))


def _rank(attempt: Attempt) -> float:
    """By what `scorer_at_k` orders attempts."""
    if attempt.group is None:
        return -3.0
    return -2.0 if attempt.value is None else attempt.value


def _check(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ConfigError(f"k = {k} attempts cannot be taken out of {n}; give 1 to {n}.")
