"""Preference pairs of sibling steps and of whole solutions (rStar-Math, arXiv:2501.04519, section
3.3), and the Q values of a tree's paths."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rstar_math.search.equivalence import normalized_program
from rstar_math.search.tree import ROOT, Tree
from rstar_math.training.curation.edit_distance import edit_distance
from rstar_math.training.curation.records import (
    CurationConfig,
    SelectedPair,
    TreeNodeRef,
    add_count,
)
from rstar_math.types import ExecutionStatus, Step, StepPair, Verdict


@dataclass(frozen=True, slots=True)
class JudgedPath:
    """A path from the root to an answer that the Verifier judged."""

    tree_values: "TreeValues"
    node: int
    """Index of the path's last node."""
    mean_q: float | None
    """Mean Q of the path's steps, in [-1, 1]; None if no step has a Q."""
    min_q: float | None
    """Lowest Q of the path's steps, in [-1, 1]; None if no step has a Q."""
    failed: bool
    """Whether the code of any step failed."""

    @property
    def last_node(self) -> TreeNodeRef:
        """The path's last node, as a reference into the run."""
        return TreeNodeRef(self.tree_values.strategy, self.node)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the path."""
        return self.tree_values.tree.prefix(self.node)

    @property
    def text(self) -> str:
        """The text that the model wrote along the path, as a key for comparing and sorting."""
        return "".join(f"{step.text}\0{step.kind}\0" for step in self.steps)


class TreeValues:
    """Judged paths and Q values of one tree.

    Only answers with the verdict right or wrong count. A path without an answer, or with an answer
    that the Verifier could not decide, proves nothing about its steps.
    """

    def __init__(self, strategy: str, tree: Tree) -> None:
        self.strategy = strategy
        self.tree = tree
        size = len(tree.nodes)
        self.right_counts = [0] * size
        """Per node: the number of right paths that end at or below it."""
        self.wrong_counts = [0] * size
        """Per node: the number of wrong paths that end at or below it."""
        self.q: list[float | None] = [None] * size
        """Per node: the mean backed-up value, in [-1, 1]; None without visits."""
        self.right_paths: list[JudgedPath] = []
        self.wrong_paths: list[JudgedPath] = []
        self.unjudged = 0
        """Number of answers without a verdict, or with the verdict unknown."""
        self.unanswered = 0
        """Number of paths that ended without an answer."""
        self._collect_paths()
        self._sum_counts()

    def _collect_paths(self) -> None:
        """Fill in `q` and the judged paths. Relies on parents coming before their children."""
        nodes = self.tree.nodes
        total, known = [0.0] * len(nodes), [0] * len(nodes)
        lowest, failed = [2.0] * len(nodes), [False] * len(nodes)
        for index in range(1, len(nodes)):
            node = nodes[index]
            parent, step = node.parent, node.step
            assert step is not None
            run = step.execution
            total[index], known[index], lowest[index] = total[parent], known[parent], lowest[parent]
            failed[index] = failed[parent] or (
                run is not None and run.status is not ExecutionStatus.OK
            )
            if node.visits:
                q = self.q[index] = node.value_sum / node.visits
                total[index] += q
                known[index] += 1
                lowest[index] = min(q, lowest[index])
            if node.failure is not None:
                self.unanswered += 1
            elif step.answer is not None:
                count = known[index]
                mean, low = (total[index] / count, lowest[index]) if count else (None, None)
                self._add_path(JudgedPath(self, index, mean, low, failed[index]), node.verdict)

    def _add_path(self, path: JudgedPath, verdict: Verdict | None) -> None:
        if verdict is Verdict.RIGHT:
            self.right_counts[path.node] = 1
            self.right_paths.append(path)
        elif verdict is Verdict.WRONG:
            self.wrong_counts[path.node] = 1
            self.wrong_paths.append(path)
        else:
            self.unjudged += 1

    def _sum_counts(self) -> None:
        """Add the counts of every node to its parent, children first."""
        nodes, right, wrong = self.tree.nodes, self.right_counts, self.wrong_counts
        for index in range(len(nodes) - 1, 0, -1):
            parent = nodes[index].parent
            right[parent] += right[index]
            wrong[parent] += wrong[index]

    def best_right(self) -> list[float]:
        """Per node: the highest mean Q of its right completions, from the node's own step to the
        answer; -2 without one."""
        best = [-2.0] * len(self.q)
        for path in self.right_paths:
            for node, mean in self._completion_means(path.node):
                best[node] = max(best[node], mean)
        return best

    def worst_wrong(self) -> list[float]:
        """Per node: the lowest mean Q of its wrong completions, from the node's own step to the
        answer; 2 without one."""
        worst = [2.0] * len(self.q)
        for path in self.wrong_paths:
            for node, mean in self._completion_means(path.node):
                worst[node] = min(worst[node], mean)
        return worst

    def _completion_means(self, node: int) -> Iterator[tuple[int, float]]:
        """Nodes of the path to `node`, last first, each with the mean Q from it to the end."""
        total, known = 0.0, 0
        while node > 0:
            q = self.q[node]
            if q is not None:
                total, known = total + q, known + 1
            if known:
                yield node, total / known
            node = self.tree.nodes[node].parent


def highest_q_first(paths: Iterable[JudgedPath]) -> Iterator[JudgedPath]:
    """Paths by mean Q, then by lowest Q, highest first.

    Text breaks ties, so the input order does not matter. Paths without a Q come last.
    """
    return _sorted_paths(paths, lambda path: (-_q_or(path.mean_q, -2), -_q_or(path.min_q, -2)))


def lowest_q_first(paths: Iterable[JudgedPath]) -> Iterator[JudgedPath]:
    """Paths by mean Q, then by lowest Q, lowest first.

    Text breaks ties, so the input order does not matter. Paths without a Q come last.
    """
    return _sorted_paths(paths, lambda path: (_q_or(path.mean_q, 2), _q_or(path.min_q, 2)))


def _sorted_paths(
    paths: Iterable[JudgedPath], key: Callable[[JudgedPath], Any]
) -> Iterator[JudgedPath]:
    """Paths by a key, then by text. Texts are built only for ties that the caller reaches."""
    for _, group in groupby(sorted(paths, key=key), key=key):
        tied = list(group)
        yield from tied if len(tied) == 1 else sorted(tied, key=lambda path: path.text)


def _q_or(q: float | None, default: float) -> float:
    return default if q is None else q


RejectionRule = Callable[[int, int], str | None]
"""Returns why a chosen and a rejected child form no pair; None if they form one."""


def step_pairs(
    values: TreeValues, config: CurationConfig, counts: dict[str, int]
) -> list[SelectedPair]:
    """Preference pairs of sibling steps in one tree, nodes in breadth-first order.

    At each node, the highest-Q children that lead to a right answer are preferred to the lowest-Q
    children that lead to a wrong one. Text breaks ties. A child that leads to both may be on either
    side. Every candidate pair is added to `counts`, as kept or by the reason for its rejection.
    """
    rejection_reason = _rejection_rule(values, config)
    pairs: list[SelectedPair] = []
    for node in _nodes_to_compare(values, config):
        preferred, others = _children_to_pair(values, node, config)
        kept: list[tuple[int, int]] = []
        for chosen in preferred:
            for rejected in others:
                if chosen == rejected:
                    continue
                reason = rejection_reason(chosen, rejected)
                add_count(counts, reason or "kept")
                if reason is None:
                    kept.append((chosen, rejected))
        pairs.extend(_step_pair(values, node, pair, 1 / len(kept)) for pair in kept)
    return pairs


def final_pairs(
    trees: Sequence[TreeValues], config: CurationConfig, counts: dict[str, int]
) -> list[SelectedPair]:
    """Preference pairs of whole solutions of one problem, over all its trees.

    Right solutions of the highest mean Q, without failed code, are preferred to wrong ones of the
    lowest. Verdicts decide the sides, so a wrong solution may have the higher mean Q.
    """
    right = (path for values in trees for path in values.right_paths if not path.failed)
    wrong = (path for values in trees for path in values.wrong_paths)
    preferred = _first_distinct(highest_q_first(right), config.final_pairs)
    others = _first_distinct(lowest_q_first(wrong), config.final_pairs)
    pairs = [
        (chosen, rejected)
        for chosen in preferred
        for rejected in others
        if chosen.text != rejected.text
    ]
    add_count(counts, "kept", len(pairs))
    add_count(counts, "same text on both sides", len(preferred) * len(others) - len(pairs))
    return [_final_pair(chosen, rejected, 1 / len(pairs)) for chosen, rejected in pairs]


def _nodes_to_compare(values: TreeValues, config: CurationConfig) -> Iterator[int]:
    """Nodes that lead to right and wrong answers, in breadth-first order.

    With `config.nodes` "most-visited", only the path that follows the most visited of them.
    """
    nodes, right, wrong = values.tree.nodes, values.right_counts, values.wrong_counts
    layer = [ROOT] if right[ROOT] and wrong[ROOT] else []
    while layer:
        yield from layer
        next_layer = [
            child
            for node in layer
            for child in nodes[node].children
            if right[child] and wrong[child]
        ]
        if config.nodes == "most-visited" and next_layer:
            next_layer = [
                min(next_layer, key=lambda child: (-nodes[child].visits, _text(values, child)))
            ]
        layer = next_layer


def _children_to_pair(
    values: TreeValues, node: int, config: CurationConfig
) -> tuple[list[int], list[int]]:
    """The preferred and the rejected children of a node, by the 2-against-2 and the 1-against-4
    rule."""
    q, right, wrong = values.q, values.right_counts, values.wrong_counts
    children = [child for child in values.tree.nodes[node].children if q[child] is not None]
    if len(children) < 2:
        return [], []

    def by_q(sign: int, counts: list[int]) -> list[int]:
        return sorted(
            (child for child in children if counts[child]),
            key=lambda child: (sign * (q[child] or 0.0), _text(values, child)),
        )

    preferred, others = by_q(-1, right), by_q(1, wrong)
    if len(preferred) == 1:
        others = [child for child in others if child != preferred[0]]
        return preferred, others[: config.max_when_single]
    if len(others) == 1:
        preferred = [child for child in preferred if child != others[0]]
        return preferred[: config.max_when_single], others
    return preferred[: config.positives], others[: config.negatives]


def _rejection_rule(values: TreeValues, config: CurationConfig) -> RejectionRule:
    """The filters on candidate step pairs."""
    best = values.best_right() if config.require_better_completion else []
    worst = values.worst_wrong() if config.require_better_completion else []

    def rejection_reason(chosen: int, rejected: int) -> str | None:
        chosen_text, rejected_text = _text(values, chosen), _text(values, rejected)
        difference = (values.q[chosen] or 0.0) - (values.q[rejected] or 0.0)
        min_distance = config.min_edit_distance
        if chosen_text.split() == rejected_text.split():
            return "same text on both sides"
        if difference <= 0:
            return "Q not higher"
        if difference < config.min_q_gap:
            return "Q margin too small"
        if min_distance and edit_distance(chosen_text, rejected_text) < min_distance:
            return "texts too much alike"
        if not config.allow_rewordings and _same_program(values, chosen, rejected):
            return "same program on both sides"
        if config.require_better_completion and best[chosen] <= worst[rejected]:
            return "completions not better"
        return None

    return rejection_reason


def _same_program(values: TreeValues, first: int, second: int) -> bool:
    """Whether two nodes both have code and run the same program."""
    steps = _step(values, first), _step(values, second)
    programs = {normalized_program([step]) for step in steps if step.code.strip()}
    return all(step.code.strip() for step in steps) and len(programs) == 1


def _step_pair(values: TreeValues, node: int, pair: tuple[int, int], weight: float) -> SelectedPair:
    tree, (chosen, rejected) = values.tree, pair
    return SelectedPair(
        pair=StepPair(
            question=tree.question,
            prefix=tree.prefix(node),
            chosen=(_step(values, chosen),),
            rejected=(_step(values, rejected),),
            q_chosen=values.q[chosen] or 0.0,
            q_rejected=values.q[rejected] or 0.0,
            weight=weight,
        ),
        kind="step",
        chosen=TreeNodeRef(values.strategy, chosen),
        rejected=TreeNodeRef(values.strategy, rejected),
        node=node,
        depth=tree.nodes[node].depth,
    )


def _final_pair(chosen: JudgedPath, rejected: JudgedPath, weight: float) -> SelectedPair:
    assert chosen.mean_q is not None
    assert rejected.mean_q is not None
    return SelectedPair(
        pair=StepPair(
            question=chosen.tree_values.tree.question,
            prefix=(),
            chosen=chosen.steps,
            rejected=rejected.steps,
            q_chosen=chosen.mean_q,
            q_rejected=rejected.mean_q,
            weight=weight,
        ),
        kind="final",
        chosen=chosen.last_node,
        rejected=rejected.last_node,
        node=ROOT,
        depth=0,
    )


def _first_distinct(paths: Iterable[JudgedPath], limit: int) -> list[JudgedPath]:
    """The first `limit` paths that have a Q and differ in text."""
    by_text: dict[str, JudgedPath] = {}
    for path in paths:
        if len(by_text) == limit:
            break
        if path.mean_q is not None:
            by_text.setdefault(path.text, path)
    return list(by_text.values())


def _step(values: TreeValues, node: int) -> Step:
    step = values.tree.nodes[node].step
    assert step is not None
    return step


def _text(values: TreeValues, node: int) -> str:
    return _step(values, node).text
