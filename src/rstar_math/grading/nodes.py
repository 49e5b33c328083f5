"""Defines the syntax tree of an answer, and the limits on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

MAX_ANSWER_CHARS = 3000
"""Longest answer that is parsed as mathematics. Longer ones are only compared as text."""
MAX_DEPTH = 32
"""Maximum nesting depth of brackets, fractions, roots and powers."""
MAX_DIGITS = 1000
"""Maximum number of digits of one number."""
MAX_BITS = 40_000
"""Maximum size of a fraction in exact arithmetic, in bits of numerator and denominator."""
MAX_EXPONENT = 10**15
"""Largest absolute exponent that is evaluated."""
MAX_FACTORIAL = 2000
"""Largest argument of a factorial or binomial that is evaluated."""
MAX_ITEMS = 200
"""Maximum number of items of one list, set or matrix."""


class LimitExceeded(Exception):
    """The text exceeds a limit. The message becomes the reason in the grade."""


class ParseError(Exception):
    """The text is not mathematics that the parser knows."""


class NeedsNumericEngine(Exception):
    """Exact arithmetic cannot decide the pair; the numeric engine must."""


@dataclass(frozen=True, slots=True)
class Num:
    """A rational number."""

    value: Fraction
    exact: bool = True
    """False for a decimal with digits after the point: it may be a rounded value."""


@dataclass(frozen=True, slots=True)
class Sym:
    """A variable with its subscript and primes, such as "x", "a_1" or "f'"."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation on scalars (add, mul, div, pow, neg, sin, ...) or a constant (pi, e, i, inf)."""

    name: str
    args: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class BracketedList:
    """An ordered sequence in brackets: a tuple, list, point or interval."""

    brackets: str
    """The opening and closing bracket: "()", "[]", "(]" or "[)"."""
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
    """A combination of sets of reals."""

    kind: str
    """"union", "intersection" or "difference"."""
    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class SetBuilder:
    """A set given by a condition on one variable: {x | condition}."""

    variable: str
    condition: "Node"


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain of relations: sides[0] ops[0] sides[1] ops[1] ..."""

    ops: tuple[str, ...]
    """Each is one of "=", "≈", "<", "<=", ">", ">=", "!=", "∈"."""
    sides: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of equal length."""

    rows: tuple[tuple["Node", ...], ...]


@dataclass(frozen=True, slots=True)
class Word:
    """Prose in normalized case and spacing."""

    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The letter of a multiple-choice option, such as "(A)", "A.", "option A" or "(A) 12"."""

    letter: str
    content: "Node | None" = None
    """The parsed text of the option, if the answer includes it."""


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A time of day."""

    seconds: int
    """Seconds since midnight in [0, 86400); if `period` is "", perhaps since noon."""
    period: str
    """"am", "pm" or ""."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio such as 2:3:5."""

    parts: tuple["Node", ...]
    names: tuple[str, ...] = ()
    """What the parts belong to, in A:B = 2:3; () if the answer does not say."""


@dataclass(frozen=True, slots=True)
class CountedList:
    """Numbers of different things, such as 9 chickens and 10 rabbits."""

    items: tuple["Node", ...]
    things: tuple[str, ...]
    """What each number counts."""


