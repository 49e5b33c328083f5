"""The syntax tree of an answer, and its limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

MAX_ANSWER_CHARS = 3000
"""Longest answer that is read as mathematics; longer ones are only compared as text."""
MAX_DEPTH = 32
"""Deepest nesting of brackets, fractions, roots and powers."""
MAX_DIGITS = 1000
"""Most digits of one number."""
MAX_BITS = 40_000
"""Largest numerator or denominator, in bits, that exact arithmetic builds."""
MAX_EXPONENT = 10**15
"""Largest absolute exponent that is evaluated at all."""
MAX_FACTORIAL = 2000
"""Largest argument of a factorial or binomial that is evaluated."""
MAX_ITEMS = 200
"""Most members of one list, set or matrix."""


class LimitExceeded(Exception):
    """The text is beyond a cap; the message is the reason a person is given."""


class ParseError(Exception):
    """The text is no mathematics that the reader knows."""


class NeedsNumericEngine(Exception):
    """Exact arithmetic alone cannot tell; the symbolic engine has to be asked."""


@dataclass(frozen=True, slots=True)
class Num:
    """A rational number."""

    value: Fraction
    exact: bool = True
    """False for a decimal print with a part after the point: it stands for what rounds to it."""


@dataclass(frozen=True, slots=True)
class Sym:
    """A variable, with its subscript and primes: "x", "a_1", "f'"."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation or a constant on scalars: add, mul, div, pow, neg, sin, ... ; pi, e, i, inf."""

    name: str
    args: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class BracketedList:
    """An ordered sequence in brackets: a tuple, a list, a point or an interval."""

    brackets: str
    """Opening and closing sign: "()", "[]", "(]", "[)"."""
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class UnorderedList:
    """An unordered list without brackets."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class FiniteSet:
    """A finite set."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class RealSet:
    """Sets of reals put together."""

    kind: str
    """"union", "intersection" or "difference"."""
    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Builder:
    """A set described by a condition on one variable."""

    variable: str
    condition: "Node"


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain of relations: sides[0] ops[0] sides[1] ops[1] ..."""

    ops: tuple[str, ...]
    """Of "=", "≈", "<", "<=", ">", ">=", "!=", "∈"."""
    sides: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of equal length."""

    rows: tuple[tuple["Node", ...], ...]


@dataclass(frozen=True, slots=True)
class Word:
    """Text, its case and spacing normalised."""

    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A letter that names an option, marked as such: "(A)", "A.", "option A", "(A) 12"."""

    letter: str
    content: "Node | None" = None
    """What the text of the option reads as, where it is given."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day."""

    minutes: int
    """After midnight, or after noon or midnight where `half` is "", in [0, 1440)."""
    half: str
    """"am", "pm" or ""."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Numbers in proportion."""

    parts: tuple["Node", ...]


Node: TypeAlias = (
    Num
    | Sym
    | Operation
    | BracketedList
    | UnorderedList
    | FiniteSet
    | RealSet
    | Builder
    | Relation
    | Matrix
    | Word
    | Choice
    | Clock
    | Ratio
)
SCALARS = (Num, Sym, Operation)
EULER, IMAGINARY, INF = Operation("e"), Operation("i"), Operation("inf")
EMPTY = FiniteSet(())
REALS = BracketedList("()", (Operation("neg", (INF,)), INF))


