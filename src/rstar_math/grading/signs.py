"""Plus-or-minus signs written out: 1 ± 2 is the list 3, -1; ∓ takes the other sign."""

from rstar_math.grading.nodes import Bag, Braced, Node, Op, Rel, Seq, negate, uses

_DOUBLE = frozenset(("plusminus", "minusplus"))


def expand_signs(node: Node) -> Node:
    """The node with ± and ∓ replaced by the list of both readings."""
    if not uses(node, _DOUBLE):
        return node
    if isinstance(node, Bag):
        items: list[Node] = []
        for item in node.items:
            expanded = expand_signs(item)
            items.extend(expanded.items if isinstance(expanded, Bag) else (expanded,))
        return Bag(tuple(items))
    if isinstance(node, Braced):
        members = expand_signs(Bag(node.items))
        return Braced(members.items) if isinstance(members, Bag) else node
    return Bag((_with_sign(node, True), _with_sign(node, False)))


def _with_sign(node: Node, positive: bool) -> Node:
    match node:
        case Op(name, args) if name in _DOUBLE:
            inner = _with_sign(args[0], positive)
            return inner if positive == (name == "plusminus") else negate(inner)
        case Op(name, args):
            return Op(name, tuple(_with_sign(arg, positive) for arg in args))
        case Rel(ops, sides):
            return Rel(ops, tuple(_with_sign(side, positive) for side in sides))
        case Seq(brackets, items):
            return Seq(brackets, tuple(_with_sign(item, positive) for item in items))
    return node
