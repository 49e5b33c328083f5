"""A tree as a JSON-able record, and back. The record has a format version and nothing of
times and server troubles, so that two searches that did the same have equal records."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rstar_math.errors import StoreError
from rstar_math.search.tree import Node, Tree
from rstar_math.types import Cost, Execution, ExecutionStatus, Question, Step, Verdict

FORMAT = 1
CIRCUMSTANCES = frozenset({"seconds", "retries", "failures", "cached_tokens"})
"""Parts of a cost that say how the servers fared, not what the search did."""


def to_record(tree: Tree) -> dict[str, Any]:
    """The tree as dictionaries, lists, strings and numbers; fields at their default are left
    out."""
    cost = {k: v for k, v in asdict(tree.cost).items() if v and k not in CIRCUMSTANCES}
    return {
        "format": FORMAT,
        "question": {"id": tree.question.id, "text": tree.question.text},
        "rollouts": tree.rollouts,
        "stopped": tree.stopped,
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
        tree.stopped = record.get("stopped")
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
    if node.peers is not None:
        record["peers"] = list(node.peers)
    return record


_NUMBER, _NO = (int, float), type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "copies": (int,),
    "run": (int,),
    "walks": (int,),
    "visits": (int,),
    "value_sum": _NUMBER,
    "expanded": (bool,),
    "closed": (bool,),
    "failure": (str, _NO),
    "score": (*_NUMBER, _NO),
}
_DEFAULTS: dict[str, Any] = {
    "copies": 1,
    "run": 0,
    "walks": 0,
    "visits": 0,
    "value_sum": 0.0,
    "expanded": False,
    "closed": False,
    "failure": None,
    "score": None,
}


def _node(record: Mapping[str, Any]) -> Node:
    verdict, peers = record.get("verdict"), record.get("peers")
    return Node(
        parent=record["parent"],
        step=_step(record["step"]) if "step" in record else None,
        verdict=None if verdict is None else Verdict(verdict),
        peers=None if peers is None else _peers(*peers),
        **{key: _typed(record, key, _KINDS[key], default) for key, default in _DEFAULTS.items()},
    )


def _typed(record: Mapping[str, Any], key: str, kinds: tuple[type, ...], default: Any) -> Any:
    """A value of a record; raises `TypeError` for one of another kind."""
    value = record.get(key, default)
    if not isinstance(value, kinds):
        raise TypeError(f"{key} is of type {type(value).__name__}")
    return value


def _peers(agreeing: int, asked: int) -> tuple[int, int]:
    if not 0 <= agreeing <= asked:
        raise StoreError(f"A stored tree is damaged ({agreeing} peers of {asked} agree).")
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
