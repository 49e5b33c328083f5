"""A run as rows without any choice: its trees, and all paths that came to an end."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from rstar_math.search import Tree, to_record
from rstar_math.training.curation import Searched
from rstar_math.training.export.rows import Text
from rstar_math.types import Step


class TreeRow(BaseModel):
    """A tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: Text
    question: Text
    reference: Text | None
    source: Text | None
    strategy: Text
    nodes: int
    """Number of nodes, the root among them."""
    tree: Text
    """The tree's record (`rstar_math.search.from_record` reads it), as JSON."""


class StepColumns(BaseModel):
    """A step of a path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Text
    prose: Text
    code: Text
    printed: Text | None
    """What its code printed; None where none was run."""
    status: Text | None
    """How its code ended; None where none was run."""
    q: float | None
    """Mean backed-up value, in [-1, 1]."""
    score: float | None
    """The scorer's value, in [-1, 1]."""


class TrajectoryRow(BaseModel):
    """A path that came to an end, with or without an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: Text
    question: Text
    reference: Text | None
    source: Text | None
    strategy: Text
    node: int
    """The path's last node in its tree."""
    run: int
    """The independent search within the tree."""
    answer: Text | None
    verdict: Text | None
    """right, wrong or unknown; None where no Verifier was asked."""
    failure: Text | None
    """Why it ended without an answer."""
    steps: list[StepColumns]


def tree_rows(searched: Iterable[Searched]) -> Iterator[TreeRow]:
    """A row for each tree."""
    for one in searched:
        for strategy, tree in one.trees:
            record = json.dumps(to_record(tree), ensure_ascii=False)
            yield TreeRow(**_head(one, strategy), nodes=len(tree), tree=record)


def trajectory_rows(searched: Iterable[Searched]) -> Iterator[TrajectoryRow]:
    """A row for each path that ended, in order of creation."""
    for one in searched:
        for strategy, tree in one.trees:
            for index, node in enumerate(tree.nodes):
                if index and (node.answered or node.failure is not None):
                    yield TrajectoryRow(
                        **_head(one, strategy),
                        node=index,
                        run=node.run,
                        answer=node.step.answer if node.step and node.answered else None,
                        verdict=node.verdict,
                        failure=node.failure,
                        steps=_steps(tree, index),
                    )


def _head(one: Searched, strategy: str) -> dict[str, Any]:
    problem = one.problem
    return {
        "problem": problem.id,
        "question": problem.question.text,
        "reference": problem.reference,
        "source": problem.source,
        "strategy": strategy,
    }


def _steps(tree: Tree, index: int) -> list[StepColumns]:
    path = tree.trajectory(index)
    rows = zip(path.steps, path.q, path.scores, strict=True)
    return [_step(step, q, score) for step, q, score in rows]


def _step(step: Step, q: float | None, score: float | None) -> StepColumns:
    run = step.execution
    return StepColumns(
        kind=step.kind,
        prose=step.prose,
        code=step.code,
        printed=None if run is None else run.stdout,
        status=None if run is None else run.status.value,
        q=q,
        score=score,
    )
