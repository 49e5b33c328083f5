"""The small steps the reader builds nodes with."""

from rstar_math.grading.limits import Unreadable
from rstar_math.grading.nodes import SCALARS, Node, Op, Rel, negate


def scalar(node: Node) -> Node:
    """The node itself. Raises `Unreadable` if it is no number or expression."""
    if not isinstance(node, SCALARS):
        raise Unreadable
    return node


def product(left: Node, right: Node) -> Node:
    """Two scalars multiplied, a product on the left growing longer."""
    if isinstance(left, Op) and left.name == "mul":
        return Op("mul", (*left.args, scalar(right)))
    return Op("mul", (scalar(left), scalar(right)))


def signed(sign: str, node: Node) -> Node:
    """A scalar with one of the signs + - ± ∓ before it."""
    if sign == "+":
        return node
    if sign == "-":
        return negate(scalar(node))
    return Op("plusminus" if sign == "±" else "minusplus", (scalar(node),))


def is_inequality(node: Node) -> bool:
    """Whether a node is a relation, and none of equality or membership."""
    return isinstance(node, Rel) and node.ops[0] not in ("=", "≈", "∈")
