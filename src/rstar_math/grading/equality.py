"""Decides whether two parsed answers are equal: sets, tuples, equations, matrices, options.

A `ScalarComparer` compares the scalars in them. In the caller's process it uses exact arithmetic
only (`rules.py`) and raises `NeedsNumericEngine` if that cannot decide. In a worker it uses the
numeric engine.

    x = 5            equals 5 and 5 = x; not y = 5
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
    Choice,
    CountedList,
    FiniteSet,
    Matrix,
    Node,
    Num,
    Operation,
    Ratio,
    RealSet,
    Relation,
    SetBuilder,
    Sym,
    TimeOfDay,
    UnorderedList,
    Word,
    expand_signs,
    symbols,
)
from rstar_math.grading.relations import (
    ScalarComparer,
    assigned_name,
    equal_equations,
    function_name,
    is_equation,
    stated_values,
    substitute,
)

NO_SOLUTION = Word("no solution")
_UNIT_VECTORS = ("vector i", "vector j", "vector k")


def equal(pred: Node, gold: Node, scalars: ScalarComparer) -> bool:
    """Whether an answer equals the reference.

    One case is not symmetric: a list [2, 3] is accepted for a set, but a set is not accepted for
    [2, 3], which may be a closed interval.
    """
    if pred == gold:
        return True
    pred, gold = _simplified(pred), _simplified(gold)
    if pred == gold:
        return True
    for rule in (
        _compare_words,
        _compare_equations,
        _compare_real_sets,
        _compare_collections,
        _compare_matrices,
    ):
        verdict = rule(pred, gold, scalars)
        if verdict is not None:
            return verdict
    if isinstance(pred, SCALARS) and isinstance(gold, SCALARS):
        return scalars.equal(pred, gold)
    return False


def _simplified(node: Node) -> Node:
    """The node with ± expanded, and without one-item lists and degree signs."""
    node = expand_signs(node)
    if node == NO_SOLUTION:
        return EMPTY
    if isinstance(node, UnorderedList) and len(node.items) == 1:
        return _simplified(node.items[0])
    if isinstance(node, Operation) and node.name == "deg":
        return _simplified(node.args[0])
    if isinstance(node, Relation) and not is_equation(node):
        return Relation(node.ops, tuple(map(_function_as_variable, node.sides)))
    return node


def _function_as_variable(side: Node) -> Node:
    """A function call in an inequality as a variable: the range 2 < g(x) < 7."""
    name = function_name(side)
    return side if name is None or not symbols(side) - {name[0]} else Sym(name)


def _compare_words(pred: Node, gold: Node, scalars: ScalarComparer) -> bool | None:
    """Compare options, times, words and ratios; None for other nodes."""
    if isinstance(gold, Choice) or isinstance(pred, Choice):
        return _equal_choices(pred, gold, scalars)
    if isinstance(pred, TimeOfDay) and isinstance(gold, TimeOfDay):
        return _equal_times(pred, gold)
    if isinstance(gold, TimeOfDay):
        return bool(_ratio_parts(pred)) and _ratio_parts(pred) == _ratio_parts(
            _as_ratio(gold, pred)
        )
    pred = _as_ratio(pred, gold)
    if isinstance(pred, Word | TimeOfDay) or isinstance(gold, Word):
        return False
    if isinstance(pred, Ratio) or isinstance(gold, Ratio):
        return _equal_ratios(pred, gold, scalars)
    return None


def _equal_choices(pred: Node, gold: Node, scalars: ScalarComparer) -> bool:
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


def _equal_times(a: TimeOfDay, b: TimeOfDay) -> bool:
    if a.period and b.period and a.period != b.period:
        return False
    return (
        a.seconds == b.seconds
        if bool(a.period) == bool(b.period)
        else a.seconds % 43_200 == b.seconds % 43_200
    )


def _as_ratio(node: Node, other: Node) -> Node:
    """A time such as 3:10 as the ratio 3:10, if the other side is a ratio or quotient."""
    quotient = isinstance(other, Operation) and other.name == "div"
    if isinstance(node, TimeOfDay) and not node.period and (quotient or isinstance(other, Ratio)):
        minutes, second = divmod(node.seconds, 60)
        parts = (*divmod(minutes, 60), second) if second else divmod(minutes, 60)
        return Ratio(tuple(Num(Fraction(part)) for part in parts))
    return node


def _equal_ratios(pred: Node, gold: Node, scalars: ScalarComparer) -> bool:
    a, b = _ratio_parts(pred), _ratio_parts(gold)
    if not a or len(a) != len(b):
        return False
    if isinstance(pred, Ratio) and isinstance(gold, Ratio) and pred.names and gold.names:
        values = dict(zip(pred.names, pred.parts, strict=True))
        if set(values) == set(gold.names):
            a = tuple(values[name] for name in gold.names)
    return all(
        scalars.equal(Operation("mul", (left, b[0])), Operation("mul", (right, a[0])))
        for left, right in zip(a[1:], b[1:], strict=True)
    )


def _ratio_parts(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Ratio):
        return node.parts
    return node.args if isinstance(node, Operation) and node.name == "div" else ()


def _compare_equations(pred: Node, gold: Node, scalars: ScalarComparer) -> bool | None:
    """Compare two equations, or an equation with a value that it may state."""
    is_pred, is_gold = is_equation(pred), is_equation(gold)
    if isinstance(pred, Relation) and isinstance(gold, Relation) and is_pred and is_gold:
        return equal_equations(pred, gold, lambda a, b: equal(a, b, scalars), scalars)
    if isinstance(pred, Relation) and is_pred:
        return any(equal(value, gold, scalars) for value in stated_values(pred))
    if isinstance(gold, Relation) and is_gold:
        return any(equal(pred, value, scalars) for value in stated_values(gold, is_gold=True))
    return None


def _compare_real_sets(pred: Node, gold: Node, scalars: ScalarComparer) -> bool | None:
    """Compare intervals, inequalities and set builders as sets of reals."""
    if not (relations.is_real_set(pred) or relations.is_real_set(gold)):
        return None
    if isinstance(pred, UnorderedList) and isinstance(gold, UnorderedList):
        return None
    if len(relations.variables(pred) | relations.variables(gold)) == 1 or not (
        isinstance(pred, Relation) and isinstance(gold, Relation)
    ):
        a, b = relations.to_intervals(pred), relations.to_intervals(gold)
        if a is not None and b is not None:
            if len(relations.variables(pred) | relations.variables(gold)) > 1:
                return False
            return len(a) == len(b) and all(
                left.closed == right.closed
                and scalars.equal(left.low, right.low)
                and scalars.equal(left.high, right.high)
                for left, right in zip(a, b, strict=True)
            )
    if isinstance(pred, Relation) and isinstance(gold, Relation):
        return relations.equal_relations(pred, gold, scalars)
    if isinstance(pred, RealSet) and isinstance(gold, RealSet) and pred.kind == gold.kind:
        return equal_unordered(pred.parts, gold.parts, lambda a, b: equal(a, b, scalars))
    if isinstance(pred, SetBuilder) and isinstance(gold, SetBuilder):
        names: dict[str, Node] = {pred.variable: Sym(gold.variable)}
        return equal(_renamed(pred.condition, names), gold.condition, scalars)
    return None if isinstance(pred, BracketedList) and isinstance(gold, BracketedList) else False


def _renamed(condition: Node, names: dict[str, Node]) -> Node:
    if isinstance(condition, Relation):
        return Relation(condition.ops, tuple(substitute(side, names) for side in condition.sides))
    if isinstance(condition, RealSet):
        return RealSet(condition.kind, tuple(_renamed(part, names) for part in condition.parts))
    return condition


def _compare_collections(pred: Node, gold: Node, scalars: ScalarComparer) -> bool | None:
    """Compare lists and sets, or one with a single item with a scalar."""
    if isinstance(pred, CountedList) or isinstance(gold, CountedList):
        return _equal_counts(pred, gold, scalars)
    kinds = BracketedList | UnorderedList | FiniteSet
    if isinstance(pred, kinds) and isinstance(gold, kinds):
        return equal_collections(pred, gold, lambda a, b: equal(a, b, scalars))
    if isinstance(pred, kinds) and len(pred.items) == 1 and isinstance(gold, SCALARS):
        return equal(pred.items[0], gold, scalars)
    if isinstance(gold, kinds) and len(gold.items) == 1 and isinstance(pred, SCALARS):
        return equal(pred, gold.items[0], scalars)
    return None


def _equal_counts(pred: Node, gold: Node, scalars: ScalarComparer) -> bool:
    """Compare numbers of things, by what they count if both say so and agree, else in order."""
    kinds = BracketedList | UnorderedList | CountedList
    if not isinstance(pred, kinds) or not isinstance(gold, kinds):
        return False
    items = pred.items
    if isinstance(pred, CountedList) and isinstance(gold, CountedList):
        counts = dict(zip(pred.things, pred.items, strict=True))
        if set(counts) == set(gold.things):
            items = tuple(counts[thing] for thing in gold.things)
    return _equal_ordered(items, gold.items, lambda a, b: equal(a, b, scalars))


def _as_matrix(node: Node) -> Node:
    """A list of lists of equal length as a matrix, as Python prints it."""
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


def _compare_matrices(pred: Node, gold: Node, scalars: ScalarComparer) -> bool | None:
    """Compare matrices, and vectors written as columns, tuples or sums of unit vectors."""
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
    a, b = _vector_entries(pred, size), _vector_entries(gold, size)
    if isinstance(pred, Matrix) or isinstance(gold, Matrix) or bool(sizes):
        return (
            a is not None
            and b is not None
            and equal(BracketedList("()", a), BracketedList("()", b), scalars)
        )
    return None


def _vector_entries(node: Node, size: int) -> tuple[Node, ...] | None:
    """The entries of a vector; None if the node is not a vector."""
    if isinstance(node, BracketedList):
        return node.items
    if isinstance(node, Matrix):
        if len(node.rows) == 1:
            return node.rows[0]
        return tuple(row[0] for row in node.rows) if len(node.rows[0]) == 1 else None
    if isinstance(node, SCALARS) and symbols(node) & set(_UNIT_VECTORS):
        return tuple(
            substitute(node, {other: Num(Fraction(other == name)) for other in _UNIT_VECTORS})
            for name in _UNIT_VECTORS[:size]
        )
    return None


Equal = Callable[[Node, Node], bool]
Collection = BracketedList | UnorderedList | FiniteSet


def equal_collections(pred: Collection, gold: Collection, equal: Equal) -> bool:
    """Whether two collections are equal.

    Tuples and lists are ordered; comma lists and sets are not. A list [2, 3] is accepted for the
    comma list and for the set of its items; a tuple for neither. If the reference names its values
    (y = 1, x = 2), an answer without names must have its order. If only the answer names them, its
    values are taken in alphabetical order of the names.
    """
    a, b = _without_shared_name(pred.items), _without_shared_name(gold.items)
    if _assigns_variables(a) != _assigns_variables(b):
        if isinstance(pred if _assigns_variables(b) else gold, FiniteSet):
            return False
        if _assigns_variables(b):
            return _equal_ordered(a, _values(b), equal)
        return _equal_ordered(_assigned_values(a), b, equal)
    if isinstance(pred, BracketedList) and isinstance(gold, BracketedList):
        if pred.brackets != gold.brackets and (
            len(a) == 2 or "(]" in (pred.brackets, gold.brackets)
        ):
            return False
        return _equal_ordered(a, b, equal)
    for node in (pred, gold):
        if isinstance(node, BracketedList) and node.brackets != "[]":
            return False
    if isinstance(gold, BracketedList) and isinstance(pred, FiniteSet) and len(b) == 2:
        return False
    if isinstance(pred, FiniteSet) or isinstance(gold, FiniteSet):
        a, b = _distinct(a, equal), _distinct(b, equal)
    return equal_unordered(a, b, equal)


def _assigns_variables(items: tuple[Node, ...]) -> bool:
    """Whether there are several items and each assigns a different variable."""
    names = [assigned_name(item) for item in items]
    return len(names) > 1 and None not in names and len(set(names)) == len(names)


def _assigned_values(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """The values of assignments in alphabetical order of the names; other items unchanged."""
    if not _assigns_variables(items):
        return items
    equations = sorted(
        (i for i in items if isinstance(i, Relation)), key=lambda item: str(assigned_name(item))
    )
    return _values(tuple(equations))


def _values(equations: tuple[Node, ...]) -> tuple[Node, ...]:
    """The values of assignments, in order."""
    found = (stated_values(each)[-1:] for each in equations if isinstance(each, Relation))
    return tuple(value for values in found for value in values)


def _without_shared_name(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """The items without the variable if all equations have the same one: x = 1, 2 as 1, 2."""
    names = {assigned_name(item) for item in items if is_equation(item)}
    if len(names) != 1 or None in names:
        return items
    return tuple(
        stated_values(i)[-1]
        if isinstance(i, Relation) and is_equation(i) and stated_values(i)
        else i
        for i in items
    )


def _equal_ordered(a: tuple[Node, ...], b: tuple[Node, ...], equal: Equal) -> bool:
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def equal_unordered(a: tuple[Node, ...], b: tuple[Node, ...], equal: Equal) -> bool:
    """Whether the items are equal in some order."""
    if len(a) != len(b):
        return False
    remaining = list(b)
    for item in a:
        for index, candidate in enumerate(remaining):
            if equal(item, candidate):
                del remaining[index]
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
