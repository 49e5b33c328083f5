"""Sets of reals and equations in a canonical form: intervals, inequalities, set builders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rstar_math.grading.exact import real
from rstar_math.grading.nodes import (
    INF,
    SCALARS,
    BracketedList,
    Builder,
    FiniteSet,
    Node,
    Num,
    Operation,
    RealSet,
    Relation,
    Sym,
    UnorderedList,
    children,
    negate,
    symbols,
    uses,
)

_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!=", "=": "=", "≈": "≈"}
_MINUS_INF = negate(INF)


@dataclass(frozen=True, slots=True)
class Piece:
    """One interval; a point where `low` and `high` are equal."""

    low: Node
    high: Node
    closed: tuple[bool, bool]


_LINE = (Piece(_MINUS_INF, INF, (False, False)),)


def is_range(node: Node) -> bool:
    """Whether a node is certainly a set of reals and not, like (2, 3), perhaps a tuple."""
    if isinstance(node, RealSet | Builder):
        return True
    if isinstance(node, Relation):
        return any(op not in ("=", "≈") for op in node.ops)
    if isinstance(node, BracketedList):
        return node.brackets in ("(]", "[)") or (
            len(node.items) == 2 and any(item in (INF, _MINUS_INF) for item in node.items)
        )
    return isinstance(node, UnorderedList) and all(
        isinstance(i, Relation) and is_range(i) for i in node.items
    )


def variables(node: Node) -> set[str]:
    """The variable that a condition is about."""
    if isinstance(node, Builder):
        return set()
    if isinstance(node, RealSet | UnorderedList):
        return set().union(
            *(variables(part) for part in (node.parts if isinstance(node, RealSet) else node.items))
        )
    if isinstance(node, Relation):
        return {side.name for side in node.sides if isinstance(side, Sym)} or symbols(node)
    return set()


def pieces(node: Node) -> tuple[Piece, ...] | None:
    """The pieces of a set of reals from left to right; None if it is no such set, or its order is
    open."""
    if isinstance(node, BracketedList):
        if len(node.items) != 2 or not all(isinstance(item, SCALARS) for item in node.items):
            return None
        return _interval(node)
    if isinstance(node, FiniteSet):
        if not all(isinstance(item, SCALARS) for item in node.items):
            return None
        return _joined([Piece(item, item, (True, True)) for item in node.items])
    if isinstance(node, Builder):
        if variables(node.condition) - {node.variable}:
            return None
        return pieces(node.condition)
    if isinstance(node, Relation):
        return _of_relation(node)
    if isinstance(node, RealSet):
        return _of_region(node)
    if isinstance(node, UnorderedList):
        parts = [pieces(item) for item in node.items]
        together = _union(parts)
        # x > 2, x < 5 means both: either alone would leave nothing out
        return pieces(RealSet("intersection", node.items)) if together == _LINE else together
    return None


def _interval(node: BracketedList) -> tuple[Piece, ...] | None:
    low, high = node.items
    closed = (
        node.brackets[0] == "[" and low != _MINUS_INF,
        node.brackets[1] == "]" and high != INF,
    )
    a, b = real(low), real(high)
    if a is not None and b is not None and (a > b or (a == b and closed != (True, True))):
        return None
    return (Piece(low, high, closed),)


def _of_region(node: RealSet) -> tuple[Piece, ...] | None:
    parts = [pieces(part) for part in node.parts]
    if node.kind == "union":
        return _union(parts)
    result = parts[0]
    for part in parts[1:]:
        if result is None or part is None:
            return None
        other = part if node.kind == "intersection" else _complement(part)
        result = _intersected(result, other) if other is not None else None
    return result


def _union(parts: Sequence[tuple[Piece, ...] | None]) -> tuple[Piece, ...] | None:
    listed: list[Piece] = []
    for part in parts:
        if part is None:
            return None
        listed.extend(part)
    return _joined(listed)


def _of_relation(node: Relation) -> tuple[Piece, ...] | None:
    if node.ops == ("∈",):
        return pieces(node.sides[1]) if isinstance(node.sides[0], Sym) else None
    result: tuple[Piece, ...] | None = _LINE
    subject = node.sides[1] if len(node.sides) == 3 else node.sides[0]
    for left, op, right in zip(node.sides, node.ops, node.sides[1:], strict=False):
        bound = _bound(left, op, right, subject)
        if bound is None or result is None:
            return None
        result = _intersected(result, bound)
    return result


def _bound(left: Node, op: str, right: Node, subject: Node) -> tuple[Piece, ...] | None:
    """Where `left op right` puts the variable alone on one side; on both, it is about the
    subject."""
    flip = (
        right == subject if isinstance(subject, Sym) else bool(symbols(right)) > bool(symbols(left))
    )
    if flip and op in _FLIPPED:
        left, op, right = right, _FLIPPED[op], left
    if not isinstance(right, SCALARS) or op not in _FLIPPED:
        return None
    if (
        isinstance(left, Operation)
        and left.name == "abs"
        and isinstance(left.args[0], Sym)
        and not symbols(right)
    ):
        return _absolute(op, right)
    if not isinstance(left, Sym) or left.name in symbols(right):
        return None
    if op in ("<", "<="):
        return (Piece(_MINUS_INF, right, (False, op == "<=" and right != INF)),)
    if op in (">", ">="):
        return (Piece(right, INF, (op == ">=" and right != _MINUS_INF, False)),)
    if op == "!=":
        return _complement((Piece(right, right, (True, True)),))
    return (Piece(right, right, (True, True)),)


def _absolute(op: str, bound: Node) -> tuple[Piece, ...] | None:
    size = real(bound)
    if size is None or size <= 0 or op not in ("<", "<=", ">", ">="):
        return None
    inside = (Piece(negate(bound), bound, (op in ("<=", ">"),) * 2),)
    return inside if op in ("<", "<=") else _complement(inside)


def _joined(listed: list[Piece]) -> tuple[Piece, ...] | None:
    """Pieces sorted, with those that touch made one; None where the order cannot be told."""
    if len(listed) < 2:
        return tuple(listed)
    placed = []
    for piece in listed:
        low, high = real(piece.low), real(piece.high)
        if low is None or high is None:
            return None
        placed.append((low, not piece.closed[0], high, piece))
    placed.sort(key=lambda entry: entry[:3])
    joined = [placed[0][3]]
    end = placed[0][2]
    for low, _, high, piece in placed[1:]:
        last = joined[-1]
        if low > end or (low == end and not (piece.closed[0] or last.closed[1])):
            joined.append(piece)
            end = high
        elif high > end or (high == end and piece.closed[1]):
            joined[-1] = Piece(last.low, piece.high, (last.closed[0], piece.closed[1]))
            end = high
    return tuple(joined)


def _complement(parts: tuple[Piece, ...]) -> tuple[Piece, ...] | None:
    """What is left of the line; `parts` are sorted and apart."""
    left: list[Piece] = []
    low, closed = _MINUS_INF, False
    for piece in parts:
        if piece.low != _MINUS_INF:
            left.append(Piece(low, piece.low, (closed, not piece.closed[0])))
        low, closed = piece.high, not piece.closed[1]
    if low != INF:
        left.append(Piece(low, INF, (closed, False)))
    return tuple(left)


def _intersected(a: tuple[Piece, ...], b: tuple[Piece, ...]) -> tuple[Piece, ...] | None:
    if a == _LINE or b == _LINE:
        return b if a == _LINE else a
    shared: list[Piece] = []
    for x in a:
        for y in b:
            low, high = _later(x, y), _earlier(x, y)
            if low is None or high is None:
                return None
            start, end = real(low[0]), real(high[0])
            if start is None or end is None:
                if {x.low, y.low} >= {_MINUS_INF} and {x.high, y.high} >= {INF}:
                    start, end = 0.0, 1.0  # bounds from both sides, by names: taken to be in order
                else:
                    return None
            if start < end or (start == end and low[1] and high[1]):
                shared.append(Piece(low[0], high[0], (low[1], high[1])))
    return _joined(shared)


def _later(x: Piece, y: Piece) -> tuple[Node, bool] | None:
    """The greater of two lower ends, and whether it belongs to both pieces."""
    if x.low == _MINUS_INF or y.low == _MINUS_INF:
        piece = y if x.low == _MINUS_INF else x
        return piece.low, piece.closed[0]
    a, b = real(x.low), real(y.low)
    if a is None or b is None:
        return None
    if a == b:
        return x.low, x.closed[0] and y.closed[0]
    return (x.low, x.closed[0]) if a > b else (y.low, y.closed[0])


def _earlier(x: Piece, y: Piece) -> tuple[Node, bool] | None:
    """The smaller of two upper ends, and whether it belongs to both pieces."""
    if x.high == INF or y.high == INF:
        piece = y if x.high == INF else x
        return piece.high, piece.closed[1]
    a, b = real(x.high), real(y.high)
    if a is None or b is None:
        return None
    if a == b:
        return x.high, x.closed[1] and y.closed[1]
    return (x.high, x.closed[1]) if a < b else (y.high, y.closed[1])


class Scalars(Protocol):
    """Decides about numbers and expressions; raises `NeedsNumericEngine` where it cannot."""

    def same(self, a: Node, b: Node) -> bool:
        """Whether two scalars are equal, for all values of their variables."""
        ...

    def ratio(self, a: Node, b: Node) -> int:
        """The sign of a / b if that is one constant other than 0, else 0."""
        ...


def equal_relations(a: Relation, b: Relation, scalars: Scalars) -> bool:
    """Whether two inequalities say the same: one sign, and sides that differ by a positive
    factor."""
    if len(a.ops) != 1 or len(b.ops) != 1 or symbols(a) != symbols(b):
        return (
            len(a.ops) == len(b.ops)
            and a.ops == b.ops
            and all(
                isinstance(x, SCALARS) and isinstance(y, SCALARS) and scalars.same(x, y)
                for x, y in zip(a.sides, b.sides, strict=True)
            )
        )
    if not all(isinstance(side, SCALARS) for side in a.sides + b.sides) or "∈" in a.ops + b.ops:
        return False
    sign = scalars.ratio(difference(a), difference(b))
    if a.ops == ("!=",) or b.ops == ("!=",):
        return a.ops == b.ops and sign != 0
    if sign == 0:
        return False
    return a.ops[0] == (b.ops[0] if sign > 0 else _FLIPPED[b.ops[0]])


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


def is_equation(node: Node) -> bool:
    """Whether a node is a chain of "=" and "≈" alone."""
    return isinstance(node, Relation) and all(op in ("=", "≈") for op in node.ops)


def label(node: Node) -> str | None:
    """The name that an equation gives a value to: "x", "f(x)", "(x,y)"; None if it names
    nothing."""
    if not isinstance(node, Relation) or not is_equation(node):
        return None
    return _name(node.sides[0]) or (_name(node.sides[-1]) if not symbols(node.sides[0]) else None)


def _name(side: Node) -> str | None:
    if isinstance(side, Sym):
        return side.name
    if (
        isinstance(side, BracketedList)
        and side.items
        and all(isinstance(item, Sym) for item in side.items)
    ):
        return "(" + ",".join(item.name for item in side.items if isinstance(item, Sym)) + ")"
    called = _called(side)
    return f"{called[0]}({','.join(sorted(symbols(called[1])))})" if called else None


def _called(side: Node) -> tuple[str, Node] | None:
    """The function name and the argument of f(x), which reads as a product."""
    if not isinstance(side, Operation) or side.name != "mul" or len(side.args) != 2:
        return None
    head, argument = side.args
    inverse = ""
    if isinstance(head, Operation) and head.name == "pow" and isinstance(head.args[0], Sym):
        head, inverse = head.args[0], "^"
    if isinstance(head, Sym) and head.name.rstrip("'").partition("_")[0] in _FUNCTION_NAMES:
        return head.name + inverse, argument
    return None


def stated_value(equation: Relation, is_gold: bool = False) -> list[Node]:
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


def equal_equations(
    a: Relation, b: Relation, equal: Callable[[Node, Node], bool], scalars: Scalars
) -> bool:
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


def difference(relation: Relation) -> Node:
    """The left side less the right side of a relation of two sides."""
    return Operation("add", (relation.sides[0], negate(relation.sides[1])))


def _is_function(equation: Relation) -> bool:
    return equation.sides[0] == Sym("y") or _called(equation.sides[0]) is not None


def _renamed(a: Relation, value: Node, b: Relation) -> Node | None:
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
    if isinstance(node, Operation):
        return Operation(node.name, tuple(substituted(arg, values) for arg in node.args))
    return node
