"""Whether two parsed answers are equal: sets, tuples, matrices, units, choices.

Scalars are left to a `Scalars` object, so that the rules serve twice: in the caller's process with
exact arithmetic alone (`rules.py`; it raises `NeedsNumericEngine`), and in a worker with the
numeric engine.

    x = 5            equals 5, and 5 = x; not y = 5
    2, 3             unordered; equals {2, 3}, [2, 3] and x = 2 or x = 3; not (2, 3)
    (2, 3)           ordered; equals <2, 3> and a column vector; not [2, 3] nor {2, 3}
    (2, 3]           equals 2 < x <= 3 and {x | 2 < x <= 3}; not (2, 3)
"""

from collections.abc import Callable
from fractions import Fraction

from rstar_math.grading import relations
from rstar_math.grading.nodes import (
    EMPTY,
    SCALARS,
    BracketedList,
    Builder,
    Choice,
    Clock,
    FiniteSet,
    Matrix,
    Node,
    Num,
    Operation,
    Ratio,
    RealSet,
    Relation,
    Sym,
    UnorderedList,
    Word,
    expand_signs,
    symbols,
)
from rstar_math.grading.relations import (
    Scalars,
    equal_equations,
    is_equation,
    label,
    stated_value,
    substituted,
)

NO_SOLUTION = Word("no solution")
_UNIT_VECTORS = ("vector i", "vector j", "vector k")


def equal(pred: Node, gold: Node, scalars: Scalars) -> bool:
    """Whether an answer equals the reference. Not symmetric in one case: a printed list answers
    for a set, a set not for a closed interval."""
    if pred == gold:
        return True
    pred, gold = _plain(pred), _plain(gold)
    if pred == gold:
        return True
    for rule in (_words, _relations, _ranges, _collections, _matrices):
        verdict = rule(pred, gold, scalars)
        if verdict is not None:
            return verdict
    if isinstance(pred, SCALARS) and isinstance(gold, SCALARS):
        return scalars.same(pred, gold)
    return False


def _plain(node: Node) -> Node:
    """The node with its signs of plus-or-minus written out and its trivial wrapping gone."""
    node = expand_signs(node)
    if node == NO_SOLUTION:
        return EMPTY
    if isinstance(node, UnorderedList) and len(node.items) == 1:
        return _plain(node.items[0])
    if isinstance(node, Operation) and node.name == "deg":
        return _plain(node.args[0])
    return node


def _words(pred: Node, gold: Node, scalars: Scalars) -> bool | None:
    if isinstance(gold, Choice) or isinstance(pred, Choice):
        return _choices(pred, gold, scalars)
    if isinstance(pred, Clock) and isinstance(gold, Clock):
        return _clocks(pred, gold)
    if isinstance(gold, Clock):
        return bool(_parts(pred)) and _parts(pred) == _parts(_as_ratio(gold, pred))
    pred = _as_ratio(pred, gold)
    if isinstance(pred, Word | Clock) or isinstance(gold, Word):
        return False
    if isinstance(pred, Ratio) or isinstance(gold, Ratio):
        return _ratios(pred, gold, scalars)
    return None


def _choices(pred: Node, gold: Node, scalars: Scalars) -> bool:
    if isinstance(pred, Choice) and isinstance(gold, Choice):
        return pred.letter == gold.letter
    choice, other = (pred, gold) if isinstance(pred, Choice) else (gold, pred)
    assert isinstance(choice, Choice)
    if isinstance(other, Operation) and not other.args and other.name.upper() == choice.letter:
        return True
    if isinstance(other, Sym) and other.name.upper() == choice.letter:
        return True
    return choice.content is not None and (
        equal(choice.content, other, scalars)
        if choice is pred
        else equal(other, choice.content, scalars)
    )


def _clocks(a: Clock, b: Clock) -> bool:
    if a.half and b.half and a.half != b.half:
        return False
    return (
        a.minutes == b.minutes
        if bool(a.half) == bool(b.half)
        else a.minutes % 720 == b.minutes % 720
    )


