"""Metrics of a strategy: accuracy, costs, pass@k, maj@k, scorer@k."""

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
    """The results of one strategy on a set of problems."""

    strategy: str
    problems: int
    graded: int
    """Number of problems with a reference answer."""
    right: int
    """Number of problems answered correctly."""
    unknown: int
    """Number of answers that the grader could not decide; they count as wrong."""
    unanswered: int
    """Number of problems without any answer."""
    cost: Cost
    """Sum over all problems."""
    failures: dict[str, int]
    """Number of paths without an answer, by reason."""
    mean_entropy: float = 0.0
    """Mean entropy of the votes over the answers, in nats; 0 if all votes of each problem agree."""

    @property
    def accuracy(self) -> float | None:
        """Share of graded problems answered correctly, in [0, 1]; None if no problem is graded."""
        return self.right / self.graded if self.graded else None

    @property
    def samples_lost(self) -> float | None:
        """Share of samples that were truncated or malformed, in [0, 1]; None without samples."""
        cost = self.cost
        return (cost.truncated + cost.malformed) / cost.samples if cost.samples else None

    def as_json(self) -> dict[str, Any]:
        """The summary as JSON, with the derived metrics and costs."""
        low, high = wilson(self.right, self.graded) if self.graded else (None, None)
        fields = asdict(self) | {"accuracy": self.accuracy, "interval_95": [low, high]}
        fields["cost"] = asdict(self.cost)
        fields["cost_per_problem"] = mean_cost(self.cost, self.problems)
        fields["cost_per_solved"] = mean_cost(self.cost, self.right)
        fields["samples_lost"] = self.samples_lost
        return fields


def summarize(strategy: str, results: Iterable[Result]) -> Summary:
    """The summary of a strategy's results."""
    costs: list[Cost] = []
    verdicts: list[Verdict | None] = []
    failures: dict[str, int] = {}
    unanswered, entropy = 0, 0.0
    for result in results:
        entropy += result.choice.entropy
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
        mean_entropy=entropy / max(1, len(costs)),
    )


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of right / n, in [0, 1] (Wilson 1927). z = 1.96 gives 95 %."""
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(
        1.0, (centre + spread) / (1 + z * z / n)
    )


REPORTED_COSTS = (
    "calls",
    "samples",
    "prompt_tokens",
    "cached_tokens",
    "sampled_tokens",
    "scorer_tokens",
    "code_runs",
    "seconds",
)
"""The cost fields that are reported as means."""


def mean_cost(cost: Cost, count: int) -> dict[str, float] | None:
    """The cost divided by `count`, by field; None if `count` is 0.

    Divided by the number of solved problems, it is the cost of a solution: it includes the cost of
    the unsolved problems.
    """
    if count == 0:
        return None
    fields = asdict(cost)
    return {name: fields[name] / count for name in REPORTED_COSTS}


AnswerRule = Callable[[Sequence["Attempt"]], float]
"""Attempts -> the probability, in [0, 1], that the answer chosen from them is right."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recorded attempt at a problem."""

    group: int | None
    """Class of equal answers; None without an answer."""
    right: bool = False
    value: float | None = None
    """The scorer's value of the whole path, in [-1, 1]."""


def pass_at_k(n: int, right: int, k: int) -> float:
    """The probability, in [0, 1], that at least one of k attempts is right, if `right` of n are.

    The unbiased estimator 1 - C(n - right, k) / C(n, k) (Chen et al., arXiv:2107.03374, section
    2.1). Raises `ConfigError` if k is not in 1..n.
    """
    _check_k(n, k)
    return 1 - comb(n - right, k) / comb(n, k)


def maj_at_k(attempts: Sequence[Attempt], k: int) -> float:
    """The probability, in [0, 1], that the majority vote of k attempts is right.

    Exact: counts all subsets of k attempts. If t answers tie, each wins with probability 1 / t. For
    each right answer and each number of its votes, the function counts the subsets in which no
    other answer has more votes.
    """
    n = len(attempts)
    _check_k(n, k)
    sizes: dict[int, int] = {}
    right: set[int] = set()
    for attempt in attempts:
        if attempt.group is not None:
            sizes[attempt.group] = sizes.get(attempt.group, 0) + 1
            if attempt.right:
                right.add(attempt.group)
    unanswered = n - sum(sizes.values())
    wins = 0.0
    for group in right:
        others = [size for other, size in sizes.items() if other != group]
        for votes in range(1, min(sizes[group], k) + 1):
            subsets = _count_subsets(others, unanswered, k - votes, votes)
            wins += comb(sizes[group], votes) * subsets
    return wins / comb(n, k)


