"""Whether a scorer chooses better answers than a vote, on the same samples; and how difficult
problems are for a policy.

Both sides have the very same samples, so the policy's budget is equal by construction; what the
scorer reads comes on top and is counted.
"""

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from rstar_math.errors import InputError
from rstar_math.evaluation.metrics import wilson
from rstar_math.evaluation.statistics import Comparison, compare
from rstar_math.protocols import AnswerGrouper, Scorer, Verifier
from rstar_math.search.tree import Tree
from rstar_math.search.voting import best, majority, path_probabilities, votes_of, weighted
from rstar_math.training.batches import ranking_accuracy
from rstar_math.types import Verdict

UNSOLVED = "unsolved"
Thresholds = Sequence[tuple[float, str]]
"""Least success rates, each in [0, 1], and the labels of the problems that reach them."""
THRESHOLDS: Thresholds = ((0.75, "easy"), (0.25, "medium"), (0.0, "hard"))
"""Our choice; a rate of 0 is "unsolved" whatever the thresholds."""


@dataclass(frozen=True, slots=True)
class Success:
    """How often a model came to the right answer of one problem."""

    problem: str
    """The problem's id."""
    rate: float
    """Share of right ends, in [0, 1]."""
    n: int
    """Ends that it was reckoned from, at least 1."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the rate, in [0, 1]. For a tree it is a rough one: its ends
        are not independent."""
        return wilson(round(self.rate * self.n), self.n)


def of_chains(problem: str, verdicts: Sequence[Verdict | None]) -> Success | None:
    """The success of independent samples; None stands for a chain without an answer, which is not
    right, as one that the grader could not decide. None where nothing was sampled."""
    if not verdicts:
        return None
    right = sum(verdict is Verdict.RIGHT for verdict in verdicts)
    return Success(problem, right / len(verdicts), len(verdicts))


def of_tree(tree: Tree, verdicts: Mapping[str, Verdict] | None = None) -> Success | None:
    """The success of what a tree holds: the probability that the policy writes a path to a right
    answer, among the paths that came to an end. For chains it is their share.

    Paths weigh as in `search.voting.path_probabilities`, so that a branch does not count by how
    often the search went there. `verdicts` by answer are for trees that were searched without a
    Verifier. None where no path has ended.
    """
    right = ended = 0.0
    n = 0
    for node, mass in zip(tree.nodes, path_probabilities(tree), strict=True):
        if not node.answered and node.failure is None:
            continue
        n += node.count
        ended += mass
        verdict = node.verdict
        if verdict is None and node.answered and node.step is not None:
            verdict = (verdicts or {}).get(node.step.answer or "")
        if node.answered and verdict is Verdict.RIGHT:
            right += mass
    return Success(tree.question.id, min(1.0, right / ended), n) if ended else None


def label(rate: float, thresholds: Thresholds = THRESHOLDS) -> str:
    """The label of the highest threshold that a success rate reaches; "unsolved" for 0 and for a
    rate below all."""
    if rate > 0.0:
        for least, name in sorted(thresholds, reverse=True):
            if rate >= least:
                return name
    return UNSOLVED


def by_label(
    successes: Iterable[Success], thresholds: Thresholds = THRESHOLDS
) -> dict[str, list[Success]]:
    """The successes by label, the easiest first, "unsolved" last; every label is there."""
    names = [name for _, name in sorted(thresholds, reverse=True)]
    found: dict[str, list[Success]] = {name: [] for name in (*names, UNSOLVED)}
    for success in successes:
        found[label(success.rate, thresholds)].append(success)
    return found


RULES = {"best of N": best, "weighted vote": weighted}
"""The ways to choose by value."""


