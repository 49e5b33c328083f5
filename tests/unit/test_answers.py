"""How a final answer is chosen."""

import asyncio

from rstar_math.search import Choice, Tree, ballots, majority
from rstar_math.types import Question, Step
from tests.unit.toy import same_text


def chosen(tree: Tree) -> Choice:
    return asyncio.run(majority(ballots(tree), same_text))


def program(tree: Tree, *answers: tuple[str, int]) -> list[int]:
    """A program below the root, with its answers and how often each was drawn."""
    code = tree.add(0, Step(code=f"print({len(tree)})\n", kind="code"))
    return [
        tree.add(code, Step(prose=f"{i} {a}", kind="answer", answer=a), copies)
        for i, (a, copies) in enumerate(answers)
    ]


def test_no_answer_is_no_choice() -> None:
    tree = Tree(Question("q", "?"))
    assert chosen(tree) == Choice(None, None, 0.0, {})
    tree.add(0, Step(prose="no idea", kind="answer"))
    assert chosen(tree).answer is None


def test_a_program_has_one_vote_however_its_answer_is_worded() -> None:
    tree = Tree(Question("q", "?"))
    program(tree, ("7", 1), ("7", 1), ("7", 1), ("7", 1))
    program(tree, ("9", 8))
    program(tree, ("9", 3), ("7", 1))
    choice = chosen(tree)
    assert choice.answer == "9"
    assert choice.votes == {"9": 1.75, "7": 1.25}
    assert choice.share == 1.75 / 3


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
