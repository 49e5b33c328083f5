"""Converts sets of reals to sorted intervals, and compares equations and inequalities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rstar_math.grading.exact import approximate_real
from rstar_math.grading.nodes import (
    INF,
    SCALARS,
    BracketedList,
    FiniteSet,
    Node,
    Num,
    Operation,
    RealSet,
    Relation,
    SetBuilder,
    Sym,
    UnorderedList,
    children,
    contains_operation,
    negate,
    symbols,
)

_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!=", "=": "=", "≈": "≈"}
_MINUS_INF = negate(INF)


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of reals, or a point if `low` equals `high`."""

    low: Node
    high: Node
    closed: tuple[bool, bool]
    """Whether the lower and the upper end belong to it."""


_REAL_LINE = (Interval(_MINUS_INF, INF, (False, False)),)


def is_real_set(node: Node) -> bool:
    """Whether a node is certainly a set of reals. (2, 3) is not: it may be a tuple."""
    if isinstance(node, RealSet | SetBuilder):
        return True
    if isinstance(node, Relation):
        return any(op not in ("=", "≈") for op in node.ops)
    if isinstance(node, BracketedList):
        return node.brackets in ("(]", "[)") or (
            len(node.items) == 2 and any(item in (INF, _MINUS_INF) for item in node.items)
        )
    return isinstance(node, UnorderedList) and all(
        isinstance(i, Relation) and is_real_set(i) for i in node.items
    )


def variables(node: Node) -> set[str]:
    """The variables that a condition restricts."""
    if isinstance(node, SetBuilder):
        return set()
    if isinstance(node, RealSet | UnorderedList):
        return set().union(
            *(variables(part) for part in (node.parts if isinstance(node, RealSet) else node.items))
        )
    if isinstance(node, Relation):
        return {side.name for side in node.sides if isinstance(side, Sym)} or symbols(node)
    return set()


def to_intervals(node: Node) -> tuple[Interval, ...] | None:
    """The disjoint intervals of a set of reals in ascending order.

    None if it is not such a set or the order of its bounds is unknown.
    """
    if isinstance(node, BracketedList):
        if len(node.items) != 2 or not all(isinstance(item, SCALARS) for item in node.items):
            return None
        return _from_brackets(node)
    if isinstance(node, FiniteSet):
        if not all(isinstance(item, SCALARS) for item in node.items):
            return None
        return _merged([Interval(item, item, (True, True)) for item in node.items])
    if isinstance(node, SetBuilder):
        if variables(node.condition) - {node.variable}:
            return None
        return to_intervals(node.condition)
    if isinstance(node, Relation):
        return _from_relation(node)
    if isinstance(node, RealSet):
        return _from_real_set(node)
    if isinstance(node, UnorderedList):
        parts = [to_intervals(item) for item in node.items]
        union = _union(parts)
        # "x > 2, x < 5" means both conditions: their union would be the whole line.
        return to_intervals(RealSet("intersection", node.items)) if union == _REAL_LINE else union
    return None


def _from_brackets(node: BracketedList) -> tuple[Interval, ...] | None:
    """The interval between two bounds; None if it is empty."""
    low, high = node.items
    closed = (
        node.brackets[0] == "[" and low != _MINUS_INF,
        node.brackets[1] == "]" and high != INF,
    )
    a, b = approximate_real(low), approximate_real(high)
    if a is not None and b is not None and (a > b or (a == b and closed != (True, True))):
        return None
    return (Interval(low, high, closed),)


def _from_real_set(node: RealSet) -> tuple[Interval, ...] | None:
    parts = [to_intervals(part) for part in node.parts]
    if node.kind == "union":
        return _union(parts)
    result = parts[0]
    for part in parts[1:]:
        if result is None or part is None:
            return None
        other = part if node.kind == "intersection" else _complement(part)
        result = _intersection(result, other) if other is not None else None
    return result


def _union(parts: Sequence[tuple[Interval, ...] | None]) -> tuple[Interval, ...] | None:
    intervals: list[Interval] = []
    for part in parts:
        if part is None:
            return None
        intervals.extend(part)
    return _merged(intervals)


