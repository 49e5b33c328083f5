"""What became of each node of a tree, in the picture and the outline."""

from rstar_math.search import Choice, Tree
from rstar_math.search.node_states import NodeState, node_states
from rstar_math.search.tree_svg import tree_svg
from rstar_math.types import Question, Step, Verdict


def example() -> tuple[Tree, Choice]:
    """A tree with two paths to 41, one to 28, a failed and an unfinished one."""
    tree = Tree(Question("q", "23 + 18"))
    first = tree.add(0, Step(prose="# Add.", kind="step"))
    for answer in ("41", "41", "28"):
        tree.add(first, Step(prose=answer, kind="answer", answer=answer))
    tree.nodes[tree.add(0, Step(prose="# Fail.", kind="code"))].failure = "code failed"
    tree.add(0, Step(prose="# Wait.", kind="step"))
    return tree, Choice("41", 2, 0.67, {"41": 2.0, "28": 1.0})


def test_each_node_says_what_became_of_it() -> None:
    tree, choice = example()
    inner, failed, waiting = NodeState.INNER, NodeState.FAILED, NodeState.OPEN
    answer, right, wrong = NodeState.ANSWER, NodeState.RIGHT, NodeState.WRONG
    assert node_states(tree, choice) == [inner, inner, *[answer] * 3, failed, waiting]
    states = node_states(tree, choice, Verdict.WRONG)
    assert states[2:5] == [wrong, wrong, answer], "an answer that was not graded is neither"
    assert node_states(tree, choice, Verdict.UNKNOWN)[2] is answer
    tree.nodes[4].verdict = Verdict.RIGHT
    assert node_states(tree, choice, Verdict.WRONG)[4] is right


def test_the_picture_says_it_in_words_too() -> None:
    tree, choice = example()
    picture = tree_svg(tree, choice, Verdict.WRONG, standalone=True)
    for words in ("✗ 41", ">28<", "wrong answer", "answer, not graded", "not continued"):
        assert words in picture, words
    assert "right answer" not in picture
    assert picture.count('class="ring"') == 3 + 1, "root, step, answer; and the legend"
    assert "chosen path" not in tree_svg(tree, Choice(None, None, 0.0, {}), standalone=True)
