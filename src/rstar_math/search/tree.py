"""The tree of one search: an append-only list of nodes with integer parents.

`visits` counts the values that were backed up through a node, and `value_sum` is their sum. Which
values these are depends on `search.backup`:

- "answers": the values of the answers found below the node. A score that the node gets from a
  scorer counts as one more visit of this node, and is not passed on to its parent.
- "all": the values of answers and the scores of all nodes below.
- "rollout": one value per rollout that passed through the node.

This module is independent of models, prompts and code execution.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from rstar_math.rejected import RejectedSample, extend_rejected
from rstar_math.types import Cost, Question, Step, Trajectory, Verdict

ROOT = 0
"""Index of the root in `Tree.nodes`."""


class PathFailure(StrEnum):
    """Why a path ended without an answer, as stored in `Node.failure`."""

    CONTEXT_EXCEEDED = "context exceeded"
    REQUEST_FAILED = "request failed"
    NO_NEXT_STEP = "no next step"
    NO_ANSWER_STATED = "no answer stated"
    CODE_FAILED = "code failed"
    TOO_DEEP = "too deep"
    UNLIKELY = "unlikely"
    """The model's confidence fell below `search.chain_stop`."""


@dataclass(slots=True)
class Node:
    """One step and its statistics. The root has no step."""

    parent: int
    """Index of the parent; -1 for the root."""
    step: Step | None = None
    depth: int = 0
    """Number of steps from the root."""
    count: int = 1
    """Number of equal samples that this node represents."""
    run: int = 0
    """Number of the independent search that created the node, from 0. A tree may hold several."""
    children: list[int] = field(default_factory=list)
    """Indices of the children."""
    expanded: bool = False
    """Whether next steps were requested for this node."""
    closed: bool = False
    """Whether nothing below is left to explore: the path ends here, or all children are closed."""
    failure: str | None = None
    """Why a path ended here without an answer, usually a `PathFailure`; None for answers and inner
    nodes."""
    verdict: Verdict | None = None
    """The Verifier's verdict on the answer; None if there was no Verifier or no answer."""
    score: float | None = None
    """The scorer's value of the path up to this node, in [-1, 1]; None without a scorer."""
    other_scores: dict[str, float] = field(default_factory=dict)
    """The same of the other scorers that `search.scorer` names, by their names. The search does not
    read them."""
    rollouts: int = 0
    """Number of rollouts through this node, including rollouts that ended without a value."""
    visits: int = 0
    """N of the papers: the number of values backed up through this node. Rollouts that only passed
    through it count in `rollouts`."""
    value_sum: float = 0.0
    """Sum of the values backed up through this node, each in [-1, 1]."""
    agreement: tuple[int, int] | None = None
    """(agreeing, requested): the discriminator's completions that reach this node's answer, and all
    its completions. None if the discriminator did not check the path."""

    @property
    def q(self) -> float | None:
        """Mean backed-up value, in [-1, 1]; None before the first visit."""
        return self.value_sum / self.visits if self.visits else None

    @property
    def leaf_value(self) -> float | None:
        """The score if there is one, else Q, in [-1, 1]; None if there is neither."""
        return self.q if self.score is None else self.score

    @property
    def answered(self) -> bool:
        """Whether a path ends at this node with an answer."""
        return self.failure is None and self.step is not None and self.step.answer is not None


class Tree:
    """All steps that the searches on one question have tried."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.nodes: list[Node] = [Node(parent=-1)]
        self.rollouts = 0
        """Finished rollouts over all calls of `grow`; for other strategies, finished paths."""
        self.stop_reason: str | None = None
        """Why the search stopped before its budget was spent; None if it did not."""
        self.cost = Cost()
        """Costs of all searches in this tree."""
        self.rejected: list[RejectedSample] = []
        """Samples that are no steps, up to a size limit (`rejected.MAX_CHARS`)."""
        self.in_progress: list[Callable[[], Tree]] = []
        """Return the trees of runs and chains that are not yet merged. They are only for display
        and are not stored."""

    def add(self, parent: int, step: Step, count: int = 1) -> int:
        """Append a child node and return its index. It belongs to the run of its parent."""
        index = len(self.nodes)
        node = self.nodes[parent]
        self.nodes.append(
            Node(parent=parent, step=step, depth=node.depth + 1, count=count, run=node.run)
        )
        node.children.append(index)
        return index

    def merge(self, other: "Tree") -> None:
        """Add another search of the same question below the root, as a separate run.

        Takes over the nodes of `other`, which must not be used afterwards. Costs are not added.
        The root is closed, because independent runs cannot be continued as one search.
        """
        root, other_root = self.nodes[ROOT], other.nodes[ROOT]
        runs_before = self.runs
        shift = len(self.nodes) - 1
        for node in other.nodes[1:]:
            node.parent = node.parent + shift if node.parent != ROOT else ROOT
            node.children = [child + shift for child in node.children]
            node.run += runs_before
        self.nodes.extend(other.nodes[1:])
        root.children.extend(child + shift for child in other_root.children)
        root.visits += other_root.visits
        root.value_sum += other_root.value_sum
        root.rollouts += other_root.rollouts
        root.expanded = root.closed = True
        root.failure = None if root.children else other_root.failure
        self.rollouts += other.rollouts
        extend_rejected(self.rejected, other.rejected)
        self.stop_reason = self.stop_reason or other.stop_reason

    @property
    def has_discriminator_votes(self) -> bool:
        """Whether the discriminator has checked any solution."""
        return any(node.agreement is not None for node in self.nodes)

    @property
    def runs(self) -> int:
        """Number of independent searches in the tree."""
        return 1 + max((node.run for node in self.nodes[1:]), default=-1)

    def path(self, index: int) -> list[int]:
        """Return the node indices from the first step below the root to `index`; [] for ROOT."""
        path: list[int] = []
        while index > ROOT:
            path.append(index)
            index = self.nodes[index].parent
        return path[::-1]

    def prefix(self, index: int) -> tuple[Step, ...]:
        """Return the steps from the root to `index`, inclusive."""
        steps = (self.nodes[i].step for i in self.path(index))
        return tuple(step for step in steps if step is not None)

    def backup(self, index: int, value: float, discount: float = 1.0) -> None:
        """Add a value to a node and to all its ancestors, times `discount` per step upwards."""
        while index >= ROOT:
            node = self.nodes[index]
            node.visits += 1
            node.value_sum += value
            value *= discount
            index = node.parent

    def close(self, index: int) -> None:
        """Close a node, and then every ancestor whose children are all closed."""
        self.nodes[index].closed = True
        parent = self.nodes[index].parent
        while parent >= ROOT:
            node = self.nodes[parent]
            if not all(self.nodes[child].closed for child in node.children):
                return
            node.closed = True
            parent = node.parent

    def answer_nodes(self) -> list[int]:
        """Return the indices of the nodes that end a path with an answer, in order of creation."""
        return [index for index, node in enumerate(self.nodes) if node.answered]

    def trajectory(self, index: int) -> Trajectory:
        """Return the path from the root to a node."""
        path = self.path(index)
        nodes = [self.nodes[i] for i in path]
        return Trajectory(
            question=self.question,
            steps=self.prefix(index),
            q=tuple(node.q for node in nodes),
            scores=tuple(node.score for node in nodes),
            node=index,
            verdict=self.nodes[index].verdict,
            agreement=self.nodes[index].agreement,
        )

    def failures(self) -> dict[str, int]:
        """Return the number of paths that ended without an answer, by reason."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            if node.failure is not None:
                counts[node.failure] = counts.get(node.failure, 0) + 1
        return counts

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)