def _from_relation(node: Relation) -> tuple[Interval, ...] | None:
    if node.ops == ("∈",):
        return to_intervals(node.sides[1]) if isinstance(node.sides[0], Sym) else None
    result: tuple[Interval, ...] | None = _REAL_LINE
    subject = node.sides[1] if len(node.sides) == 3 else node.sides[0]
    for left, op, right in zip(node.sides, node.ops, node.sides[1:], strict=False):
        bound = _from_inequality(left, op, right, subject)
        if bound is None or result is None:
            return None
        result = _intersection(result, bound)
    return result


def _from_inequality(
    left: Node, op: str, right: Node, subject: Node
) -> tuple[Interval, ...] | None:
    """The solutions of `left op right` if one side is the variable alone, else None.

    If both sides are variables, `subject` is the one that is restricted.
    """
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
        return _from_absolute_value(op, right)
    if not isinstance(left, Sym) or left.name in symbols(right):
        return None
    if op in ("<", "<="):
        return (Interval(_MINUS_INF, right, (False, op == "<=" and right != INF)),)
    if op in (">", ">="):
        return (Interval(right, INF, (op == ">=" and right != _MINUS_INF, False)),)
    if op == "!=":
        return _complement((Interval(right, right, (True, True)),))
    return (Interval(right, right, (True, True)),)


def _from_absolute_value(op: str, bound: Node) -> tuple[Interval, ...] | None:
    """The solutions of |x| op bound; None if the bound is not positive."""
    size = approximate_real(bound)
    if size is None or size <= 0 or op not in ("<", "<=", ">", ">="):
        return None
    inside = (Interval(negate(bound), bound, (op in ("<=", ">"),) * 2),)
    return inside if op in ("<", "<=") else _complement(inside)


def _merged(intervals: list[Interval]) -> tuple[Interval, ...] | None:
    """The intervals sorted, touching ones merged; None if their order is unknown."""
    if len(intervals) < 2:
        return tuple(intervals)
    ordered = []
    for interval in intervals:
        low, high = approximate_real(interval.low), approximate_real(interval.high)
        if low is None or high is None:
            return None
        ordered.append((low, not interval.closed[0], high, interval))
    ordered.sort(key=lambda entry: entry[:3])
    merged = [ordered[0][3]]
    end = ordered[0][2]
    for low, _, high, interval in ordered[1:]:
        last = merged[-1]
        if low > end or (low == end and not (interval.closed[0] or last.closed[1])):
            merged.append(interval)
            end = high
        elif high > end or (high == end and interval.closed[1]):
            merged[-1] = Interval(last.low, interval.high, (last.closed[0], interval.closed[1]))
            end = high
    return tuple(merged)


def _complement(parts: tuple[Interval, ...]) -> tuple[Interval, ...] | None:
    """The complement in the reals. `parts` must be sorted and disjoint."""
    gaps: list[Interval] = []
    low, closed = _MINUS_INF, False
    for interval in parts:
        if interval.low != _MINUS_INF:
            gaps.append(Interval(low, interval.low, (closed, not interval.closed[0])))
        low, closed = interval.high, not interval.closed[1]
    if low != INF:
        gaps.append(Interval(low, INF, (closed, False)))
    return tuple(gaps)


def _intersection(a: tuple[Interval, ...], b: tuple[Interval, ...]) -> tuple[Interval, ...] | None:
    if a == _REAL_LINE or b == _REAL_LINE:
        return b if a == _REAL_LINE else a
    shared: list[Interval] = []
    for x in a:
        for y in b:
            low, high = _greater_low(x, y), _smaller_high(x, y)
            if low is None or high is None:
                return None
            start, end = approximate_real(low[0]), approximate_real(high[0])
            if start is None or end is None:
                if {x.low, y.low} >= {_MINUS_INF} and {x.high, y.high} >= {INF}:
                    # Symbolic bounds from both sides are assumed to be in order.
                    start, end = 0.0, 1.0
                else:
                    return None
            if start < end or (start == end and low[1] and high[1]):
                shared.append(Interval(low[0], high[0], (low[1], high[1])))
    return _merged(shared)


