"""Compares answer selection by a scorer with majority voting, and rates the difficulty of problems.

Both selections use the same samples, so the policy's budget is equal by construction. The tokens
that the scorer reads are an additional cost and are counted.
"""

from collections.abc import AsyncIterable
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from rstar_math.errors import InputError
from rstar_math.evaluation.statistics import Comparison, bootstrap, compare
from rstar_math.protocols import QuestionGrouper, Scorer, Verifier
from rstar_math.search.tree import Tree
from rstar_math.search.voting import best, majority, path_probabilities, votes_of, weighted
from rstar_math.text import count_noun
from rstar_math.training.batches import ranking_accuracy
from rstar_math.types import Verdict

UNSOLVED = "unsolved"
THRESHOLDS = ((0.75, "easy"), (0.25, "medium"), (0.0, "hard"))
"""Minimum success rates in [0, 1] and their labels, in descending order. These limits are our own
choice. A rate of 0 is "unsolved"."""


def success_rate(tree: Tree) -> float | None:
    """The probability, in [0, 1], that a finished path of the policy has a right answer.

    Paths are weighted by `search.voting.path_probabilities`, so the rate does not depend on how
    often the search visited a branch. For chains it is the share of right chains. Requires a tree
    that was searched with a Verifier. None if no path has finished.
    """
    right = finished = 0.0
    for node, probability in zip(tree.nodes, path_probabilities(tree), strict=True):
        if not node.answered and node.failure is None:
            continue
        finished += probability
        if node.answered and node.verdict is Verdict.RIGHT:
            right += probability
    return min(1.0, right / finished) if finished else None


def difficulty(rate: float) -> str:
    """The label of the highest threshold that a success rate reaches; "unsolved" for 0."""
    if rate > 0.0:
        for threshold, label in THRESHOLDS:
            if rate >= threshold:
                return label
    return UNSOLVED


VALUE_RULES = {"best of N": best, "weighted vote": weighted}
"""The answer rules that use a scorer's values."""


@dataclass(slots=True)
class RerankComparison:
    """The results of majority voting and of each value rule, one entry per problem."""

    voted: list[bool] = field(default_factory=list)
    """Whether the majority answer is right."""
    by_value: dict[str, list[bool]] = field(
        default_factory=lambda: {name: [] for name in VALUE_RULES}
    )
    """Whether the answer of each value rule is right."""
    reachable: list[bool] = field(default_factory=list)
    """Whether any sample is right: the upper bound of every rule."""
    single: list[float] = field(default_factory=list)
    """Share of right samples, in [0, 1]: the expected accuracy of a random sample."""
    ranked: list[float] = field(default_factory=list)
    """Ranking accuracy of each problem that has right and wrong samples, in [0, 1]: the share of
    pairs in which the right sample has the higher value. A tie counts half."""
    samples: int = 0
    sampled_tokens: int = 0

    def comparisons(self) -> dict[str, Comparison]:
        """The comparison of majority voting (first) with each value rule (second).

        Raises `InputError` if there are no problems.
        """
        if not self.voted:
            raise InputError(
                "No problem with samples has a reference answer, so answers cannot be graded; "
                "sample solutions of problems with references."
            )
        return {name: compare(self.voted, right) for name, right in self.by_value.items()}

    def intervals(self) -> dict[str, dict[str, Any]]:
        """The accuracy of majority voting and of each value rule, and the ranking accuracy, with
        their bootstrap intervals over problems at 90 and 95 %."""
        rows: dict[str, list[float]] = {
            "majority": [*map(float, self.voted)],
            **{name: [*map(float, right)] for name, right in self.by_value.items()},
            "right above wrong": self.ranked,
        }
        return {
            name: {
                "value": sum(values) / len(values),
                "interval_90": bootstrap(values, level=0.90),
                "interval_95": bootstrap(values, level=0.95),
            }
            for name, values in rows.items()
            if values
        }

    def as_json(self) -> dict[str, Any]:
        """The results as JSON, with a conclusion in words for each comparison."""
        comparisons = self.comparisons()
        return {
            "problems": len(self.voted),
            "samples": self.samples,
            "sampled_tokens": self.sampled_tokens,
            "single": sum(self.single) / len(self.voted),
            "majority": sum(self.voted) / len(self.voted),
            "any_right": sum(self.reachable) / len(self.voted),
            "right_above_wrong": sum(self.ranked) / len(self.ranked) if self.ranked else None,
            "problems_with_both": len(self.ranked),
            "intervals": self.intervals(),
            "against_majority": {
                name: {
                    **asdict(comparison),
                    "difference": comparison.difference,
                    "sentence": conclusion(name, comparison),
                }
                for name, comparison in comparisons.items()
            },
        }


async def rerank_samples(
    searched: AsyncIterable[tuple[Tree, Verifier]], scorer: Scorer, grouper: QuestionGrouper
) -> RerankComparison:
    """The comparison of majority voting and value rules on the same samples.

    `searched` yields trees with the verifiers of their problems. No rule has access to a verdict. A
    problem without any answer counts as wrong for every rule. Raises the errors of the scorer, the
    verifiers and the grouper.
    """
    comparison = RerankComparison()
    async for tree, verifier in searched:
        votes, group = votes_of(tree), grouper(tree.question)
        values = await scorer.score(tree.question, [tree.prefix(vote.node) for vote in votes])
        valued = [replace(vote, value=value) for vote, value in zip(votes, values, strict=True)]
        verdicts = {vote.answer: await verifier.judge(vote.answer) for vote in votes}
        right = {answer for answer, verdict in verdicts.items() if verdict is Verdict.RIGHT}
        comparison.voted.append((await majority(votes, group)).answer in right)
        for name, rule in VALUE_RULES.items():
            comparison.by_value[name].append((await rule(valued, group)).answer in right)
        comparison.reachable.append(bool(right))
        right_values = [vote.value or 0.0 for vote in valued if vote.answer in right]
        wrong_values = [vote.value or 0.0 for vote in valued if vote.answer not in right]
        comparison.single.append(len(right_values) / max(1, len(votes)))
        accuracy = ranking_accuracy([*product(right_values, wrong_values)])
        if accuracy is not None:
            comparison.ranked.append(accuracy)
        comparison.samples += len(votes)
        comparison.sampled_tokens += tree.cost.sampled_tokens
    return comparison


def conclusion(name: str, comparison: Comparison) -> str:
    """The conclusion from a comparison with majority voting (McNemar's test at the 5 % level)."""
    low, high = comparison.interval or (-1.0, 1.0)
    details = (
        f"{100 * comparison.difference:+.1f} points, 95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}, p = {comparison.p:.3g}, {count_noun(comparison.problems, 'problem')}"
    )
    if comparison.p < 0.05 and comparison.difference > 0:
        return f"Selection by {name} beats majority voting on the same samples ({details})."
    if comparison.p < 0.05:
        return (
            f"Selection by {name} is worse than majority voting on the same samples ({details}). "
            "Do not select answers of this policy with this model."
        )
    limit = "any difference"
    if comparison.detectable is not None:
        limit = f"a difference below {100 * comparison.detectable:.1f} points"
    return (
        f"There is no evidence that selection by {name} beats majority voting on the same samples "
        f"({details}). This number of problems cannot show {limit}. Keep majority voting, or test "
        "on more problems."
    )
