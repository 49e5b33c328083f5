"""Preference pairs: next steps of one node, and whole solutions of one problem (rStar-Math,
arXiv:2501.04519, section 3.3); Q values of a tree's paths."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rstar_math.search.programs import normalized_program
from rstar_math.search.tree import ROOT, Tree
from rstar_math.training.curation.records import CurationConfig, SelectedPair, TreeNodeRef, count
from rstar_math.types import ExecutionStatus, Step, StepPair, Verdict


def edit_distance(one: str, other: str) -> int:
    """Fewest characters to insert, delete or replace to make one text the other.

    Bit-parallel (Myers, J. ACM 46, 1999, in Hyyro's form): one long addition a character.
    """
    if not one or not other:
        return len(one) + len(other)
    at: dict[str, int] = {}
    for place, char in enumerate(one):
        at[char] = at.get(char, 0) | 1 << place
    full = (1 << len(one)) - 1
    last = 1 << (len(one) - 1)
    up, down, distance = full, 0, len(one)
    for char in other:
        match = at.get(char, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        right_up = down | ~(diagonal | up) & full
        right_down = up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up = (right_up << 1 | 1) & full
        right_down = right_down << 1 & full
        up = right_down | ~(diagonal | right_up) & full
        down = right_up & diagonal
    return distance


OK = ExecutionStatus.OK


@dataclass(frozen=True, slots=True)
class JudgedPath:
    """A judged end of a path."""

    ledger: "TreeValues"
    node: int
    mean_q: float | None
    """Mean of the Q of the path's steps, in [-1, 1]; None where none has one."""
    min_q: float | None
    failed: bool
    """Whether the code of any of its steps failed."""

    @property
    def spot(self) -> TreeNodeRef:
        """Where it is in the run."""
        return TreeNodeRef(self.ledger.strategy, self.node)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The path."""
        return self.ledger.tree.prefix(self.node)

    @property
    def text(self) -> str:
        """What the model wrote along the path."""
        return "".join(f"{step.text}\0{step.kind}\0" for step in self.steps)


class TreeValues:
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
        self.right_ends: list[JudgedPath] = []
        self.wrong_ends: list[JudgedPath] = []
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
                self._end(JudgedPath(self, index, mean, low, failed[index]), node.verdict)

    def _end(self, end: JudgedPath, verdict: Verdict | None) -> None:
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


def best_first(ends: Iterable[JudgedPath]) -> Iterator[JudgedPath]:
    """Ends by mean Q, then by least Q, highest first; then by text, whatever order they came in.
    Those without a value come last."""
    return _ranked(ends, lambda end: (-_low(end.mean_q), -_low(end.min_q)))


def worst_first(ends: Iterable[JudgedPath]) -> Iterator[JudgedPath]:
    """Ends by mean Q, then by least Q, lowest first; then by text. Those without a value come
    last."""
    return _ranked(ends, lambda end: (_high(end.mean_q), _high(end.min_q)))


def _ranked(ends: Iterable[JudgedPath], key: Callable[[JudgedPath], Any]) -> Iterator[JudgedPath]:
    """Ends in order; texts are made only for the ties that a caller gets to."""
    for _, ties in groupby(sorted(ends, key=key), key=key):
        tied = list(ties)
        yield from tied if len(tied) == 1 else sorted(tied, key=lambda end: end.text)


def _low(q: float | None) -> float:
    return -2.0 if q is None else q


def _high(q: float | None) -> float:
    return 2.0 if q is None else q


Rejects = Callable[[int, int], str | None]
"""Why a preferred and another child make no pair; None if they do."""


def step_pairs(
    ledger: TreeValues, config: CurationConfig, counts: dict[str, int]
) -> list[SelectedPair]:
    """The pairs of sibling steps of one tree, nodes breadth-first.

    At each node, of the children with a right end below those of the highest Q are preferred to
    those of the lowest Q with a wrong end below; ties go by text. A child that has both may be on
    either side. What the selection brought is added to `counts` by what became of it.
    """
    rejects = _rules(ledger, config)
    found: list[SelectedPair] = []
    for node in _visited(ledger, config):
        good, bad = _sides(ledger, node, config)
        kept: list[tuple[int, int]] = []
        for chosen in good:
            for rejected in bad:
                if chosen == rejected:
                    continue
                reason = rejects(chosen, rejected)
                count(counts, reason or "kept")
                if reason is None:
                    kept.append((chosen, rejected))
        found.extend(_step_pair(ledger, node, pair, 1 / len(kept)) for pair in kept)
    return found


def final_pairs(
    ledgers: Sequence[TreeValues], config: CurationConfig, counts: dict[str, int]
) -> list[SelectedPair]:
    """The pairs of whole solutions of one problem, all its trees together: right ones of the
    highest mean Q, without failed code, against wrong ones of the lowest.

    The verdicts order the sides, so a wrong solution may have the higher mean Q.
    """
    right = (end for ledger in ledgers for end in ledger.right_ends)
    wrong = (end for ledger in ledgers for end in ledger.wrong_ends)
    good = _different(best_first(end for end in right if not end.failed), config.final_pairs)
    bad = _different(worst_first(wrong), config.final_pairs)
    pairs = [(one, other) for one in good for other in bad if one.text != other.text]
    count(counts, "kept", len(pairs))
    count(counts, "same text on both sides", len(good) * len(bad) - len(pairs))
    return [_final_pair(one, other, 1 / len(pairs)) for one, other in pairs]


def _visited(ledger: TreeValues, config: CurationConfig) -> Iterator[int]:
    """Nodes with right and wrong ends below them, breadth-first: all, or those of the path that
    always goes on to the most visited of them."""
    nodes, right, wrong = ledger.tree.nodes, ledger.right, ledger.wrong
    layer = [ROOT] if right[ROOT] and wrong[ROOT] else []
    while layer:
        yield from layer
        below = [
            child
            for node in layer
            for child in nodes[node].children
            if right[child] and wrong[child]
        ]
        if config.nodes == "most-visited" and below:
            below = [min(below, key=lambda child: (-nodes[child].visits, _text(ledger, child)))]
        layer = below


def _sides(ledger: TreeValues, node: int, config: CurationConfig) -> tuple[list[int], list[int]]:
    """The children of a node that are to be paired: preferred ones, and others."""
    q, right, wrong = ledger.q, ledger.right, ledger.wrong
    children = [child for child in ledger.tree.nodes[node].children if q[child] is not None]
    if len(children) < 2:
        return [], []

    def ordered(sign: int, among: list[int]) -> list[int]:
        return sorted(
            (child for child in children if among[child]),
            key=lambda child: (sign * (q[child] or 0.0), _text(ledger, child)),
        )

    good, bad = ordered(-1, right), ordered(1, wrong)
    if len(good) == 1:
        return good, [child for child in bad if child != good[0]][: config.max_when_single]
    if len(bad) == 1:
        return [child for child in good if child != bad[0]][: config.max_when_single], bad
    return good[: config.positives], bad[: config.negatives]


def _rules(ledger: TreeValues, config: CurationConfig) -> Rejects:
    """The conditions on a pair of children."""
    best = ledger.best_right() if config.require_better_completion else []
    worst = ledger.worst_wrong() if config.require_better_completion else []

    def rejects(chosen: int, rejected: int) -> str | None:
        one, other = _text(ledger, chosen), _text(ledger, rejected)
        difference = (ledger.q[chosen] or 0.0) - (ledger.q[rejected] or 0.0)
        if one.split() == other.split():
            return "same text on both sides"
        if difference <= 0:
            return "Q not higher"
        if difference < config.min_q_gap:
            return "Q margin too small"
        if config.min_edit_distance and edit_distance(one, other) < config.min_edit_distance:
            return "texts too much alike"
        if not config.allow_rewordings and _same_program(ledger, chosen, rejected):
            return "same program on both sides"
        if config.require_better_completion and best[chosen] <= worst[rejected]:
            return "completions not better"
        return None

    return rejects


def _same_program(ledger: TreeValues, one: int, other: int) -> bool:
    steps = _step(ledger, one), _step(ledger, other)
    forms = {normalized_program([step]) for step in steps if step.code.strip()}
    return all(step.code.strip() for step in steps) and len(forms) == 1


def _step_pair(ledger: TreeValues, node: int, pair: tuple[int, int], weight: float) -> SelectedPair:
    tree, (chosen, rejected) = ledger.tree, pair
    return SelectedPair(
        pair=StepPair(
            question=tree.question,
            prefix=tree.prefix(node),
            chosen=(_step(ledger, chosen),),
            rejected=(_step(ledger, rejected),),
            q_chosen=ledger.q[chosen] or 0.0,
            q_rejected=ledger.q[rejected] or 0.0,
            weight=weight,
        ),
        kind="step",
        chosen=TreeNodeRef(ledger.strategy, chosen),
        rejected=TreeNodeRef(ledger.strategy, rejected),
        node=node,
        depth=tree.nodes[node].depth,
    )


def _final_pair(one: JudgedPath, other: JudgedPath, weight: float) -> SelectedPair:
    assert one.mean_q is not None
    assert other.mean_q is not None
    return SelectedPair(
        pair=StepPair(
            question=one.ledger.tree.question,
            prefix=(),
            chosen=one.steps,
            rejected=other.steps,
            q_chosen=one.mean_q,
            q_rejected=other.mean_q,
            weight=weight,
        ),
        kind="final",
        chosen=one.spot,
        rejected=other.spot,
        node=ROOT,
        depth=0,
    )


def _different(ends: Iterable[JudgedPath], most: int) -> list[JudgedPath]:
    """The first ends whose texts differ and that have a value."""
    found: dict[str, JudgedPath] = {}
    for end in ends:
        if len(found) == most:
            break
        if end.mean_q is not None:
            found.setdefault(end.text, end)
    return list(found.values())


def _step(ledger: TreeValues, node: int) -> Step:
    step = ledger.tree.nodes[node].step
    assert step is not None
    return step


def _text(ledger: TreeValues, node: int) -> str:
    return _step(ledger, node).text