def negate(node: Node) -> Node:
    """The node with its sign changed."""
    if isinstance(node, Num):
        return Num(-node.value, node.exact)
    return Operation("neg", (node,))


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below one."""
    match node:
        case Operation(_, args):
            return args
        case (
            BracketedList(_, items)
            | UnorderedList(items)
            | FiniteSet(items)
            | RealSet(_, items)
            | Relation(_, items)
        ):
            return items
        case Ratio(items):
            return items
        case Matrix(rows):
            return tuple(item for row in rows for item in row)
        case Builder(_, condition):
            return (condition,)
    return ()


def symbols(node: Node) -> set[str]:
    """The names of the variables in a node."""
    if isinstance(node, Sym):
        return {node.name}
    found: set[str] = set()
    for child in children(node):
        found |= symbols(child)
    return found


def uses(node: Node, names: frozenset[str]) -> bool:
    """Whether an operation of one of these names occurs in a node."""
    if isinstance(node, Operation) and node.name in names:
        return True
    return any(uses(child, names) for child in children(node))


def scalar(node: Node) -> Node:
    """The node itself. Raises `ParseError` if it is no number or expression."""
    if not isinstance(node, SCALARS):
        raise ParseError
    return node


def product(left: Node, right: Node) -> Node:
    """Two scalars multiplied, a product on the left growing longer."""
    if isinstance(left, Operation) and left.name == "mul":
        return Operation("mul", (*left.args, scalar(right)))
    return Operation("mul", (scalar(left), scalar(right)))


def signed(sign: str, node: Node) -> Node:
    """A scalar with one of the signs + - ± ∓ before it."""
    if sign == "+":
        return node
    if sign == "-":
        return negate(scalar(node))
    return Operation("plusminus" if sign == "±" else "minusplus", (scalar(node),))


def is_inequality(node: Node) -> bool:
    """Whether a node is a relation, and none of equality or membership."""
    return isinstance(node, Relation) and node.ops[0] not in ("=", "≈", "∈")


_DOUBLE = frozenset(("plusminus", "minusplus"))


def expand_signs(node: Node) -> Node:
    """The node with ± and ∓ replaced by the list of both readings."""
    if not uses(node, _DOUBLE):
        return node
    if isinstance(node, UnorderedList):
        items: list[Node] = []
        for item in node.items:
            expanded = expand_signs(item)
            items.extend(expanded.items if isinstance(expanded, UnorderedList) else (expanded,))
        return UnorderedList(tuple(items))
    if isinstance(node, FiniteSet):
        members = expand_signs(UnorderedList(node.items))
        return FiniteSet(members.items) if isinstance(members, UnorderedList) else node
    return UnorderedList((_with_sign(node, True), _with_sign(node, False)))


def _with_sign(node: Node, positive: bool) -> Node:
    match node:
        case Operation(name, args) if name in _DOUBLE:
            inner = _with_sign(args[0], positive)
            return inner if positive == (name == "plusminus") else negate(inner)
        case Operation(name, args):
            return Operation(name, tuple(_with_sign(arg, positive) for arg in args))
        case Relation(ops, sides):
            return Relation(ops, tuple(_with_sign(side, positive) for side in sides))
        case BracketedList(brackets, items):
            return BracketedList(brackets, tuple(_with_sign(item, positive) for item in items))
    return node


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
    """A function of scalars applied to its arguments. Raises `ParseError` for a wrong number of
    them."""
    if not args or not all(isinstance(arg, SCALARS) for arg in args):
        raise ParseError
    first = args[0]
    if name in ("max", "min", "gcd", "lcm"):
        return Operation(name, tuple(args))
    if name == "sqrt":
        return _root(first, args[1] if len(args) == 2 else Num(Fraction(2)))
    if name == "cbrt":
        return _root(first, Num(Fraction(3)))
    if name == "log" and len(args) == 2:
        return Operation("div", (Operation("ln", (first,)), Operation("ln", (args[1],))))
    if len(args) != 1:
        raise ParseError
    if name in ("lg", "lb"):
        radix = Num(Fraction(10 if name == "lg" else 2))
        return Operation("div", (Operation("ln", (first,)), Operation("ln", (radix,))))
    if name == "exp":
        return Operation("pow", (Operation("e"), first))
    if name == "cis":
        return Operation(
            "add", (function("cos", args), Operation("mul", (IMAGINARY, function("sin", args))))
        )
    return Operation(name, (_radians(first) if name in _ANGLES else first,))


def _root(node: Node, index: Node) -> Node:
    if index == Num(Fraction(2)):
        return Operation("pow", (node, _HALF))
    return Operation("root", (node, index))


def _radians(node: Node) -> Node:
    """An angle in degrees turned into radians, also where the sign stands inside a product."""
    if isinstance(node, Operation) and node.name == "deg":
        return Operation("mul", (node.args[0], Operation("pi"), Num(Fraction(1, 180))))
    if isinstance(node, Operation) and node.name in ("add", "mul", "neg", "div"):
        return Operation(node.name, tuple(_radians(arg) for arg in node.args))
    return node


def call(name: str, args: tuple[Node, ...]) -> Node:
    """A Python or sympy constructor applied to its arguments. Raises `ParseError` if it does not
    fit."""
    if name in ("Matrix", "ImmutableMatrix", "ImmutableDenseMatrix", "MutableDenseMatrix", "array"):
        return _matrix_call(args, column=name != "array")
    if name in _RELATIONS:
        return Relation((_RELATIONS[name],), _exactly(args, 2))
    if name in _INTERVALS:
        return BracketedList(_INTERVALS[name], _exactly(args, 2))
    if name in _REGIONS:
        return RealSet(_REGIONS[name], args) if args else EMPTY
    if name in ("FiniteSet", "set", "frozenset"):
        inner = args[0] if len(args) == 1 and name != "FiniteSet" else FiniteSet(args)
        return (
            FiniteSet(inner.items)
            if isinstance(inner, BracketedList | FiniteSet | UnorderedList)
            else FiniteSet(args)
        )
    if name in ("Point", "Point2D", "Point3D", "Tuple", "tuple", "list"):
        inner = args[0] if len(args) == 1 else BracketedList("()", args)
        items = inner.items if isinstance(inner, BracketedList) else args
        return BracketedList("[]" if name == "list" else "()", items)
    return _scalar_call(name, args)


def _scalar_call(name: str, args: tuple[Node, ...]) -> Node:
    if not args or not all(isinstance(arg, SCALARS) for arg in args):
        raise ParseError
    if name in ("Add", "Mul"):
        return Operation(name.lower(), args) if len(args) > 1 else args[0]
    if name in ("binomial", "comb"):
        return Operation("binom", _exactly(args, 2))
    if name == "complex":
        real, imaginary = _exactly(args, 2)
        return Operation("add", (real, Operation("mul", (imaginary, IMAGINARY))))
    if name in ("pow", "Pow"):
        return Operation("pow", _exactly(args, 2))
    if name == "root":
        return _root(*_exactly(args, 2))
    if name in ("Rational", "Fraction") and len(args) == 2:
        return Operation("div", args)
    if name in ("Rational", "Fraction", "Integer", "Float", "Decimal"):
        return args[0]
    raise ParseError


def _exactly(args: tuple[Node, ...], count: int) -> tuple[Node, ...]:
    if len(args) != count:
        raise ParseError
    return args


def _matrix_call(args: tuple[Node, ...], column: bool) -> Node:
    if len(args) != 1 or not isinstance(args[0], BracketedList):
        raise ParseError
    rows = args[0].items
    if rows and all(isinstance(row, BracketedList) for row in rows):
        return matrix([list(row.items) for row in rows if isinstance(row, BracketedList)])
    return matrix([[item] for item in rows]) if column else args[0]


def matrix(rows: list[list[Node]]) -> Matrix:
    """A matrix of these rows. Raises `ParseError` if they are not equally long."""
    if not rows or len({len(row) for row in rows}) != 1:
        raise ParseError
    return Matrix(tuple(tuple(row) for row in rows))