def _as_ratio(node: Node, other: Node) -> Node:
    """A time such as 3:10 as the ratio it may have been, where the other side is a ratio or
    quotient."""
    quotient = isinstance(other, Operation) and other.name == "div"
    if isinstance(node, Clock) and not node.half and (quotient or isinstance(other, Ratio)):
        return Ratio((Num(Fraction(node.minutes // 60)), Num(Fraction(node.minutes % 60))))
    return node


def _ratios(pred: Node, gold: Node, scalars: Scalars) -> bool:
    a, b = _parts(pred), _parts(gold)
    if not a or len(a) != len(b):
        return False
    return all(
        scalars.same(Operation("mul", (left, b[0])), Operation("mul", (right, a[0])))
        for left, right in zip(a[1:], b[1:], strict=True)
    )


def _parts(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Ratio):
        return node.parts
    return node.args if isinstance(node, Operation) and node.name == "div" else ()


def _relations(pred: Node, gold: Node, scalars: Scalars) -> bool | None:
    """Equations against equations, and against the value that they state."""
    is_pred, is_gold = is_equation(pred), is_equation(gold)
    if isinstance(pred, Relation) and isinstance(gold, Relation) and is_pred and is_gold:
        return equal_equations(pred, gold, lambda a, b: equal(a, b, scalars), scalars)
    if isinstance(pred, Relation) and is_pred:
        return any(equal(value, gold, scalars) for value in stated_value(pred))
    if isinstance(gold, Relation) and is_gold:
        return any(equal(pred, value, scalars) for value in stated_value(gold, is_gold=True))
    return None


def _ranges(pred: Node, gold: Node, scalars: Scalars) -> bool | None:
    """Intervals, inequalities and set-builders, as sets of reals."""
    if not (relations.is_range(pred) or relations.is_range(gold)):
        return None
    if isinstance(pred, UnorderedList) and isinstance(gold, UnorderedList):
        return None
    if len(relations.variables(pred) | relations.variables(gold)) == 1 or not (
        isinstance(pred, Relation) and isinstance(gold, Relation)
    ):
        a, b = relations.pieces(pred), relations.pieces(gold)
        if a is not None and b is not None:
            if len(relations.variables(pred) | relations.variables(gold)) > 1:
                return False
            return len(a) == len(b) and all(
                left.closed == right.closed
                and scalars.same(left.low, right.low)
                and scalars.same(left.high, right.high)
                for left, right in zip(a, b, strict=True)
            )
    if isinstance(pred, Relation) and isinstance(gold, Relation):
        return relations.equal_relations(pred, gold, scalars)
    if isinstance(pred, RealSet) and isinstance(gold, RealSet) and pred.kind == gold.kind:
        return matched(pred.parts, gold.parts, lambda a, b: equal(a, b, scalars))
    if isinstance(pred, Builder) and isinstance(gold, Builder):
        names: dict[str, Node] = {pred.variable: Sym(gold.variable)}
        return equal(_renamed(pred.condition, names), gold.condition, scalars)
    return None if isinstance(pred, BracketedList) and isinstance(gold, BracketedList) else False


def _renamed(condition: Node, names: dict[str, Node]) -> Node:
    if isinstance(condition, Relation):
        return Relation(condition.ops, tuple(substituted(side, names) for side in condition.sides))
    if isinstance(condition, RealSet):
        return RealSet(condition.kind, tuple(_renamed(part, names) for part in condition.parts))
    return condition


def _collections(pred: Node, gold: Node, scalars: Scalars) -> bool | None:
    kinds = BracketedList | UnorderedList | FiniteSet
    if isinstance(pred, kinds) and isinstance(gold, kinds):
        return equal_collections(pred, gold, lambda a, b: equal(a, b, scalars))
    if isinstance(pred, kinds) and len(pred.items) == 1 and isinstance(gold, SCALARS):
        return equal(pred.items[0], gold, scalars)
    if isinstance(gold, kinds) and len(gold.items) == 1 and isinstance(pred, SCALARS):
        return equal(pred, gold.items[0], scalars)
    return None


def _as_matrix(node: Node) -> Node:
    """A list of lists of one length as the matrix that Python prints so."""
    if (
        isinstance(node, BracketedList)
        and len({len(item.items) for item in node.items if isinstance(item, BracketedList)}) == 1
    ):
        rows = tuple(
            item.items
            for item in node.items
            if isinstance(item, BracketedList) and item.brackets == "[]"
        )
        return Matrix(rows) if len(rows) == len(node.items) else node
    return node


def _matrices(pred: Node, gold: Node, scalars: Scalars) -> bool | None:
    """Matrices, and vectors written as columns, tuples or sums of unit vectors."""
    if isinstance(pred, Matrix) or isinstance(gold, Matrix):
        pred, gold = _as_matrix(pred), _as_matrix(gold)
    if isinstance(pred, Matrix) and isinstance(gold, Matrix):
        if [len(row) for row in pred.rows] != [len(row) for row in gold.rows]:
            return False
        pred, gold = (
            BracketedList("()", sum(pred.rows, ())),
            BracketedList("()", sum(gold.rows, ())),
        )
        return equal(pred, gold, scalars)
    sizes = [len(node.items) for node in (pred, gold) if isinstance(node, BracketedList)]
    size = sizes[0] if sizes else 3
    a, b = _entries(pred, size), _entries(gold, size)
    if isinstance(pred, Matrix) or isinstance(gold, Matrix) or bool(sizes):
        return (
            a is not None
            and b is not None
            and equal(BracketedList("()", a), BracketedList("()", b), scalars)
        )
    return None


def _entries(node: Node, size: int) -> tuple[Node, ...] | None:
    """The entries of a vector; None for what is not one."""
    if isinstance(node, BracketedList):
        return node.items
    if isinstance(node, Matrix):
        if len(node.rows) == 1:
            return node.rows[0]
        return tuple(row[0] for row in node.rows) if len(node.rows[0]) == 1 else None
    if isinstance(node, SCALARS) and symbols(node) & set(_UNIT_VECTORS):
        return tuple(
            substituted(node, {other: Num(Fraction(other == name)) for other in _UNIT_VECTORS})
            for name in _UNIT_VECTORS[:size]
        )
    return None


Equal = Callable[[Node, Node], bool]
Collection = BracketedList | UnorderedList | FiniteSet


def equal_collections(pred: Collection, gold: Collection, equal: Equal) -> bool:
    """Whether two collections are equal.

    Tuples and lists are ordered, comma lists and sets are not. A printed list [2, 3] answers for
    the comma list and for the set of its members; a tuple for neither. Values given to several
    variables (x = 1, y = 2) answer for a tuple or list in alphabetical order of the names.
    """
    a, b = _spread(pred.items), _spread(gold.items)
    if _assigns(a) != _assigns(b):
        if isinstance(pred if _assigns(b) else gold, FiniteSet):
            return False
        return _ordered(_values(a), _values(b), equal)
    if isinstance(pred, BracketedList) and isinstance(gold, BracketedList):
        if pred.brackets != gold.brackets and (
            len(a) == 2 or "(]" in (pred.brackets, gold.brackets)
        ):
            return False
        return _ordered(a, b, equal)
    for node in (pred, gold):
        if isinstance(node, BracketedList) and node.brackets != "[]":
            return False
    if isinstance(gold, BracketedList) and isinstance(pred, FiniteSet) and len(b) == 2:
        return False
    if isinstance(pred, FiniteSet) or isinstance(gold, FiniteSet):
        a, b = _distinct(a, equal), _distinct(b, equal)
    return matched(a, b, equal)


def _assigns(items: tuple[Node, ...]) -> bool:
    """Whether every member gives a value to a variable of its own."""
    names = [label(item) for item in items]
    return len(names) > 1 and None not in names and len(set(names)) == len(names)


def _values(items: tuple[Node, ...]) -> tuple[Node, ...]:
    if not _assigns(items):
        return items
    equations = sorted(
        (i for i in items if isinstance(i, Relation)), key=lambda item: str(label(item))
    )
    return tuple(value for equation in equations for value in stated_value(equation)[-1:])


def _spread(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """The members without their name where all that have one have the same: x = 1, 2 as 1, 2."""
    names = {label(item) for item in items if is_equation(item)}
    if len(names) != 1 or None in names:
        return items
    return tuple(
        stated_value(i)[-1] if isinstance(i, Relation) and is_equation(i) and stated_value(i) else i
        for i in items
    )


def _ordered(a: tuple[Node, ...], b: tuple[Node, ...], equal: Equal) -> bool:
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def matched(a: tuple[Node, ...], b: tuple[Node, ...], equal: Equal) -> bool:
    """Whether the members pair off, each with one that it equals."""
    if len(a) != len(b):
        return False
    left = list(b)
    for item in a:
        for place, candidate in enumerate(left):
            if equal(item, candidate):
                del left[place]
                break
        else:
            return False
    return True


def _distinct(items: tuple[Node, ...], equal: Equal) -> tuple[Node, ...]:
    kept: list[Node] = []
    for item in items:
        if not any(equal(item, other) for other in kept):
            kept.append(item)
    return tuple(kept)
