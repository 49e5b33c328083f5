"""The tree of one search: an append-only list of nodes with integer parents.

A node's visits are the answers whose value was backed up through it, plus one of its own if a
scorer gave it a first value; that one is not passed on to its parent, unless the search backs up
all scores. Where values are backed up by walks, they are the walks that went through it.
`value_sum` likewise.
Nothing here knows models, prompts or code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rstar_math.costs import ENVIRONMENT_FIELDS
from rstar_math.errors import StoreError
from rstar_math.types import Cost, Execution, ExecutionStatus, Question, Step, Trajectory, Verdict

ROOT = 0


@dataclass(slots=True)
class Node:
    """One step in its place. The root has no step."""

    parent: int
    """Index of the parent; -1 for the root."""
    step: Step | None = None
    depth: int = 0
    """Steps from the root."""
    count: int = 1
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
    rollouts: int = 0
    """Rollouts that went through here, also those that came to nothing that has a value."""
    visits: int = 0
    value_sum: float = 0.0
    """Sum of the values backed up through here, each in [-1, 1]."""
    agreement: tuple[int, int] | None = None
    """Completions of the solution that ends here, by a second model that saw its beginning: how
    many came to the same answer, and how many were asked for. None where none was."""

    @property
    def q(self) -> float | None:
        """Mean backed-up value, in [-1, 1]; None before the first visit."""
        return self.value_sum / self.visits if self.visits else None

    @property
    def leaf_value(self) -> float | None:
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
        self.stop_reason: str | None = None
        """Why the search stopped before its budget was spent; None where it did not."""
        self.cost = Cost()

    def add(self, parent: int, step: Step, copies: int = 1) -> int:
        """Append a child and return its index; it belongs to its parent's run."""
        index = len(self.nodes)
        above = self.nodes[parent]
        self.nodes.append(
            Node(parent=parent, step=step, depth=above.depth + 1, count=copies, run=above.run)
        )
        above.children.append(index)
        return index

    def merge(self, other: "Tree") -> None:
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
        root.rollouts += theirs.rollouts
        root.expanded = root.closed = True
        root.failure = None if root.children else theirs.failure
        self.rollouts += other.rollouts
        self.stop_reason = self.stop_reason or other.stop_reason

    @property
    def has_discriminator_votes(self) -> bool:
        """Whether a second model looked at any solution."""
        return any(node.agreement is not None for node in self.nodes)

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
            agreement=self.nodes[index].agreement,
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


FORMAT = 2


def to_record(tree: Tree) -> dict[str, Any]:
    """The tree as dictionaries, lists, strings and numbers; fields at their default are left
    out."""
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
    """The tree of a record. Raises `StoreError` for another format version or a damaged record."""
    if not isinstance(record, Mapping):
        raise StoreError("A stored tree is damaged (it is no JSON object).")
    version = record.get("format")
    if version != FORMAT:
        raise StoreError(
            f"This tree is of format {version!r}, and this version of rstar-math reads format "
            f"{FORMAT}; use the version that wrote it."
        )
    try:
        question = record["question"]
        tree = Tree(Question(*(_typed(question, key, (str,), None) for key in ("id", "text"))))
        tree.rollouts = record["rollouts"]
        tree.stop_reason = record.get("stop_reason")
        tree.cost = Cost(**record["cost"])
        tree.nodes = [_node(entry) for entry in record["nodes"]]
        if not tree.nodes or tree.nodes[0].parent != -1 or tree.nodes[0].step is not None:
            raise StoreError("A stored tree is damaged (it has no root).")
        for index, node in enumerate(tree.nodes[1:], start=1):
            if not 0 <= node.parent < index:
                raise StoreError(f"Node {index} of a tree has the parent {node.parent}.")
            node.depth = tree.nodes[node.parent].depth + 1
            tree.nodes[node.parent].children.append(index)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"A stored tree is damaged ({type(error).__name__}: {error}).") from error
    return tree


def _node_record(node: Node) -> dict[str, Any]:
    record: dict[str, Any] = {"parent": node.parent}
    if node.step is not None:
        record["step"] = _step_record(node.step)
    for key, default in _DEFAULTS.items():
        value = getattr(node, key)
        if value != default:
            record[key] = value
    if node.verdict is not None:
        record["verdict"] = node.verdict.value
    if node.agreement is not None:
        record["agreement"] = list(node.agreement)
    return record


_NUMBER, _NO = (int, float), type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "count": (int,),
    "run": (int,),
    "rollouts": (int,),
    "visits": (int,),
    "value_sum": _NUMBER,
    "expanded": (bool,),
    "closed": (bool,),
    "failure": (str, _NO),
    "score": (*_NUMBER, _NO),
}
_DEFAULTS: dict[str, Any] = {
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
        **{key: _typed(record, key, _KINDS[key], default) for key, default in _DEFAULTS.items()},
    )


def _typed(record: Mapping[str, Any], key: str, kinds: tuple[type, ...], default: Any) -> Any:
    """A value of a record; raises `TypeError` for one of another kind."""
    value = record.get(key, default)
    if not isinstance(value, kinds):
        raise TypeError(f"{key} is of type {type(value).__name__}")
    return value


def _agreement(agreeing: int, asked: int) -> tuple[int, int]:
    if not 0 <= agreeing <= asked:
        raise StoreError(f"A stored tree is damaged ({agreeing} of {asked} agree).")
    return agreeing, asked


def _step_record(step: Step) -> dict[str, Any]:
    record: dict[str, Any] = {"kind": step.kind}
    for key in ("prose", "code", "reasoning"):
        if value := getattr(step, key):
            record[key] = value
    for key in ("answer", "confidence"):
        if (value := getattr(step, key)) is not None:
            record[key] = value
    if step.execution is not None:
        run = step.execution
        execution = {"status": run.status.value, "stdout": run.stdout}
        for key in ("error_type", "message"):
            if (value := getattr(run, key)) is not None:
                execution[key] = value
        record["execution"] = execution
    return record


def _step(record: Mapping[str, Any]) -> Step:
    run = record.get("execution")
    execution = None
    if run is not None:
        execution = Execution(
            status=ExecutionStatus(run["status"]),
            stdout=_typed(run, "stdout", (str,), None),
            error_type=_typed(run, "error_type", (str, _NO), None),
            message=_typed(run, "message", (str, _NO), None),
        )
    return Step(
        prose=_typed(record, "prose", (str,), ""),
        code=_typed(record, "code", (str,), ""),
        kind=_typed(record, "kind", (str,), None),
        answer=_typed(record, "answer", (str, _NO), None),
        confidence=_typed(record, "confidence", (*_NUMBER, _NO), None),
        execution=execution,
        reasoning=_typed(record, "reasoning", (str,), ""),
    )
