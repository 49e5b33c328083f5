"""What became of each node of a tree, for pictures and outlines."""

from enum import StrEnum

from rstar_math.search.tree import ROOT, Node, Tree
from rstar_math.search.voting import Choice
from rstar_math.types import Verdict


class NodeState(StrEnum):
    """What became of a node. The value is also its CSS class."""

    RIGHT = "right"
    WRONG = "wrong"
    ANSWER = "answer"
    FAILED = "failed"
    OPEN = "open"
    INNER = "inner"

    @property
    def description(self) -> str:
        """The state in words."""
        return _DESCRIPTIONS[self]

    @property
    def is_answer(self) -> bool:
        """Whether a path ends here with an answer."""
        return self in (NodeState.RIGHT, NodeState.WRONG, NodeState.ANSWER)


_DESCRIPTIONS = {
    NodeState.RIGHT: "right answer",
    NodeState.WRONG: "wrong answer",
    NodeState.ANSWER: "answer, not graded",
    NodeState.FAILED: "ended without an answer",
    NodeState.OPEN: "not continued",
    NodeState.INNER: "step",
}


def node_states(tree: Tree, choice: Choice, verdict: Verdict | None = None) -> list[NodeState]:
    """Return the state of each node, the root included.

    `verdict` is that of the chosen answer. It holds for every path that ends with the same text;
    other answers are graded only in a guided search.
    """
    return [_state(node, index, choice, verdict) for index, node in enumerate(tree.nodes)]


def _state(node: Node, index: int, choice: Choice, verdict: Verdict | None) -> NodeState:
    if node.failure is not None:
        return NodeState.FAILED
    if node.answered and node.step is not None:
        is_chosen = node.step.answer == choice.answer
        found = node.verdict or (verdict if is_chosen else None)
        states = {Verdict.RIGHT: NodeState.RIGHT, Verdict.WRONG: NodeState.WRONG}
        return states.get(found, NodeState.ANSWER) if found else NodeState.ANSWER
    return NodeState.INNER if node.children or index == ROOT else NodeState.OPEN
