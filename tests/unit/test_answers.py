"""How a final answer is chosen."""

import asyncio

import pytest

from rstar_math.search import Choice, Tree, majority, one_vote_per_path, votes_of
from rstar_math.search.stopping import unexplored_probability
from rstar_math.types import Question, Step
from tests.unit.toy import same_text


def chosen(tree: Tree) -> Choice:
    return asyncio.run(majority(votes_of(tree), same_text))


def program(tree: Tree, *answers: tuple[str, int]) -> list[int]:
    """A program below the root, with its answers and how often each was drawn."""
    code = tree.add(0, Step(code=f"print({len(tree)})\n", kind="code"))
    return [
        tree.add(code, Step(prose=f"{i} {a}", kind="answer", answer=a), count)
        for i, (a, count) in enumerate(answers)
    ]


def test_no_answer_is_no_choice() -> None:
    tree = Tree(Question("q", "?"))
    assert chosen(tree) == Choice(None, None, 0.0, {})
    tree.add(0, Step(prose="no idea", kind="answer"))
    assert chosen(tree).answer is None


def test_a_path_votes_with_the_probability_that_the_policy_writes_it() -> None:
    tree = Tree(Question("q", "?"))
    likely = tree.add(0, Step(code="a\n"), count=6)
    rare = tree.add(0, Step(code="b\n"), count=1)
    tree.add(0, Step(code="1/0\n"), count=1)
    tree.add(likely, Step(prose="It is 9", kind="answer", answer="9"), count=2)
    tree.add(likely, Step(prose="So it is 9", kind="answer", answer="9"), count=1)
    tree.add(likely, Step(prose="or 8", kind="answer", answer="8"), count=1)
    for wording in range(5):
        tree.add(rare, Step(prose=f"{wording}: 7", kind="answer", answer="7"))
    for node in tree:
        node.expanded, node.closed = bool(node.children), node.answered
    choice = chosen(tree)
    assert choice.answer == "9"
    assert choice.votes == pytest.approx({"9": 6 / 8 * 3 / 4, "8": 6 / 8 / 4, "7": 1 / 8})
    assert choice.share == pytest.approx(9 / 14)
    assert unexplored_probability(tree) == pytest.approx(1 / 8)


def test_each_run_of_a_tree_weighs_one() -> None:
    tree = Tree(Question("q", "?"))
    for answers in (["1"], ["2", "3", "4"]):
        run = Tree(tree.question)
        for answer in answers:
            run.add(0, Step(prose=f"It is {answer}", kind="answer", answer=answer))
        tree.merge(run)
    assert chosen(tree).votes == pytest.approx({"1": 1.0, "2": 1 / 3, "3": 1 / 3, "4": 1 / 3})


def test_equal_votes_go_to_the_first_found() -> None:
    tree = Tree(Question("q", "?"))
    (first,) = program(tree, ("1", 1))
    program(tree, ("2", 1))
    assert (chosen(tree).answer, chosen(tree).node) == ("1", first)


def test_the_path_shown_is_the_one_with_the_highest_q() -> None:
    tree = Tree(Question("q", "?"))
    (low,) = program(tree, ("1", 1))
    (high,) = program(tree, ("1", 1))
    tree.backup(low, -1.0)
    tree.backup(high, 1.0)
    assert chosen(tree).node == high


def test_each_path_counts_once_in_the_generators_majority() -> None:
    tree = Tree(Question("q", "?"))
    program(tree, ("9", 5), ("8", 1), ("8", 1))
    assert chosen(tree).answer == "9"
    choice = asyncio.run(one_vote_per_path(votes_of(tree), same_text))
    assert (choice.answer, choice.votes) == ("8", {"8": 2.0, "9": 1.0})
