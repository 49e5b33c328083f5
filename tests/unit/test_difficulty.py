"""Difficulty: rates by hand, from chains and from trees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.evaluation.reranking import Success, by_label, label, of_chains, of_tree
from rstar_math.search.tree import Tree
from rstar_math.types import Question, Step, Verdict

RIGHT, WRONG, UNKNOWN = Verdict.RIGHT, Verdict.WRONG, Verdict.UNKNOWN


def test_chains_without_an_answer_and_undecided_ones_are_not_right() -> None:
    found = of_chains("p", [RIGHT, WRONG, None, UNKNOWN])
    assert found == Success("p", 0.25, 4)
    assert found is not None
    assert found.interval == pytest.approx((0.0456, 0.6994), abs=1e-3)
    assert of_chains("p", []) is None


def end(tree: Tree, parent: int, answer: str, copies: int = 1) -> int:
    return tree.add(parent, Step(prose=answer, kind="answer", answer=answer), copies)


def test_a_tree_counts_by_how_likely_its_paths_are() -> None:
    tree = Tree(Question("p", "?"))
    likely = tree.add(0, Step(prose="a"), count=3)
    rare = tree.add(0, Step(prose="b"))
    end(tree, likely, "7", copies=1)
    end(tree, likely, "8", copies=1)
    for _ in range(4):
        end(tree, rare, "7")
    found = of_tree(tree, {"7": RIGHT, "8": WRONG})
    assert found is not None
    assert found.rate == pytest.approx(3 / 4 / 2 + 1 / 4)
    assert found.n == 6
    assert of_tree(tree) == Success("p", 0.0, 6)


def test_open_paths_do_not_count_and_failed_ones_do() -> None:
    tree = Tree(Question("p", "?"))
    assert of_tree(tree) is None
    tree.add(0, Step(prose="open"), count=2)
    tree.nodes[end(tree, 0, "7")].verdict = RIGHT
    failed = tree.add(0, Step(prose="failed"))
    tree.nodes[failed].failure = "code failed"
    assert of_tree(tree) == Success("p", 0.5, 2)


def test_labels() -> None:
    assert [label(rate) for rate in (1.0, 0.75, 0.74, 0.25, 0.01, 0.0)] == [
        "easy",
        "easy",
        "medium",
        "medium",
        "hard",
        "unsolved",
    ]
    assert label(0.3, [(0.5, "fine")]) == "unsolved"
    table = by_label([Success("a", 0.8, 10), Success("b", 0.0, 10)])
    assert list(table) == ["easy", "medium", "hard", "unsolved"]
    assert [len(some) for some in table.values()] == [1, 0, 0, 1]


@given(st.lists(st.sampled_from([RIGHT, WRONG, UNKNOWN, None]), min_size=1))
def test_the_interval_holds_the_rate(verdicts: list[Verdict | None]) -> None:
    found = of_chains("p", verdicts)
    assert found is not None
    low, high = found.interval
    assert 0.0 <= low <= found.rate + 1e-9
    assert found.rate - 1e-9 <= high <= 1.0
