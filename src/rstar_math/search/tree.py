"""The tree of one search: an append-only list of nodes with integer parents.

`visits` counts the values that were backed up through a node, and `value_sum` is their sum. Which
values these are depends on `search.backup`:

- "answers": the values of the answers found below the node. A score that the node gets from a
  scorer counts as one more visit of this node, and is not passed on to its parent.
- "all": the values of answers and the scores of all nodes below.
- "rollout": one value per rollout that passed through the node.

This module is independent of models, prompts and code execution.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rstar_math.costs import ENVIRONMENT_FIELDS
from rstar_math.errors import StoreError
from rstar_math.types import Cost, Execution, ExecutionStatus, Question, Step, Trajectory, Verdict

ROOT = 0
"""Index of the root in `Tree.nodes`."""


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
    """Why a path ended here without an answer; None for answers and inner nodes."""
    verdict: Verdict | None = None
    """The Verifier's verdict on the answer; None if there was no Verifier or no answer."""
    score: float | None = None
    """The scorer's value of the path up to this node, in [-1, 1]; None without a scorer."""
    rollouts: int = 0
    """Number of rollouts through this node, including rollouts that ended without a value."""
    visits: int = 0
    """Number of values backed up through this node."""
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

    def answers(self) -> list[int]:
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


FORMAT = 2
"""Version of the record format."""


def to_record(tree: Tree) -> dict[str, Any]:
    """Return the tree as JSON-compatible data. Fields with default values are omitted."""
    cost = {k: v for k, v in asdict(tree.cost).items() if v and k not in ENVIRONMENT_FIELDS}
    return {
        "format": FORMAT,
        "question": {"id": tree.question.id, "text": tree.question.text},
        "rollouts": tree.rollouts,
        "stop_reason": tree.stop_reason,
        "cost": cost,
        "nodes": [_node_record(node) for node in tree.nodes],
    }


def from_record(record: Mapping[str, Any]) -> Tree:
    """Return the tree of a record. Raises `StoreError` if it is damaged or of another format."""
    if not isinstance(record, Mapping):
        raise StoreError("A stored tree is damaged (it is not a JSON object).")
    version = record.get("format")
    if version != FORMAT:
        raise StoreError(
            f"This tree has format {version!r}, but this version of rstar-math reads format "
            f"{FORMAT}; use the version that wrote it."
        )
    try:
        question = record["question"]
        tree = Tree(
            Question(*(_checked_value(question, key, (str,), None) for key in ("id", "text")))
        )
        tree.rollouts = record["rollouts"]
        tree.stop_reason = record.get("stop_reason")
        tree.cost = Cost(**record["cost"])
        tree.nodes = [_node(entry) for entry in record["nodes"]]
        if not tree.nodes or tree.nodes[0].parent != -1 or tree.nodes[0].step is not None:
            raise StoreError("A stored tree is damaged (it has no root node).")
        for index, node in enumerate(tree.nodes[1:], start=1):
            if not 0 <= node.parent < index:
                raise StoreError(
                    f"A stored tree is damaged (node {index} has the parent {node.parent})."
                )
            node.depth = tree.nodes[node.parent].depth + 1
            tree.nodes[node.parent].children.append(index)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"A stored tree is damaged ({type(error).__name__}: {error}).") from error
    return tree


def _node_record(node: Node) -> dict[str, Any]:
    record: dict[str, Any] = {"parent": node.parent}
    if node.step is not None:
        record["step"] = _step_record(node.step)
    for key, default in _FIELD_DEFAULTS.items():
        value = getattr(node, key)
        if value != default:
            record[key] = value
    if node.verdict is not None:
        record["verdict"] = node.verdict.value
    if node.agreement is not None:
        record["agreement"] = list(node.agreement)
    return record


_NUMBER, _NONE = (int, float), type(None)
_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "count": (int,),
    "run": (int,),
    "rollouts": (int,),
    "visits": (int,),
    "value_sum": _NUMBER,
    "expanded": (bool,),
    "closed": (bool,),
    "failure": (str, _NONE),
    "score": (*_NUMBER, _NONE),
}
_FIELD_DEFAULTS: dict[str, Any] = {
    "count": 1,
    "run": 0,
    "rollouts": 0,
    "visits": 0,
    "value_sum": 0.0,
    "expanded": False,
    "closed": False,
    "failure": None,
    "score": None,
}


def _node(record: Mapping[str, Any]) -> Node:
    verdict, agreement = record.get("verdict"), record.get("agreement")
    return Node(
        parent=record["parent"],
        step=_step(record["step"]) if "step" in record else None,
        verdict=None if verdict is None else Verdict(verdict),
        agreement=None if agreement is None else _agreement(*agreement),
        **{
            key: _checked_value(record, key, _FIELD_TYPES[key], default)
            for key, default in _FIELD_DEFAULTS.items()
        },
    )


def _checked_value(
    record: Mapping[str, Any], key: str, types: tuple[type, ...], default: Any
) -> Any:
    """Return a value of a record. Raises `TypeError` if it has none of the expected types."""
    value = record.get(key, default)
    if not isinstance(value, types):
        raise TypeError(f"{key} has type {type(value).__name__}")
    return value


def _agreement(agreeing: int, requested: int) -> tuple[int, int]:
    if not 0 <= agreeing <= requested:
        raise StoreError(f"A stored tree is damaged ({agreeing} of {requested} agree).")
    return agreeing, requested


def _step_record(step: Step) -> dict[str, Any]:
    record: dict[str, Any] = {"kind": step.kind}
    for key in ("prose", "code", "reasoning"):
        if value := getattr(step, key):
            record[key] = value
    for key in ("answer", "confidence"):
        if (value := getattr(step, key)) is not None:
            record[key] = value
    if step.execution is not None:
        execution = {"status": step.execution.status.value, "stdout": step.execution.stdout}
        for key in ("error_type", "message"):
            if (value := getattr(step.execution, key)) is not None:
                execution[key] = value
        record["execution"] = execution
    return record


def _step(record: Mapping[str, Any]) -> Step:
    entry = record.get("execution")
    execution = None
    if entry is not None:
        execution = Execution(
            status=ExecutionStatus(entry["status"]),
            stdout=_checked_value(entry, "stdout", (str,), None),
            error_type=_checked_value(entry, "error_type", (str, _NONE), None),
            message=_checked_value(entry, "message", (str, _NONE), None),
        )
    return Step(
        prose=_checked_value(record, "prose", (str,), ""),
        code=_checked_value(record, "code", (str,), ""),
        kind=_checked_value(record, "kind", (str,), None),
        answer=_checked_value(record, "answer", (str, _NONE), None),
        confidence=_checked_value(record, "confidence", (*_NUMBER, _NONE), None),
        execution=execution,
        reasoning=_checked_value(record, "reasoning", (str,), ""),
    )
