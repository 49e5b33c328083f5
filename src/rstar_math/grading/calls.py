"""Function calls, as LaTeX, Python and sympy print them, turned into nodes."""

from collections.abc import Sequence
from fractions import Fraction

from rstar_math.grading.limits import Unreadable
from rstar_math.grading.nodes import (
    EMPTY,
    IMAGINARY,
    SCALARS,
    Bag,
    Braced,
    Matrix,
    Node,
    Num,
    Op,
    Region,
    Rel,
    Seq,
)

_HALF = Num(Fraction(1, 2))
_RELATIONS = {
    "Eq": "=", "Ne": "!=", "Lt": "<", "Le": "<=", "Gt": ">", "Ge": ">=", "StrictLessThan": "<",
    "LessThan": "<=", "StrictGreaterThan": ">", "GreaterThan": ">=",
}  # fmt: skip
_INTERVALS = {"Interval": "[]", "Intervalopen": "()", "IntervalLopen": "(]", "IntervalRopen": "[)"}
_REGIONS = {
    "Union": "union", "Or": "union", "Intersection": "intersection", "And": "intersection",
    "Complement": "difference",
}  # fmt: skip
_ANGLES = frozenset(("sin", "cos", "tan", "cot", "sec", "csc", "cis"))


def function(name: str, args: Sequence[Node]) -> Node:
    """A function of scalars applied to its arguments. Raises `Unreadable` for a wrong number of
    them."""
    if not args or not all(isinstance(arg, SCALARS) for arg in args):
        raise Unreadable
    first = args[0]
    if name in ("max", "min", "gcd", "lcm"):
        return Op(name, tuple(args))
    if name == "sqrt":
        return _root(first, args[1] if len(args) == 2 else Num(Fraction(2)))
    if name == "cbrt":
        return _root(first, Num(Fraction(3)))
    if name == "log" and len(args) == 2:
        return Op("div", (Op("ln", (first,)), Op("ln", (args[1],))))
    if len(args) != 1:
        raise Unreadable
    if name in ("lg", "lb"):
        radix = Num(Fraction(10 if name == "lg" else 2))
        return Op("div", (Op("ln", (first,)), Op("ln", (radix,))))
    if name == "exp":
        return Op("pow", (Op("e"), first))
    if name == "cis":
        return Op("add", (function("cos", args), Op("mul", (IMAGINARY, function("sin", args)))))
    return Op(name, (_radians(first) if name in _ANGLES else first,))


def _root(node: Node, index: Node) -> Node:
    if index == Num(Fraction(2)):
        return Op("pow", (node, _HALF))
    return Op("root", (node, index))


def _radians(node: Node) -> Node:
    """An angle in degrees turned into radians, also where the sign stands inside a product."""
    if isinstance(node, Op) and node.name == "deg":
        return Op("mul", (node.args[0], Op("pi"), Num(Fraction(1, 180))))
    if isinstance(node, Op) and node.name in ("add", "mul", "neg", "div"):
        return Op(node.name, tuple(_radians(arg) for arg in node.args))
    return node


def call(name: str, args: tuple[Node, ...]) -> Node:
    """A Python or sympy constructor applied to its arguments. Raises `Unreadable` if it does not
    fit."""
    if name in ("Matrix", "ImmutableMatrix", "ImmutableDenseMatrix", "MutableDenseMatrix", "array"):
        return _matrix_call(args, column=name != "array")
    if name in _RELATIONS:
        return Rel((_RELATIONS[name],), _exactly(args, 2))
    if name in _INTERVALS:
        return Seq(_INTERVALS[name], _exactly(args, 2))
    if name in _REGIONS:
        return Region(_REGIONS[name], args) if args else EMPTY
    if name in ("FiniteSet", "set", "frozenset"):
        inner = args[0] if len(args) == 1 and name != "FiniteSet" else Braced(args)
        return Braced(inner.items) if isinstance(inner, Seq | Braced | Bag) else Braced(args)
    if name in ("Point", "Point2D", "Point3D", "Tuple", "tuple", "list"):
        inner = args[0] if len(args) == 1 else Seq("()", args)
        items = inner.items if isinstance(inner, Seq) else args
        return Seq("[]" if name == "list" else "()", items)
    return _scalar_call(name, args)


def _scalar_call(name: str, args: tuple[Node, ...]) -> Node:
    if not args or not all(isinstance(arg, SCALARS) for arg in args):
        raise Unreadable
    if name in ("Add", "Mul"):
        return Op(name.lower(), args) if len(args) > 1 else args[0]
    if name in ("binomial", "comb"):
        return Op("binom", _exactly(args, 2))
    if name == "complex":
        real, imaginary = _exactly(args, 2)
        return Op("add", (real, Op("mul", (imaginary, IMAGINARY))))
    if name in ("pow", "Pow"):
        return Op("pow", _exactly(args, 2))
    if name == "root":
        return _root(*_exactly(args, 2))
    if name in ("Rational", "Fraction") and len(args) == 2:
        return Op("div", args)
    if name in ("Rational", "Fraction", "Integer", "Float", "Decimal"):
        return args[0]
    raise Unreadable


def _exactly(args: tuple[Node, ...], count: int) -> tuple[Node, ...]:
    if len(args) != count:
        raise Unreadable
    return args


def _matrix_call(args: tuple[Node, ...], column: bool) -> Node:
    if len(args) != 1 or not isinstance(args[0], Seq):
        raise Unreadable
    rows = args[0].items
    if rows and all(isinstance(row, Seq) for row in rows):
        return matrix([list(row.items) for row in rows if isinstance(row, Seq)])
    return matrix([[item] for item in rows]) if column else args[0]


def matrix(rows: list[list[Node]]) -> Matrix:
    """A matrix of these rows. Raises `Unreadable` if they are not equally long."""
    if not rows or len({len(row) for row in rows}) != 1:
        raise Unreadable
    return Matrix(tuple(tuple(row) for row in rows))
