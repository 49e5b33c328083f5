"""Stores a tree as JSON-compatible data and reads it back."""

from collections.abc import Mapping
from dataclasses import asdict, astuple
from typing import Any

from rstar_math.costs import ENVIRONMENT_FIELDS
from rstar_math.errors import StoreError
from rstar_math.rejected import RejectedSample
from rstar_math.search.tree import Node, Tree
from rstar_math.task_records import parse_task, task_entry
from rstar_math.types import (
    Cost,
    Execution,
    ExecutionStatus,
    Question,
    Step,
    TokenStats,
    Verdict,
)

FORMAT = 2
"""Version of the record format."""


def to_record(tree: Tree) -> dict[str, Any]:
    """Return the tree as JSON-compatible data, without the images of the question.

    Fields with default values are omitted.
    """
    cost = {k: v for k, v in asdict(tree.cost).items() if v and k not in ENVIRONMENT_FIELDS}
    return {
        "format": FORMAT,
        "question": {
            "id": tree.question.id,
            "text": tree.question.text,
            **({"task": task_entry(tree.question.task)} if tree.question.task else {}),
        },
        "rollouts": tree.rollouts,
        "stop_reason": tree.stop_reason,
        "cost": cost,
        "nodes": [_node_record(node) for node in tree.nodes],
        **({"rejected": [asdict(each) for each in sorted(tree.rejected)]} if tree.rejected else {}),
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
        id_, text = (_checked_value(question, key, (str,), None) for key in ("id", "text"))
        task = parse_task(question["task"]) if "task" in question else None
        tree = Tree(Question(id_, text, task))
        tree.rollouts = record["rollouts"]
        tree.stop_reason = record.get("stop_reason")
        tree.cost = Cost(**record["cost"])
        tree.nodes = [_node(entry) for entry in record["nodes"]]
        tree.rejected = [rejected_of(entry) for entry in record.get("rejected", [])]
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


def preview(tree: Tree) -> dict[str, Any]:
    """Return the record of a tree with the paths that are not yet merged into it.

    Node numbers of paths in progress may change from one call to the next.
    """
    if not tree.in_progress:
        return to_record(tree)
    copy = from_record(to_record(tree))
    for draft in tree.in_progress:
        copy.merge(from_record(preview(draft())))
    return to_record(copy)


def _node_record(node: Node) -> dict[str, Any]:
    record: dict[str, Any] = {"parent": node.parent}
    if node.step is not None:
        record["step"] = step_record(node.step)
    for key, default in _FIELD_DEFAULTS.items():
        value = getattr(node, key)
        if value != default:
            record[key] = value
    if node.other_scores:
        record["other_scores"] = dict(node.other_scores)
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
        step=step_of(record["step"]) if "step" in record else None,
        verdict=None if verdict is None else Verdict(verdict),
        agreement=None if agreement is None else _agreement(*agreement),
        other_scores=_scores(record.get("other_scores", {})),
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


def _scores(record: Mapping[str, Any]) -> dict[str, float]:
    """Return scores by name. Raises `TypeError` for other values."""
    return {
        name: float(_checked_value(record, name, _NUMBER, None))
        for name in _checked_value({"": record}, "", (dict,), None)
    }


def _agreement(agreeing: int, requested: int) -> tuple[int, int]:
    if not 0 <= agreeing <= requested:
        raise StoreError(f"A stored tree is damaged ({agreeing} of {requested} agree).")
    return agreeing, requested


def rejected_of(record: Mapping[str, Any]) -> RejectedSample:
    """Return the rejected sample of a record. Raises `TypeError`."""
    depth = _checked_value(record, "depth", (int,), None)
    texts = (_checked_value(record, key, (str,), None) for key in ("prompt", "text", "reason"))
    return RejectedSample(depth, *texts)


def step_record(step: Step) -> dict[str, Any]:
    """Return a step as JSON-compatible data."""
    record: dict[str, Any] = {"kind": step.kind}
    for key in ("prose", "code", "reasoning"):
        if value := getattr(step, key):
            record[key] = value
    for key in ("answer", "confidence", "tokens"):
        if (value := getattr(step, key)) is not None:
            record[key] = value
    if step.token_stats is not None:
        record["token_stats"] = [v for v in astuple(step.token_stats) if v is not None]
    if step.execution is not None:
        execution = {"status": step.execution.status.value, "stdout": step.execution.stdout}
        for key in ("error_type", "message"):
            if (value := getattr(step.execution, key)) is not None:
                execution[key] = value
        record["execution"] = execution
    return record


def step_of(record: Mapping[str, Any]) -> Step:
    """Return the step of a record. Raises `TypeError`, `ValueError` or `KeyError`."""
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
        tokens=_checked_value(record, "tokens", (int, _NONE), None),
        token_stats=_token_stats(*record["token_stats"]) if "token_stats" in record else None,
    )


def _token_stats(tokens: int, *values: float) -> TokenStats:
    if len(values) not in (3, 6) or not all(isinstance(v, _NUMBER) for v in (tokens, *values)):
        raise TypeError("token_stats needs 4 or 7 numbers")
    return TokenStats(tokens, *values)
