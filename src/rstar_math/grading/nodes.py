"""What an answer reads as: a small tree of frozen records."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias


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
class Op:
    """An operation or a constant on scalars: add, mul, div, pow, neg, sin, ... ; pi, e, i, inf."""

    name: str
    args: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class Seq:
    """An ordered sequence in brackets: a tuple, a list, a point or an interval."""

    brackets: str
    """Opening and closing sign: "()", "[]", "(]", "[)"."""
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Bag:
    """An unordered list without brackets."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Braced:
    """A finite set."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Region:
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
class Rel:
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
    | Op
    | Seq
    | Bag
    | Braced
    | Region
    | Builder
    | Rel
    | Matrix
    | Word
    | Choice
    | Clock
    | Ratio
)

SCALARS = (Num, Sym, Op)

EULER, IMAGINARY, INF = Op("e"), Op("i"), Op("inf")
EMPTY = Braced(())
REALS = Seq("()", (Op("neg", (INF,)), INF))


def negate(node: Node) -> Node:
    """The node with its sign changed."""
    if isinstance(node, Num):
        return Num(-node.value, node.exact)
    return Op("neg", (node,))


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below one."""
    match node:
        case Op(_, args):
            return args
        case Seq(_, items) | Bag(items) | Braced(items) | Region(_, items) | Rel(_, items):
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
    if isinstance(node, Op) and node.name in names:
        return True
    return any(uses(child, names) for child in children(node))