def _count_subsets(sizes: Sequence[int], unanswered: int, k: int, max_votes: int) -> float:
    """The number of subsets of k attempts in which no answer has more than `max_votes` votes.

    `sizes` are the numbers of attempts with each answer. A subset in which t answers have exactly
    `max_votes` counts 1 / (t + 1).
    """
    counts: dict[tuple[int, int], int] = {(0, 0): 1}
    for size in sizes:
        extended: dict[tuple[int, int], int] = {}
        for (used, ties), count in counts.items():
            for votes in range(min(size, max_votes, k - used) + 1):
                key = used + votes, ties + (votes == max_votes)
                extended[key] = extended.get(key, 0) + count * comb(size, votes)
        counts = extended
    return sum(
        count * comb(unanswered, k - used) / (ties + 1) for (used, ties), count in counts.items()
    )


def scorer_at_k(attempts: Sequence[Attempt], k: int) -> float:
    """The probability, in [0, 1], that the highest-valued of k attempts is right (best of k).

    Exact. Ties share the win evenly. Attempts without a value rank below those with one, and
    attempts without an answer rank last.
    """
    n = len(attempts)
    _check_k(n, k)
    levels: dict[float, list[bool]] = {}
    for attempt in attempts:
        levels.setdefault(_rank(attempt), []).append(attempt.right)
    below, wins = 0, 0.0
    for level in sorted(levels):
        tied = levels[level]
        subsets = comb(below + len(tied), k) - comb(below, k)
        wins += subsets * sum(tied) / len(tied)
        below += len(tied)
    return wins / comb(n, k)


def weighted_vote(attempts: Sequence[Attempt]) -> float:
    """The probability, in [0, 1], that the answer with the highest sum of (1 + value) / 2 is right.

    Ties share the win evenly; a missing value counts as 0 (Li et al., arXiv:2206.02336).
    """
    votes: dict[int, float] = {}
    right: dict[int, bool] = {}
    for attempt in attempts:
        if attempt.group is not None:
            weight = (1 + (attempt.value or 0.0)) / 2
            votes[attempt.group] = votes.get(attempt.group, 0.0) + weight
            right[attempt.group] = attempt.right
    if not votes:
        return 0.0
    top = max(votes.values())
    leaders = [group for group, vote in votes.items() if vote >= top - 1e-9]
    return sum(right[group] for group in leaders) / len(leaders)


def rule_at_k(attempts: Sequence[Attempt], k: int, rule: AnswerRule, *, draws: int = 300) -> float:
    """The probability, in [0, 1], that a rule is right on k attempts.

    Exact if there are at most `draws` subsets of k attempts. Otherwise it is estimated from `draws`
    random subsets: pass@k times the rule's accuracy on subsets that contain a right attempt. The
    estimate therefore never exceeds pass@k.
    """
    n, right = len(attempts), sum(attempt.right for attempt in attempts)
    ceiling = pass_at_k(n, right, k)
    if not 0 < right < n:
        return ceiling
    if comb(n, k) <= draws:
        return mean_over_subsets(attempts, k, rule)
    accuracy = mean_over_subsets(attempts, k, rule, exact_up_to=0, draws=draws)
    reachable = mean_over_subsets(attempts, k, _any_right, exact_up_to=0, draws=draws)
    return ceiling * accuracy / reachable if reachable else 0.0


def top_of_runs(runs: Sequence[Attempt], keep: int = 4) -> float:
    """1.0 if the rule of rStar-Math chooses a right answer, else 0.0.

    Each run is represented by its best path. The rule takes the majority of the `keep` runs with
    the highest values (arXiv:2501.04519, section 4). If answers tie, the one whose best path has
    the highest value wins.
    """
    ranked = sorted((run for run in runs if run.group is not None), key=lambda a: -_rank(a))[:keep]
    votes: dict[int, int] = {}
    for run in ranked:
        assert run.group is not None
        votes[run.group] = votes.get(run.group, 0) + 1
    if not votes:
        return 0.0
    leader = max(votes, key=lambda group: votes[group])
    return float(next(run.right for run in ranked if run.group == leader))


def mean_over_subsets(
    attempts: Sequence[Attempt],
    k: int,
    rule: AnswerRule,
    *,
    exact_up_to: int = 5_000,
    draws: int = 2_000,
    seed: int = 0,
) -> float:
    """The mean of a rule, in [0, 1], over subsets of k attempts in order.

    Uses all subsets if there are at most `exact_up_to`, otherwise `draws` random ones. Equal seeds
    draw equal subsets.
    """
    n = len(attempts)
    _check_k(n, k)
    if comb(n, k) <= exact_up_to:
        return sum(rule(subset) for subset in combinations(attempts, k)) / comb(n, k)
    rng = random.Random(seed)
    total = 0.0
    for _ in range(draws):
        total += rule([attempts[i] for i in sorted(rng.sample(range(n), k))])
    return total / draws


def _any_right(attempts: Sequence[Attempt]) -> float:
    """1.0 if at least one attempt is right, else 0.0."""
    return float(any(attempt.right for attempt in attempts))


def _rank(attempt: Attempt) -> float:
    """The sort key of attempts: the value, or a lower number without a value or an answer."""
    if attempt.group is None:
        return -3.0
    return -2.0 if attempt.value is None else attempt.value


def _check_k(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ConfigError(f"k = {k} is out of range for {n} attempts; choose 1 to {n}.")
