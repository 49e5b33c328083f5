"""One pass over a tree: for each node the judged ends below it, and what its path is worth."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rstar_math.search.tree import Tree
from rstar_math.training.curation.records import Spot
from rstar_math.types import ExecutionStatus, Step, Verdict

OK = ExecutionStatus.OK


@dataclass(frozen=True, slots=True)
class End:
    """A judged end of a path."""

    ledger: "Ledger"
    node: int
    mean_q: float | None
    """Mean of the Q of the path's steps, in [-1, 1]; None where none has one."""
    min_q: float | None
    failed: bool
    """Whether the code of any of its steps failed."""

    @property
    def spot(self) -> Spot:
        """Where it is in the run."""
        return Spot(self.ledger.strategy, self.node)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The path."""
        return self.ledger.tree.prefix(self.node)

    @property
    def text(self) -> str:
        """What the model wrote along the path."""
        return "".join(f"{step.text}\0{step.kind}\0" for step in self.steps)


class Ledger:
    """The ends of one tree. Only an answer that the Verifier called right or wrong is one: a path
    that gave up, and an answer that it could not tell, prove nothing of the steps above."""

    def __init__(self, strategy: str, tree: Tree) -> None:
        self.strategy = strategy
        self.tree = tree
        size = len(tree.nodes)
        self.right = [0] * size
        """Right ends at or below each node."""
        self.wrong = [0] * size
        self.q: list[float | None] = [None] * size
        """Each node's mean backed-up value."""
        self.right_ends: list[End] = []
        self.wrong_ends: list[End] = []
        self.unjudged = 0
        """Answers that were not judged, or that the Verifier could not tell."""
        self.unanswered = 0
        """Paths that ended without an answer."""
        self._value_paths()
        self._count_below()

    def _value_paths(self) -> None:
        """Fill in `q` and the ends: parents come before their children."""
        nodes = self.tree.nodes
        total, known = [0.0] * len(nodes), [0] * len(nodes)
        least, failed = [2.0] * len(nodes), [False] * len(nodes)
        for index in range(1, len(nodes)):
            node = nodes[index]
            above, step = node.parent, node.step
            assert step is not None
            run = step.execution
            total[index], known[index], least[index] = total[above], known[above], least[above]
            failed[index] = failed[above] or (run is not None and run.status is not OK)
            if node.visits:
                q = self.q[index] = node.value_sum / node.visits
                total[index] += q
                known[index] += 1
                least[index] = min(q, least[index])
            if node.failure is not None:
                self.unanswered += 1
            elif step.answer is not None:
                count = known[index]
                mean, low = (total[index] / count, least[index]) if count else (None, None)
                self._end(End(self, index, mean, low, failed[index]), node.verdict)

    def _end(self, end: End, verdict: Verdict | None) -> None:
        if verdict is Verdict.RIGHT:
            self.right[end.node] = 1
            self.right_ends.append(end)
        elif verdict is Verdict.WRONG:
            self.wrong[end.node] = 1
            self.wrong_ends.append(end)
        else:
            self.unjudged += 1

    def _count_below(self) -> None:
        nodes, right, wrong = self.tree.nodes, self.right, self.wrong
        for index in range(len(nodes) - 1, 0, -1):
            above = nodes[index].parent
            right[above] += right[index]
            wrong[above] += wrong[index]

    def best_right(self) -> list[float]:
        """For each node the highest mean Q of its right completions, from the node's own step to
        the end; -2 where there is none."""
        best = [-2.0] * len(self.q)
        for end in self.right_ends:
            for node, mean in self._means(end.node):
                best[node] = max(best[node], mean)
        return best

    def worst_wrong(self) -> list[float]:
        """For each node the lowest mean Q of its wrong completions; 2 where there is none."""
        worst = [2.0] * len(self.q)
        for end in self.wrong_ends:
            for node, mean in self._means(end.node):
                worst[node] = min(worst[node], mean)
        return worst

    def _means(self, node: int) -> Iterator[tuple[int, float]]:
        """Each node of a path, end first, with the mean Q from it to the end."""
        total, known = 0.0, 0
        while node > 0:
            q = self.q[node]
            if q is not None:
                total, known = total + q, known + 1
            if known:
                yield node, total / known
            node = self.tree.nodes[node].parent


def best_first(ends: Iterable[End]) -> Iterator[End]:
    """Ends by mean Q, then by least Q, highest first; then by text, whatever order they came in.
    Those without a value come last."""
    return _ranked(ends, lambda end: (-_low(end.mean_q), -_low(end.min_q)))


def worst_first(ends: Iterable[End]) -> Iterator[End]:
    """Ends by mean Q, then by least Q, lowest first; then by text. Those without a value come
    last."""
    return _ranked(ends, lambda end: (_high(end.mean_q), _high(end.min_q)))


def _ranked(ends: Iterable[End], key: Callable[[End], Any]) -> Iterator[End]:
    """Ends in order; texts are made only for the ties that a caller gets to."""
    for _, ties in groupby(sorted(ends, key=key), key=key):
        tied = list(ties)
        yield from tied if len(tied) == 1 else sorted(tied, key=lambda end: end.text)


def _low(q: float | None) -> float:
    return -2.0 if q is None else q


def _high(q: float | None) -> float:
    return 2.0 if q is None else q
