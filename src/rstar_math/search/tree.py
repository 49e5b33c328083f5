"""The tree of one search: an append-only list of nodes with integer parents.

A node's visits are the answers whose value was backed up through it, plus one of its own if a
scorer gave it a first value; that one is not passed on to its parent, unless the search backs up
all scores. Where values are backed up by walks, they are the walks that went through it.
`value_sum` likewise.
Nothing here knows models, prompts or code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from rstar_math.types import Cost, Question, Step, Trajectory, Verdict

ROOT = 0


@dataclass(slots=True)
class Node:
    """One step in its place. The root has no step."""

    parent: int
    """Index of the parent; -1 for the root."""
    step: Step | None = None
    depth: int = 0
    """Steps from the root."""
    copies: int = 1
    """Equal samples that this node stands for."""
    run: int = 0
    """The independent search that made it, counted from 0; a tree may hold several."""
    children: list[int] = field(default_factory=list)
    expanded: bool = False
    """Whether next steps were asked for here."""
    closed: bool = False
    """Whether nothing below here is left to explore: an end, or all children closed."""
    failure: str | None = None
    """Why a path ended here without an answer; None for answers and inner nodes."""
    verdict: Verdict | None = None
    """The Verifier's word on the answer, where one was asked."""
    score: float | None = None
    """The scorer's value of the path up to here, in [-1, 1]."""
    walks: int = 0
    """Rollouts that went through here, also those that came to nothing that has a value."""
    visits: int = 0
    value_sum: float = 0.0
    """Sum of the values backed up through here, each in [-1, 1]."""
    peers: tuple[int, int] | None = None
    """Completions of the solution that ends here, by a second model that saw its beginning: how
    many came to the same answer, and how many were asked for. None where none was."""

    @property
    def q(self) -> float | None:
        """Mean backed-up value, in [-1, 1]; None before the first visit."""
        return self.value_sum / self.visits if self.visits else None

    @property
    def worth(self) -> float | None:
        """The score, else Q, in [-1, 1]; None where there is neither."""
        return self.q if self.score is None else self.score

    @property
    def answered(self) -> bool:
        """Whether a path ends here with an answer."""
        return self.failure is None and self.step is not None and self.step.answer is not None


class Tree:
    """Everything one search tried on one question."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.nodes: list[Node] = [Node(parent=-1)]
        self.rollouts = 0
        """Walks from the root done so far, over all calls of `grow`; of searches without walks,
        the paths that they took to an end."""
        self.stopped: str | None = None
        """Why the search stopped before its budget was spent; None where it did not."""
        self.cost = Cost()

    def add(self, parent: int, step: Step, copies: int = 1) -> int:
        """Append a child and return its index; it belongs to its parent's run."""
        index = len(self.nodes)
        above = self.nodes[parent]
        self.nodes.append(
            Node(parent=parent, step=step, depth=above.depth + 1, copies=copies, run=above.run)
        )
        above.children.append(index)
        return index

    def graft(self, other: "Tree") -> None:
        """Put another search of the same question below the root, as a run of its own.

        Takes the other tree's nodes, which must not be used after it; costs are left alone. The
        tree as a whole is closed by it: each run was searched for itself, and there is no common
        search to go on with.
        """
        root, theirs = self.nodes[ROOT], other.nodes[ROOT]
        run = self.runs
        shift = len(self.nodes) - 1
        for node in other.nodes[1:]:
            node.parent = node.parent + shift if node.parent != ROOT else ROOT
            node.children = [child + shift for child in node.children]
            node.run += run
        self.nodes.extend(other.nodes[1:])
        root.children.extend(child + shift for child in theirs.children)
        root.visits += theirs.visits
        root.value_sum += theirs.value_sum
        root.walks += theirs.walks
        root.expanded = root.closed = True
        root.failure = None if root.children else theirs.failure
        self.rollouts += other.rollouts
        self.stopped = self.stopped or other.stopped

    @property
    def checked(self) -> bool:
        """Whether a second model looked at any solution."""
        return any(node.peers is not None for node in self.nodes)

    @property
    def runs(self) -> int:
        """Independent searches that the tree holds."""
        return 1 + max((node.run for node in self.nodes[1:]), default=-1)

    def path(self, index: int) -> list[int]:
        """Node indices from the first step below the root to `index`; [] for the root."""
        found: list[int] = []
        while index > ROOT:
            found.append(index)
            index = self.nodes[index].parent
        return found[::-1]

    def prefix(self, index: int) -> tuple[Step, ...]:
        """The steps from the root to `index`."""
        steps = (self.nodes[i].step for i in self.path(index))
        return tuple(step for step in steps if step is not None)

    def backup(self, index: int, value: float, discount: float = 1.0) -> None:
        """Record a value at a node and along its path up to the root, times `discount` for each
        step up."""
        while index >= ROOT:
            node = self.nodes[index]
            node.visits += 1
            node.value_sum += value
            value *= discount
            index = node.parent

    def close(self, index: int) -> None:
        """Close a node, and every ancestor all of whose children are closed by that."""
        self.nodes[index].closed = True
        parent = self.nodes[index].parent
        while parent >= ROOT:
            node = self.nodes[parent]
            if not all(self.nodes[child].closed for child in node.children):
                return
            node.closed = True
            parent = node.parent

    def answers(self) -> list[int]:
        """Indices of the nodes at which a path ends with an answer, in order of creation."""
        return [index for index, node in enumerate(self.nodes) if node.answered]

    def trajectory(self, index: int) -> Trajectory:
        """The path to a node."""
        path = self.path(index)
        nodes = [self.nodes[i] for i in path]
        return Trajectory(
            question=self.question,
            steps=self.prefix(index),
            q=tuple(node.q for node in nodes),
            scores=tuple(node.score for node in nodes),
            node=index,
            verdict=self.nodes[index].verdict,
            peers=self.nodes[index].peers,
        )

    def failures(self) -> dict[str, int]:
        """How many paths ended without an answer, by reason."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            if node.failure is not None:
                counts[node.failure] = counts.get(node.failure, 0) + 1
        return counts

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)
