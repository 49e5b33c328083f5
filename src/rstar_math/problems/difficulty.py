"""How hard problems are for a model: the share of right ends among what it sampled. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rstar_math.evaluation.metrics import wilson
from rstar_math.search.answers import masses
from rstar_math.search.tree import Tree
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

    Paths weigh as in `search.answers.masses`, so that a branch does not count by how often the
    search went there. `verdicts` by answer are for trees that were searched without a Verifier.
    None where no path has ended.
    """
    right = ended = 0.0
    n = 0
    for node, mass in zip(tree.nodes, masses(tree), strict=True):
        if not node.answered and node.failure is None:
            continue
        n += node.copies
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
