"""Lists, sets and tuples: which of them can be equal, and with or without order."""

from collections.abc import Callable

from rstar_math.grading.equations import is_equation, label, stated_value
from rstar_math.grading.nodes import Bag, Braced, Node, Rel, Seq

Equal = Callable[[Node, Node], bool]
Collection = Seq | Bag | Braced


def equal_collections(pred: Collection, gold: Collection, equal: Equal) -> bool:
    """Whether two collections are equal.

    Tuples and lists are ordered, comma lists and sets are not. A printed list [2, 3] answers for
    the comma list and for the set of its members; a tuple for neither. Values given to several
    variables (x = 1, y = 2) answer for a tuple or list in alphabetical order of the names.
    """
    a, b = _spread(pred.items), _spread(gold.items)
    if _assigns(a) != _assigns(b):
        if isinstance(pred if _assigns(b) else gold, Braced):
            return False
        return _ordered(_values(a), _values(b), equal)
    if isinstance(pred, Seq) and isinstance(gold, Seq):
        if pred.brackets != gold.brackets and (
            len(a) == 2 or "(]" in (pred.brackets, gold.brackets)
        ):
            return False
        return _ordered(a, b, equal)
    for node in (pred, gold):
        if isinstance(node, Seq) and node.brackets != "[]":
            return False
    if isinstance(gold, Seq) and isinstance(pred, Braced) and len(b) == 2:
        return False
    if isinstance(pred, Braced) or isinstance(gold, Braced):
        a, b = _distinct(a, equal), _distinct(b, equal)
    return matched(a, b, equal)


def _assigns(items: tuple[Node, ...]) -> bool:
    """Whether every member gives a value to a variable of its own."""
    names = [label(item) for item in items]
    return len(names) > 1 and None not in names and len(set(names)) == len(names)


def _values(items: tuple[Node, ...]) -> tuple[Node, ...]:
    if not _assigns(items):
        return items
    equations = sorted((i for i in items if isinstance(i, Rel)), key=lambda item: str(label(item)))
    return tuple(value for equation in equations for value in stated_value(equation)[-1:])


def _spread(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """The members without their name where all that have one have the same: x = 1, 2 as 1, 2."""
    names = {label(item) for item in items if is_equation(item)}
    if len(names) != 1 or None in names:
        return items
    return tuple(
        stated_value(i)[-1] if isinstance(i, Rel) and is_equation(i) and stated_value(i) else i
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
