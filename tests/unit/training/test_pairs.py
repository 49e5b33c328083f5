"""Preference pairs: each rule in a tree that is small enough to be worked by hand."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.search import Tree
from rstar_math.training.curation import CurationConfig, SelectedPair
from rstar_math.training.curation.pairs import TreeValues, final_pairs, step_pairs
from tests.unit.training.trees import Spec, grown, names, shown, shuffled, specs


def stepwise(
    tree: Tree, **options: Any
) -> tuple[list[tuple[str, str, str, float]], dict[str, int]]:
    counts: dict[str, int] = {}
    return shown(step_pairs(TreeValues("mcts", tree), CurationConfig(**options), counts)), counts


def whole(*trees: Tree, **options: Any) -> tuple[list[tuple[str, str, str, float]], dict[str, int]]:
    counts: dict[str, int] = {}
    values = [TreeValues(f"t{index}", tree) for index, tree in enumerate(trees)]
    return shown(final_pairs(values, CurationConfig(**options), counts)), counts


TWO_AND_TWO: Spec = {
    "a": {"a1": "+", "a2": "+"},
    "b": {"b1": "+", "b2": "-"},
    "c": {"c1": "-"},
    "d": {"d1": "-", "d2": "-"},
    "e": {"e1": "+", "e2": "-", "e3": "-"},
    "f": "x",
}
"""Q: a 1, b 0, e -1/3, c and d -1."""


def test_two_best_against_two_worst_and_the_nodes_below_them() -> None:
    pairs, counts = stepwise(grown(TWO_AND_TWO))
    assert pairs == [
        ("", "a", "c", 1 / 4),
        ("", "a", "d", 1 / 4),
        ("", "b", "c", 1 / 4),
        ("", "b", "d", 1 / 4),
        ("b", "b1", "b2", 1),
        ("e", "e1", "e2", 1 / 2),
        ("e", "e1", "e3", 1 / 2),
    ]
    assert counts == {"kept": 7}


def test_the_sizes_of_the_sides_are_options() -> None:
    pairs, _ = stepwise(grown(TWO_AND_TWO), positives=1, negatives=3)
    assert pairs[:2] == [("", "a", "c", 1 / 3), ("", "a", "d", 1 / 3)]
    assert pairs[2] == ("", "a", "e", 1 / 3)


def test_one_alone_is_paired_with_up_to_four() -> None:
    lonely: Spec = {"g": "+", **{f"w{i}": "-" for i in range(6)}}
    pairs, _ = stepwise(grown(lonely))
    assert pairs == [("", "g", f"w{i}", 1 / 4) for i in range(4)]
    outnumbered: Spec = {"w": "-", **{f"g{i}": "+" for i in range(3)}}
    pairs, _ = stepwise(grown(outnumbered))
    assert pairs == [("", f"g{i}", "w", 1 / 3) for i in range(3)]
    assert len(stepwise(grown(lonely), max_when_single=5)[0]) == 5


def test_the_lowest_of_many_negatives_are_taken_for_one_alone() -> None:
    tree = grown({"g": "+", "v": "-", "w": "-", "x": "-"}, q={"v": 0.5, "w": -0.5, "x": 0.0})
    assert stepwise(tree, max_when_single=2)[0] == [("", "g", "w", 1 / 2), ("", "g", "x", 1 / 2)]


def test_a_child_with_both_kinds_of_ends_may_be_on_either_side_but_not_on_both() -> None:
    both: Spec = {"a": {"1": "+", "2": "+", "3": "-"}, "b": {"4": "+", "5": "-", "6": "-"}}
    pairs, counts = stepwise(grown(both))
    assert pairs[0] == ("", "a", "b", 1)
    assert [pair[0] for pair in pairs].count("") == 1
    assert counts == {"kept": 1 + 2 + 2, "Q not higher": 1}


def test_a_single_positive_with_wrong_ends_of_its_own_takes_no_negative_place() -> None:
    spec: Spec = {"a": {"1": "+", "2": "-", "3": "-"}, "b": "-", "c": "-"}
    assert stepwise(grown(spec), max_when_single=2)[0][:2] == [
        ("", "a", "b", 1 / 2),
        ("", "a", "c", 1 / 2),
    ]


def test_equal_values_prefer_nothing() -> None:
    pairs, counts = stepwise(grown({"a": {"1": "+", "2": "-"}, "b": {"3": "+", "4": "-"}}))
    assert [pair[0] for pair in pairs] == ["a", "b"]
    assert counts == {"kept": 2, "Q not higher": 2}


@pytest.mark.parametrize(
    "spec",
    [
        {"a": {"1": "+", "2": "+"}, "b": "+"},
        {"a": {"1": "-", "2": "-"}, "b": "-"},
        {"a": "+", "b": "x"},
        {"a": "+", "b": "?"},
        {"a": "?", "b": "-"},
        {"a": {"b": {"c": "x"}}},
        {},
    ],
)
def test_no_pair_where_not_both_a_right_and_a_wrong_answer_are_proved(spec: Spec) -> None:
    assert stepwise(grown(spec)) == ([], {})
    assert whole(grown(spec)) == ([], {})


def test_equal_texts_are_no_pair() -> None:
    pairs, counts = stepwise(grown({"a": {"1": "+"}, "a ": {"2": "-"}}))
    assert pairs == []
    assert counts == {"same text on both sides": 1}


def test_a_margin_in_q() -> None:
    spec: Spec = {"a": {"1": "+", "2": "-"}, "b": "-"}
    assert stepwise(grown(spec), min_q_gap=1.0)[0][0] == ("", "a", "b", 1)
    pairs, counts = stepwise(grown(spec), min_q_gap=1.5)
    assert pairs == [("a", "1", "2", 1)]
    assert counts == {"kept": 1, "Q margin too small": 1}


def test_a_least_edit_distance() -> None:
    spec: Spec = {"other": {"0": "+"}, "abc": {"3": "-"}, "abd": {"1": "+", "2": "-"}}
    pairs, counts = stepwise(grown(spec), min_edit_distance=3)
    assert pairs == [("", "other", "abc", 1 / 2), ("", "other", "abd", 1 / 2)]
    assert counts == {"kept": 2, "texts too much alike": 2}
    assert ("", "abd", "abc", 1 / 3) in stepwise(grown(spec), min_edit_distance=2)[0]


def test_weights_are_shared_among_the_pairs_that_the_filters_leave() -> None:
    tree = grown({"a": "+", "b": "+", "c": "-", "d": "-"}, q={"b": -0.8})
    pairs, counts = stepwise(tree, min_q_gap=0.5)
    assert pairs == [("", "a", "c", 1 / 2), ("", "a", "d", 1 / 2)]
    assert counts == {"kept": 2, "Q margin too small": 2}


def test_completions_must_be_better_too_if_asked() -> None:
    tree = grown(
        {"a": {"a1": "+"}, "b": {"b1": "-"}}, q={"a": 0.2, "a1": -0.9, "b": 0.1, "b1": 0.5}
    )
    assert stepwise(tree)[0] == [("", "a", "b", 1)]
    assert stepwise(tree, require_better_completion=True) == ([], {"completions not better": 1})
    fine = grown({"a": {"a1": "+"}, "b": {"b1": "-"}}, q={"a": 0.2, "b": 0.1})
    assert stepwise(fine, require_better_completion=True)[0] == [("", "a", "b", 1)]


def test_the_best_right_and_the_worst_wrong_completion_count() -> None:
    tree = grown(
        {"a": {"a1": "+", "a2": "+"}, "b": {"b1": "-", "b2": "-"}},
        q={"a": 0.5, "a1": -1.0, "a2": 1.0, "b": 0.4, "b1": 1.0, "b2": 0.8},
    )
    values = TreeValues("t", tree)
    assert values.best_right()[1:3] == [0.75, -1.0]
    assert values.worst_wrong()[4:] == pytest.approx([0.6, 1.0, 0.8])
    assert stepwise(tree, require_better_completion=True)[1] == {"kept": 1}


def test_down_the_most_visited_path_only() -> None:
    spec: Spec = {
        "a": {"a1": "+", "a2": "-"},
        "b": {"b1": {"b11": "+", "b12": "-"}, "b2": "-"},
    }
    everywhere = [pair[0] for pair in stepwise(grown(spec))[0]]
    assert everywhere == ["", "a", "b", "b b1"]
    assert [pair[0] for pair in stepwise(grown(spec), nodes="most-visited")[0]] == [
        "",
        "b",
        "b b1",
    ]


def test_reworded_steps_can_be_left_out() -> None:
    tree = grown({"a": {"1": "+"}, "b": {"2": "-"}, "c": {"3": "-"}})
    for index in (1, 3):
        step = tree.nodes[index].step
        assert step is not None
        tree.nodes[index].step = replace(step, code="x = 1 # the same\n")
    assert len(stepwise(tree)[0]) == 2
    pairs, counts = stepwise(tree, allow_rewordings=False)
    assert pairs == [("", "a", "c", 1)]
    assert counts["same program on both sides"] == 1


def test_steps_without_a_value_are_not_compared() -> None:
    tree = grown({"a": "+", "b": "-"})
    tree.nodes[2].visits = 0
    assert stepwise(tree) == ([], {})


def test_whole_solutions_two_best_against_two_worst() -> None:
    pairs, counts = whole(grown(TWO_AND_TWO))
    assert pairs == [
        ("", "a a1", "c c1", 1 / 4),
        ("", "a a1", "d d1", 1 / 4),
        ("", "a a2", "c c1", 1 / 4),
        ("", "a a2", "d d1", 1 / 4),
    ]
    assert counts == {"kept": 4}
    assert whole(grown(TWO_AND_TWO), final_pairs=0) == ([], {})
    assert len(whole(grown(TWO_AND_TWO), final_pairs=3)[0]) == 9


def test_whole_solutions_of_all_trees_of_a_problem_are_compared() -> None:
    right, wrong = grown({"a": {"1": "+"}}), grown({"b": {"2": "-"}})
    assert whole(right, wrong)[0] == [("", "a 1", "b 2", 1)]


def test_a_whole_solution_that_is_preferred_has_no_failed_code() -> None:
    tree = grown({"!a": {"1": "+"}, "b": {"2": "+", "3": "-"}, "!c": {"4": "-"}})
    assert whole(tree)[0] == [("", "b 2", "!c 4", 1 / 2), ("", "b 2", "b 3", 1 / 2)]


def keys(pairs: list[SelectedPair]) -> list[tuple[object, ...]]:
    return [(names(p.pair.prefix), names(p.pair.chosen), names(p.pair.rejected)) for p in pairs]


configs = st.builds(
    CurationConfig,
    min_q_gap=st.sampled_from([0.0, 0.5]),
    require_better_completion=st.booleans(),
    nodes=st.sampled_from(["all", "most-visited"]),
    positives=st.integers(1, 3),
    max_when_single=st.integers(1, 4),
)


@given(specs, configs)
def test_what_holds_for_all_step_pairs(spec: Spec, config: CurationConfig) -> None:
    tree = grown(spec)
    values = TreeValues("t", tree)
    weights: dict[int, float] = {}
    for found in step_pairs(values, config, {}):
        pair, good, bad = found.pair, found.chosen.node, found.rejected.node
        assert good != bad
        assert pair.chosen[0].text != pair.rejected[0].text
        assert tree.nodes[good].parent == tree.nodes[bad].parent == found.node
        assert tree.prefix(good) == pair.prefix + pair.chosen
        assert len(pair.prefix) == found.depth
        assert pair.q_chosen - pair.q_rejected >= max(config.min_q_gap, 1e-12)
        assert proved(tree, good, "right")
        assert proved(tree, bad, "wrong")
        weights[found.node] = weights.get(found.node, 0.0) + pair.weight
    assert all(total == pytest.approx(1) for total in weights.values())


@given(specs)
def test_what_holds_for_all_whole_pairs(spec: Spec) -> None:
    tree = grown(spec)
    pairs = final_pairs([TreeValues("t", tree)], CurationConfig(), {})
    for found in pairs:
        assert found.pair.chosen != found.pair.rejected
        assert found.pair.prefix == ()
        assert tree.nodes[found.chosen.node].verdict == "right"
        assert tree.nodes[found.rejected.node].verdict == "wrong"
    assert not pairs or sum(p.pair.weight for p in pairs) == pytest.approx(1)


@given(specs.flatmap(lambda spec: st.tuples(st.just(spec), shuffled(spec))), configs)
def test_the_order_of_siblings_changes_only_the_order_of_pairs(
    both: tuple[Spec, Spec], config: CurationConfig
) -> None:
    one, other = (TreeValues("t", grown(spec)) for spec in both)
    assert sorted(keys(step_pairs(one, config, {}))) == sorted(keys(step_pairs(other, config, {})))
    assert keys(final_pairs([one], config, {})) == keys(final_pairs([other], config, {}))


def proved(tree: Tree, node: int, verdict: str) -> bool:
    """Whether a path through a node ends with a verdict, walked by hand."""
    return any(
        end.verdict == verdict and node in tree.path(index) for index, end in enumerate(tree.nodes)
    )
