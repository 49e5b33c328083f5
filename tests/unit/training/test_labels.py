"""Outcomes and values: each is proved by a judged end."""

import pytest
from hypothesis import given

from rstar_math.training.curation.curate import collect_outcomes, collect_values
from rstar_math.training.curation.pairs import TreeValues
from tests.unit.training.trees import Spec, grown, names, specs

TREE: Spec = {
    "a": {"a1": "+", "a2": {"a21": "-", "a22": "+"}, "a3": "x", "a4": "?"},
    "b": {"b1": "-"},
    "c": {"c1": "x"},
}


def test_outcomes_are_those_of_judged_answers() -> None:
    found = collect_outcomes([TreeValues("t", grown(TREE))])
    assert [(names(one.trajectory.steps), one.right) for one in found] == [
        ("a a1", True),
        ("a a2 a21", False),
        ("a a2 a22", True),
        ("b b1", False),
    ]


def test_equal_solutions_of_two_trees_count_once() -> None:
    trees = [TreeValues("t", grown(TREE)), TreeValues("u", grown(TREE))]
    assert len(collect_outcomes(trees)) == 4
    assert {one.last_node.strategy for one in collect_outcomes(trees)} == {"t"}


def test_values_are_those_of_steps_with_a_judged_end_below() -> None:
    found = collect_values([TreeValues("t", grown(TREE))])
    assert {names(one.steps): one.q for one in found} == pytest.approx(
        {
            "a": 1 / 3,
            "a a1": 1,
            "a a2": 0,
            "a a2 a21": -1,
            "a a2 a22": 1,
            "b": -1,
            "b b1": -1,
        }
    )


def test_a_scorers_first_value_alone_is_no_label() -> None:
    tree = grown(TREE, q={"c": 0.9, "a3": 0.5})
    assert not {"c", "a a3"} & {names(one.steps) for one in collect_values([TreeValues("t", tree)])}


@given(specs)
def test_no_label_without_a_path_that_proves_it(spec: Spec) -> None:
    tree = grown(spec)
    trees = [TreeValues("t", tree)]
    ends = [
        (set(tree.path(index)), node.verdict == "right")
        for index, node in enumerate(tree.nodes)
        if node.verdict in ("right", "wrong")
    ]
    assert len(collect_outcomes(trees)) == len(ends)
    for valued in collect_values(trees):
        below = [right for path, right in ends if valued.last_node.node in path]
        assert valued.q == pytest.approx(2 * sum(below) / len(below) - 1)
