"""A strategy's results as figures."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rstar_math.evaluation.spending import each
from rstar_math.evolution.store import Result
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