def _greater_low(x: Interval, y: Interval) -> tuple[Node, bool] | None:
    """The greater of two lower ends, and whether it belongs to both intervals."""
    if x.low == _MINUS_INF or y.low == _MINUS_INF:
        interval = y if x.low == _MINUS_INF else x
        return interval.low, interval.closed[0]
    a, b = approximate_real(x.low), approximate_real(y.low)
    if a is None or b is None:
        return None
    if a == b:
        return x.low, x.closed[0] and y.closed[0]
    return (x.low, x.closed[0]) if a > b else (y.low, y.closed[0])


def _smaller_high(x: Interval, y: Interval) -> tuple[Node, bool] | None:
    """The smaller of two upper ends, and whether it belongs to both intervals."""
    if x.high == INF or y.high == INF:
        interval = y if x.high == INF else x
        return interval.high, interval.closed[1]
    a, b = approximate_real(x.high), approximate_real(y.high)
    if a is None or b is None:
        return None
    if a == b:
        return x.high, x.closed[1] and y.closed[1]
    return (x.high, x.closed[1]) if a < b else (y.high, y.closed[1])


class ScalarComparer(Protocol):
    """Compares numbers and expressions. Raises `NeedsNumericEngine` if it cannot decide."""

    def equal(self, a: Node, b: Node) -> bool:
        """Whether two scalars are equal, for all values of their variables."""
        ...

    def ratio_sign(self, a: Node, b: Node) -> int:
        """The sign of a / b if the quotient is a constant other than 0, else 0."""
        ...


def equal_relations(a: Relation, b: Relation, scalars: ScalarComparer) -> bool:
    """Whether two inequalities are equivalent.

    Their differences of both sides must be equal up to a factor. A negative factor flips the sign.
    """
    if len(a.ops) != 1 or len(b.ops) != 1 or symbols(a) != symbols(b):
        return (
            len(a.ops) == len(b.ops)
            and a.ops == b.ops
            and all(
                isinstance(x, SCALARS) and isinstance(y, SCALARS) and scalars.equal(x, y)
                for x, y in zip(a.sides, b.sides, strict=True)
            )
        )
    if not all(isinstance(side, SCALARS) for side in a.sides + b.sides) or "∈" in a.ops + b.ops:
        return False
    sign = scalars.ratio_sign(left_minus_right(a), left_minus_right(b))
    if a.ops == ("!=",) or b.ops == ("!=",):
        return a.ops == b.ops and sign != 0
    if sign == 0:
        return False
    return a.ops[0] == (b.ops[0] if sign > 0 else _FLIPPED[b.ops[0]])


_NONLINEAR = frozenset(("pow", "div"))
_FUNCTION_NAMES = frozenset("fghFGHPQpqsvTuwyrCRNSAV")
"""Letters that name a function if an argument follows: f(x)."""


def is_equation(node: Node) -> bool:
    """Whether a node is a chain of only "=" and "≈"."""
    return isinstance(node, Relation) and all(op in ("=", "≈") for op in node.ops)


def assigned_name(node: Node) -> str | None:
    """The name to which an equation assigns a value, such as "x", "f(x)" or "(x,y)"; else None."""
    if not isinstance(node, Relation) or not is_equation(node):
        return None
    return _name_of(node.sides[0]) or (
        _name_of(node.sides[-1]) if not symbols(node.sides[0]) else None
    )


def _name_of(side: Node) -> str | None:
    """The name that a side of an equation consists of, or None."""
    if isinstance(side, Sym):
        return side.name
    if (
        isinstance(side, BracketedList)
        and side.items
        and all(isinstance(item, Sym) for item in side.items)
    ):
        return "(" + ",".join(item.name for item in side.items if isinstance(item, Sym)) + ")"
    return function_name(side)


def function_name(side: Node) -> str | None:
    """The function and its variables in a side such as f(x); None for other nodes."""
    call = _function_call(side)
    if call is None:
        return None
    function, argument = call
    return f"{function}({','.join(sorted(symbols(argument)))})"