@dataclass(slots=True)
class RerankComparison:
    """What each way to choose came to, problem by problem."""

    voted: list[bool] = field(default_factory=list)
    """Whether the majority was right."""
    by_value: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in RULES})
    reachable: list[bool] = field(default_factory=list)
    """Whether any sample was right: the ceiling of every way to choose."""
    single: list[float] = field(default_factory=list)
    """Share of the samples that are right, in [0, 1]: what choosing blindly comes to."""
    ranked: list[float] = field(default_factory=list)
    """Of each problem that has right and wrong samples: share of the pairs of one and the other of
    which the right one has the higher value, in [0, 1]; a tie counts half."""
    samples: int = 0
    sampled_tokens: int = 0

    def comparisons(self) -> dict[str, Comparison]:
        """The majority (first) and each way to choose by value (second). Raises `InputError` where
        there are no problems."""
        if not self.voted:
            raise InputError(
                "No problem with samples has a reference, so nothing says which answers are right; "
                "sample solutions of problems that have references."
            )
        return {name: compare(self.voted, hits) for name, hits in self.by_value.items()}

    def as_json(self) -> dict[str, Any]:
        """The figures under plain names, with a sentence for each comparison."""
        found = self.comparisons()
        return {
            "problems": len(self.voted),
            "samples": self.samples,
            "sampled_tokens": self.sampled_tokens,
            "single": sum(self.single) / len(self.voted),
            "majority": sum(self.voted) / len(self.voted),
            "any_right": sum(self.reachable) / len(self.voted),
            "right_above_wrong": sum(self.ranked) / len(self.ranked) if self.ranked else None,
            "problems_with_both": len(self.ranked),
            "against_majority": {
                name: {**asdict(one), "difference": one.difference, "sentence": sentence(name, one)}
                for name, one in found.items()
            },
        }


async def rerank_samples(
    searched: AsyncIterable[tuple[Tree, Verifier]], scorer: Scorer, group: AnswerGrouper
) -> RerankComparison:
    """What the rules choose on some trees, each with the judge of its answers. No rule sees a
    judgement. On a problem without any answer all are wrong.

    Raises what the scorer, the judges and `group` raise.
    """
    found = RerankComparison()
    async for tree, judge in searched:
        cast = votes_of(tree)
        values = await scorer.score(tree.question, [tree.prefix(one.node) for one in cast])
        valued = [replace(one, value=v) for one, v in zip(cast, values, strict=True)]
        verdicts = {one.answer: await judge.judge(one.answer) for one in cast}

        def right(answer: str | None, said: dict[str, Verdict] = verdicts) -> bool:
            return answer is not None and said[answer] is Verdict.RIGHT

        found.voted.append(right((await majority(cast, group)).answer))
        for name, rule in RULES.items():
            found.by_value[name].append(right((await rule(valued, group)).answer))
        found.reachable.append(Verdict.RIGHT in verdicts.values())
        good = [one.value or 0.0 for one in valued if right(one.answer)]
        bad = [one.value or 0.0 for one in valued if not right(one.answer)]
        found.single.append(len(good) / max(1, len(cast)))
        if (share := ranking_accuracy([*product(good, bad)])) is not None:
            found.ranked.append(share)
        found.samples += len(cast)
        found.sampled_tokens += tree.cost.sampled_tokens
    return found


def sentence(name: str, found: Comparison) -> str:
    """What a comparison with the majority means for a user; the test is McNemar's at 5 %."""
    low, high = found.interval or (-1.0, 1.0)
    figures = (
        f"{100 * found.difference:+.1f} points, 95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}, p = {found.p:.3g}, {found.problems} problems"
    )
    if found.p < 0.05 and found.difference > 0:
        return f"Choosing by {name} beats majority voting on the same samples ({figures})."
    if found.p < 0.05:
        return (
            f"Choosing by {name} is worse than majority voting on the same samples ({figures}): do "
            "not choose answers of this policy by this model."
        )
    shown = "any difference"
    if found.detectable is not None:
        shown = f"less than {100 * found.detectable:.1f} points"
    return (
        f"It is not shown that choosing by {name} beats majority voting on the same samples "
        f"({figures}); so many problems cannot show {shown}. Keep voting, or test on more."
    )
