"""Success rates of trees by hand, and difficulty labels."""

import pytest

from rstar_math.evaluation.reranking import difficulty, success_rate
from rstar_math.search.tree import Tree
from rstar_math.types import Question, Step, Verdict

RIGHT, WRONG = Verdict.RIGHT, Verdict.WRONG


def end(tree: Tree, parent: int, answer: str, verdict: Verdict | None = None) -> int:
    node = tree.add(parent, Step(prose=answer, kind="answer", answer=answer))
    tree.nodes[node].verdict = verdict
    return node


def test_a_tree_counts_by_how_likely_its_paths_are() -> None:
    tree = Tree(Question("p", "?"))
    likely = tree.add(0, Step(prose="a"), count=3)
    rare = tree.add(0, Step(prose="b"))
    end(tree, likely, "7", RIGHT)
    end(tree, likely, "8", WRONG)
    for _ in range(4):
        end(tree, rare, "7", RIGHT)
    assert success_rate(tree) == pytest.approx(3 / 4 / 2 + 1 / 4)


def test_undecided_and_ungraded_answers_are_not_right() -> None:
    tree = Tree(Question("p", "?"))
    for answer, verdict in (("1", RIGHT), ("2", WRONG), ("3", None), ("4", Verdict.UNKNOWN)):
        end(tree, 0, answer, verdict)
    assert success_rate(tree) == pytest.approx(0.25)


def test_open_paths_do_not_count_and_failed_ones_do() -> None:
    tree = Tree(Question("p", "?"))
    assert success_rate(tree) is None
    tree.add(0, Step(prose="open"), count=2)
    end(tree, 0, "7", RIGHT)
    failed = tree.add(0, Step(prose="failed"))
    tree.nodes[failed].failure = "code failed"
    assert success_rate(tree) == pytest.approx(0.5)


def test_labels() -> None:
    labels = [difficulty(rate) for rate in (1.0, 0.75, 0.74, 0.25, 0.01, 0.0)]
    assert labels == ["easy", "easy", "medium", "medium", "hard", "unsolved"]
