"""Trees as records: nothing is lost, and what is damaged is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.errors import StoreError
from rstar_math.search import Tree, from_record, to_record
from rstar_math.types import Execution, ExecutionStatus, Question, Step, Verdict

steps = st.builds(
    Step,
    prose=st.text(max_size=20),
    code=st.text(max_size=20),
    kind=st.sampled_from(["step", "code", "answer", "A3"]),
    answer=st.none() | st.text(max_size=5),
    confidence=st.none() | st.floats(0, 1),
    execution=st.none()
    | st.builds(
        Execution,
        st.sampled_from(ExecutionStatus),
        st.text(max_size=10),
        st.none() | st.text(max_size=5),
        st.none() | st.text(max_size=5),
    ),
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    tree = Tree(Question(draw(st.text(min_size=1)), draw(st.text(min_size=1))))
    for size in range(1, draw(st.integers(1, 8))):
        index = tree.add(draw(st.integers(0, size - 1)), draw(steps), draw(st.integers(1, 3)))
        node = tree.nodes[index]
        node.failure = draw(st.none() | st.just("too deep"))
        node.verdict = draw(st.none() | st.sampled_from(Verdict))
        node.score = draw(st.none() | st.floats(-1, 1))
        node.agreement = draw(st.none() | st.tuples(st.integers(0, 2), st.integers(2, 4)))
        node.expanded, node.closed = draw(st.booleans()), draw(st.booleans())
        tree.backup(index, draw(st.floats(-1, 1)))
    tree.rollouts = draw(st.integers(0, 5))
    tree.cost.calls = draw(st.integers(0, 5))
    return tree


@given(trees())
def test_a_tree_comes_back_whole(tree: Tree) -> None:
    text = json.dumps(to_record(tree), ensure_ascii=False)
    back = from_record(json.loads(text))
    assert back.nodes == tree.nodes
    assert (back.question, back.rollouts, back.cost) == (tree.question, tree.rollouts, tree.cost)


def record() -> dict[str, Any]:
    tree = Tree(Question("q", "?"))
    tree.add(0, Step(code="x = 1\n"))
    return to_record(tree)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 99}, "format 99"),
        ({"format": None}, "format None"),
        ({"nodes": [{"parent": -1}, {"parent": 5}]}, "parent 5"),
        ({"nodes": [{"parent": -1}, {"parent": -1}]}, "parent -1"),
        ({"nodes": [{}]}, "damaged"),
        ({"nodes": 3}, "damaged"),
        ({"nodes": []}, "no root"),
        ({"nodes": [{"parent": 0}]}, "no root"),
        ({"question": "q"}, "damaged"),
        ({"cost": {"sweets": 1}}, "damaged"),
        ({"nodes": [{"parent": -1, "verdict": "perhaps"}]}, "damaged"),
        ({"nodes": [{"parent": -1, "agreement": [1]}]}, "damaged"),
        ({"nodes": [{"parent": -1, "agreement": [3, 2]}]}, "3 of 2 agree"),
        ({"question": {"id": 7, "text": "?"}}, "id has type"),
        ({"nodes": [{"parent": -1, "score": "high"}]}, "score has type"),
        ({"nodes": [{"parent": -1}, {"parent": 0, "step": {"kind": "code", "answer": 4}}]}, "int"),
        ({"nodes": [{"parent": -1}, {"parent": 0, "step": {"kind": "code", "code": 4}}]}, "code"),
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(StoreError, match=said):
        from_record(record() | change)


def test_times_are_not_recorded() -> None:
    fast, slow = Tree(Question("q", "?")), Tree(Question("q", "?"))
    fast.add(0, Step(code="x\n", execution=Execution(ExecutionStatus.OK, "", wall_s=0.1)))
    slow.add(0, Step(code="x\n", execution=Execution(ExecutionStatus.OK, "", wall_s=9.9)))
    slow.cost.seconds = 10.0
    assert to_record(fast) == to_record(slow)
