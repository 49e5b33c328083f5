"""Equations: the name on their left, the value they state, and when two say the same."""

from collections.abc import Callable
from typing import Protocol

from rstar_math.grading.approximate import real
from rstar_math.grading.nodes import (
    SCALARS,
    Node,
    Num,
    Op,
    Rel,
    Seq,
    Sym,
    children,
    negate,
    symbols,
    uses,
)

_CURVED = frozenset(("pow", "div"))
_FUNCTION_NAMES = frozenset(
    [
        "f",
        "g",
        "h",
        "F",
        "G",
        "H",
        "P",
        "Q",
        "p",
        "q",
        "s",
        "v",
        "T",
        "u",
        "w",
        "y",
        "r",
        "C",
        "R",
        "N",
        "S",
        "A",
        "V",
    ]
)


class Scalars(Protocol):
    """Decides about numbers and expressions; raises `Undecided` where it cannot."""

    def same(self, a: Node, b: Node) -> bool:
        """Whether two scalars are equal, for all values of their variables."""
        ...

    def ratio(self, a: Node, b: Node) -> int:
        """The sign of a / b if that is one constant other than 0, else 0."""
        ...


def is_equation(node: Node) -> bool:
    """Whether a node is a chain of "=" and "≈" alone."""
    return isinstance(node, Rel) and all(op in ("=", "≈") for op in node.ops)


def label(node: Node) -> str | None:
    """The name that an equation gives a value to: "x", "f(x)", "(x,y)"; None if it names
    nothing."""
    if not isinstance(node, Rel) or not is_equation(node):
        return None
    return _name(node.sides[0]) or (_name(node.sides[-1]) if not symbols(node.sides[0]) else None)


def _name(side: Node) -> str | None:
    if isinstance(side, Sym):
        return side.name
    if isinstance(side, Seq) and side.items and all(isinstance(item, Sym) for item in side.items):
        return "(" + ",".join(item.name for item in side.items if isinstance(item, Sym)) + ")"
    called = _called(side)
    return f"{called[0]}({','.join(sorted(symbols(called[1])))})" if called else None


def _called(side: Node) -> tuple[str, Node] | None:
    """The function name and the argument of f(x), which reads as a product."""
    if not isinstance(side, Op) or side.name != "mul" or len(side.args) != 2:
        return None
    head, argument = side.args
    inverse = ""
    if isinstance(head, Op) and head.name == "pow" and isinstance(head.args[0], Sym):
        head, inverse = head.args[0], "^"
    if isinstance(head, Sym) and head.name.rstrip("'").partition("_")[0] in _FUNCTION_NAMES:
        return head.name + inverse, argument
    return None


def stated_value(equation: Rel, is_gold: bool = False) -> list[Node]:
    """The values that an equation states: for "x = 1/2" 1/2, for "x = √2 ≈ 1.41" √2 and 1.41, for
    "2 + 3 = 5" 5; none where it states none or contradicts itself. A reference such as x + y = 5
    is a line and no value; an answer so written may have been asked for x + y."""
    sides, ops = equation.sides, equation.ops
    if _name(sides[0]) is None and not symbols(sides[0]):
        if _name(sides[-1]) is not None:
            return [sides[0]]
        if not _agree(sides, 0.02 if "≈" in ops else 1e-9):
            return []
        return [sides[0], sides[-1]] if "≈" in ops else [sides[-1]]
    if _name(sides[0]) is None and (symbols(sides[-1]) or not _is_asked_for(sides[0], is_gold)):
        return []
    if "≈" in ops and len(sides) > 2:
        before = sides[max(1, ops.index("≈"))]
        return [before, sides[-1]] if _agree((before, sides[-1]), 0.02) else []
    return [sides[-1]]


def _is_asked_for(side: Node, is_gold: bool) -> bool:
    """Whether a problem may ask for the value of a side: of AB, sin x or x + y, not of 2x or x^2 +
    y^2."""
    if (
        isinstance(side, Num)
        or uses(side, _CURVED)
        or (is_gold and uses(side, frozenset(("add",))))
    ):
        return False
    return all(_is_asked_for(child, is_gold) for child in children(side))


def _agree(sides: tuple[Node, ...], tolerance: float) -> bool:
    values = [real(side) for side in sides]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return False
    return all(
        abs(value - known[-1]) <= tolerance * max(abs(value), abs(known[-1])) for value in known
    )


def equal_equations(a: Rel, b: Rel, equal: Callable[[Node, Node], bool], scalars: Scalars) -> bool:
    """Whether two equations say the same: one name and one value, or sides that differ by a
    factor."""
    names = label(a), label(b)
    values = stated_value(a)[-1:], stated_value(b)[-1:]
    if None not in names and values[0] and values[1]:
        if names[0] == names[1] and equal(values[0][0], values[1][0]):
            return True
        if _is_function(a) and _is_function(b):
            renamed = _renamed(a, values[0][0], b)
            return renamed is not None and equal(renamed, values[1][0])
    if len(a.sides) != 2 or len(b.sides) != 2 or "≈" in a.ops + b.ops:
        return False
    if not all(isinstance(side, SCALARS) for side in a.sides + b.sides):
        return False
    if symbols(a) != symbols(b):
        return False
    return scalars.ratio(difference(a), difference(b)) != 0


def difference(relation: Rel) -> Node:
    """The left side less the right side of a relation of two sides."""
    return Op("add", (relation.sides[0], negate(relation.sides[1])))


def _is_function(equation: Rel) -> bool:
    return equation.sides[0] == Sym("y") or _called(equation.sides[0]) is not None


def _renamed(a: Rel, value: Node, b: Rel) -> Node | None:
    """The value with the argument of a's function called as in b; None if they take different
    ones."""
    first, second = _called(a.sides[0]), _called(b.sides[0])
    if first is None or second is None or first[1] == second[1]:
        return value
    if not isinstance(first[1], Sym) or not isinstance(second[1], Sym):
        return None
    if second[1].name in symbols(value):
        return None
    return substituted(value, {first[1].name: second[1]})


def substituted(node: Node, values: dict[str, Node]) -> Node:
    """A scalar with some of its variables replaced."""
    if isinstance(node, Sym):
        return values.get(node.name, node)
    if isinstance(node, Op):
        return Op(node.name, tuple(substituted(arg, values) for arg in node.args))
    return node