Node: TypeAlias = (
    Num
    | Sym
    | Operation
    | BracketedList
    | UnorderedList
    | FiniteSet
    | RealSet
    | SetBuilder
    | Relation
    | Matrix
    | Word
    | Choice
    | TimeOfDay
    | Ratio
    | CountedList
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
    """The direct children of a node."""
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
        case Ratio(items) | CountedList(items):
            return items
        case Matrix(rows):
            return tuple(item for row in rows for item in row)
        case SetBuilder(_, condition):
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


def contains_operation(node: Node, names: frozenset[str]) -> bool:
    """Whether a node contains an operation with one of these names."""
    if isinstance(node, Operation) and node.name in names:
        return True
    return any(contains_operation(child, names) for child in children(node))


MAX_TREE_DEPTH = 100
"""Maximum depth of a syntax tree; recursive functions rely on it."""


def require_shallow(node: Node) -> Node:
    """The node itself. Raises `LimitExceeded` if its tree is too deep."""
    level: list[Node] = [node]
    for _ in range(MAX_TREE_DEPTH):
        level = [child for one in level for child in children(one)]
        if not level:
            return node
    raise LimitExceeded("The answer is nested too deeply.")


def require_scalar(node: Node) -> Node:
    """The node itself. Raises `ParseError` if it is not a number or expression."""
    if not isinstance(node, SCALARS):
        raise ParseError
    return node


def product(left: Node, right: Node) -> Node:
    """The product of two scalars. A product on the left is extended."""
    if isinstance(left, Operation) and left.name == "mul":
        return Operation("mul", (*left.args, require_scalar(right)))
    return Operation("mul", (require_scalar(left), require_scalar(right)))


def with_sign(sign: str, node: Node) -> Node:
    """A scalar with one of the signs + - ± ∓ applied to it."""
    if sign == "+":
        return node
    if sign == "-":
        return negate(require_scalar(node))
    return Operation("plusminus" if sign == "±" else "minusplus", (require_scalar(node),))


def is_inequality(node: Node) -> bool:
    """Whether a node is a relation other than an equality or a membership."""
    return isinstance(node, Relation) and node.ops[0] not in ("=", "≈", "∈")


_PLUS_MINUS = frozenset(("plusminus", "minusplus"))


def expand_signs(node: Node) -> Node:
    """The node with ± and ∓ replaced by the list of both values."""
    if not contains_operation(node, _PLUS_MINUS):
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
    return UnorderedList((_choose_sign(node, True), _choose_sign(node, False)))


def _choose_sign(node: Node, positive: bool) -> Node:
    match node:
        case Operation(name, args) if name in _PLUS_MINUS:
            inner = _choose_sign(args[0], positive)
            return inner if positive == (name == "plusminus") else negate(inner)
        case Operation(name, args):
            return Operation(name, tuple(_choose_sign(arg, positive) for arg in args))
        case Relation(ops, sides):
            return Relation(ops, tuple(_choose_sign(side, positive) for side in sides))
        case BracketedList(brackets, items):
            return BracketedList(brackets, tuple(_choose_sign(item, positive) for item in items))
    return node


_HALF = Num(Fraction(1, 2))
_RELATIONS = {
    "Eq": "=", "Ne": "!=", "Lt": "<", "Le": "<=", "Gt": ">", "Ge": ">=", "StrictLessThan": "<",
    "LessThan": "<=", "StrictGreaterThan": ">", "GreaterThan": ">=",
}  # fmt: skip
_INTERVALS = {"Interval": "[]", "Intervalopen": "()", "IntervalLopen": "(]", "IntervalRopen": "[)"}
_SET_OPERATIONS = {
    "Union": "union", "Or": "union", "Intersection": "intersection", "And": "intersection",
    "Complement": "difference",
}  # fmt: skip
_ANGLES = frozenset(("sin", "cos", "tan", "cot", "sec", "csc", "cis"))


def apply_function(name: str, args: Sequence[Node]) -> Node:
    """A function applied to scalar arguments. Raises `ParseError` if they do not fit it."""
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
        base = Num(Fraction(10 if name == "lg" else 2))
        return Operation("div", (Operation("ln", (first,)), Operation("ln", (base,))))
    if name == "exp":
        return Operation("pow", (Operation("e"), first))
    if name == "cis":
        return Operation(
            "add",
            (
                apply_function("cos", args),
                Operation("mul", (IMAGINARY, apply_function("sin", args))),
            ),
        )
    return Operation(name, (_to_radians(first) if name in _ANGLES else first,))


def _root(node: Node, index: Node) -> Node:
    if index == Num(Fraction(2)):
        return Operation("pow", (node, _HALF))
    return Operation("root", (node, index))


def _to_radians(node: Node) -> Node:
    """The angle with degrees converted to radians, also inside a sum, product or quotient."""
    if isinstance(node, Operation) and node.name == "deg":
        return Operation("mul", (node.args[0], Operation("pi"), Num(Fraction(1, 180))))
    if isinstance(node, Operation) and node.name in ("add", "mul", "neg", "div"):
        return Operation(node.name, tuple(_to_radians(arg) for arg in node.args))
    return node


def apply_constructor(name: str, args: tuple[Node, ...]) -> Node:
    """A Python or sympy constructor applied to its arguments.

    Raises `ParseError` if they do not fit it.
    """
    if name in ("Matrix", "ImmutableMatrix", "ImmutableDenseMatrix", "MutableDenseMatrix", "array"):
        return _matrix_call(args, column=name != "array")
    if name in _RELATIONS:
        return Relation((_RELATIONS[name],), _require_count(args, 2))
    if name in _INTERVALS:
        return BracketedList(_INTERVALS[name], _require_count(args, 2))
    if name in _SET_OPERATIONS:
        return RealSet(_SET_OPERATIONS[name], args) if args else EMPTY
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
        return Operation("binom", _require_count(args, 2))
    if name == "complex":
        real, imaginary = _require_count(args, 2)
        return Operation("add", (real, Operation("mul", (imaginary, IMAGINARY))))
    if name in ("pow", "Pow"):
        return Operation("pow", _require_count(args, 2))
    if name == "root":
        return _root(*_require_count(args, 2))
    if name in ("Rational", "Fraction") and len(args) == 2:
        return Operation("div", args)
    if name in ("Rational", "Fraction", "Integer", "Float", "Decimal"):
        return args[0]
    raise ParseError


def _require_count(args: tuple[Node, ...], count: int) -> tuple[Node, ...]:
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
    """A matrix of these rows. Raises `ParseError` if their lengths differ."""
    if not rows or len({len(row) for row in rows}) != 1:
        raise ParseError
    return Matrix(tuple(tuple(row) for row in rows))