def _function_call(side: Node) -> tuple[str, Node] | None:
    """The function name and the argument of f(x), which is parsed as a product; else None."""
    if not isinstance(side, Operation) or side.name != "mul" or len(side.args) != 2:
        return None
    head, argument = side.args
    inverse = ""
    if isinstance(head, Operation) and head.name == "pow" and isinstance(head.args[0], Sym):
        head, inverse = head.args[0], "^"
    if isinstance(head, Sym) and head.name.rstrip("'").partition("_")[0] in _FUNCTION_NAMES:
        return head.name + inverse, argument
    return None


def stated_values(equation: Relation, is_gold: bool = False) -> list[Node]:
    """The values that an equation states.

    1/2 for "x = 1/2"; √2 and 1.41 for "x = √2 ≈ 1.41"; 5 for "2 + 3 = 5". Empty if it states no
    value or contradicts itself. A reference such as x + y = 5 is a line and states no value. An
    answer of this form does: its problem may ask for x + y.
    """
    sides, ops = equation.sides, equation.ops
    if _name_of(sides[0]) is None and not symbols(sides[0]):
        if _name_of(sides[-1]) is not None:
            return [sides[0]]
        if not _all_close(sides, 0.02 if "≈" in ops else 1e-9):
            return []
        return [sides[0], sides[-1]] if "≈" in ops else [sides[-1]]
    if _name_of(sides[0]) is None and (
        symbols(sides[-1]) or not _may_be_asked_for(sides[0], is_gold)
    ):
        return []
    if "≈" in ops and len(sides) > 2:
        before = sides[max(1, ops.index("≈"))]
        return [before, sides[-1]] if _all_close((before, sides[-1]), 0.02) else []
    return [sides[-1]]


def _may_be_asked_for(side: Node, is_gold: bool) -> bool:
    """Whether a problem may ask for the value of a side.

    True for AB, sin x or x + y; false for 2x or x^2 + y^2.
    """
    if (
        isinstance(side, Num)
        or contains_operation(side, _NONLINEAR)
        or (is_gold and contains_operation(side, frozenset(("add",))))
    ):
        return False
    return all(_may_be_asked_for(child, is_gold) for child in children(side))


def _all_close(sides: tuple[Node, ...], tolerance: float) -> bool:
    values = [approximate_real(side) for side in sides]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return False
    return all(
        abs(value - known[-1]) <= tolerance * max(abs(value), abs(known[-1])) for value in known
    )


def equal_equations(
    a: Relation, b: Relation, equal: Callable[[Node, Node], bool], scalars: ScalarComparer
) -> bool:
    """Whether two equations are equivalent.

    They assign equal values to the same name, or their differences of both sides are equal up to
    a factor.
    """
    names = assigned_name(a), assigned_name(b)
    values = stated_values(a)[-1:], stated_values(b)[-1:]
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
    return scalars.ratio_sign(left_minus_right(a), left_minus_right(b)) != 0


def left_minus_right(relation: Relation) -> Node:
    """The left side minus the right side of a relation with two sides."""
    return Operation("add", (relation.sides[0], negate(relation.sides[1])))


def _is_function(equation: Relation) -> bool:
    return equation.sides[0] == Sym("y") or _function_call(equation.sides[0]) is not None


def _renamed(a: Relation, value: Node, b: Relation) -> Node | None:
    """The value with the argument of a's function renamed to that of b's; None if impossible."""
    first, second = _function_call(a.sides[0]), _function_call(b.sides[0])
    if first is None or second is None or first[1] == second[1]:
        return value
    if not isinstance(first[1], Sym) or not isinstance(second[1], Sym):
        return None
    if second[1].name in symbols(value):
        return None
    return substitute(value, {first[1].name: second[1]})


def substitute(node: Node, values: dict[str, Node]) -> Node:
    """A scalar with some of its variables replaced by the given values."""
    if isinstance(node, Sym):
        return values.get(node.name, node)
    if isinstance(node, Operation):
        return Operation(node.name, tuple(substitute(arg, values) for arg in node.args))
    return node
