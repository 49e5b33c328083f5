"""What stands in brackets: groups, tuples, lists, intervals, sets, absolute values, floors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rstar_math.grading.limits import MAX_DEPTH, Refused, Unreadable
from rstar_math.grading.nodes import (
    EMPTY,
    SCALARS,
    Bag,
    Braced,
    Builder,
    Matrix,
    Node,
    Op,
    Region,
    Rel,
    Seq,
    Sym,
)
from rstar_math.grading.operations import scalar

if TYPE_CHECKING:
    from rstar_math.grading.parser import Parser


def group(p: Parser) -> Node:
    """The content of {...}."""
    p.expect("{")
    bars, p.bars = p.bars, 0
    node = p.items()
    p.expect("}")
    p.bars = bars
    if isinstance(node, Bag):
        return Braced(node.items)
    return node


def until_brace(p: Parser) -> list[str]:
    """The texts of the tokens up to the next closing brace, which is stepped over."""
    found: list[str] = []
    while not p.take("}"):
        if p.peek().kind == "end" or len(found) > 20:
            raise Unreadable
        found.append(p.peek().text)
        p.at += 1
    return found


def bracketed(p: Parser) -> Node:
    """What stands between two brackets of any kind, the next token being the first."""
    if p.is_op("{", "\\{"):
        return _braces(p)
    if p.is_op("|"):
        p.at += 1
        p.bars += 1
        node = p.sum()
        p.expect("|")
        p.bars -= 1
        return Op("abs", (scalar(node),))
    if p.is_op("⌊", "⌈"):
        opening = p.expect("⌊", "⌈")
        node = p.sum()
        p.expect("⌋" if opening == "⌊" else "⌉")
        return Op("floor" if opening == "⌊" else "ceil", (scalar(node),))
    opening = p.expect("(", "[", "⟨", "]")
    bars, p.bars = p.bars, 0
    p.depth += 1
    if p.depth > MAX_DEPTH:
        raise Refused("The answer is nested too deeply.")
    if p.take(")", "]"):
        return Seq("[]" if opening == "[" else "()", ())
    listed, separators = p.listed()
    p.take(",")
    closing = p.expect("⟩") if opening == "⟨" else p.expect(")", "]", "[")
    p.depth -= 1
    p.bars = bars
    return _sequence(opening, closing, listed, separators)


def _sequence(opening: str, closing: str, listed: list[Node], separators: list[str]) -> Node:
    brackets = {"⟨": "(", "]": "("}.get(opening, opening) + {"⟩": ")", "[": ")"}.get(
        closing, closing
    )
    if len(listed) == 1:
        if brackets == "()" or isinstance(listed[0], Matrix):
            return listed[0]
        if brackets != "[]":
            raise Unreadable
        return Seq("[]", tuple(listed))
    if "and" in separators or "or" in separators:
        kind = "intersection" if "and" in separators else "union"
        return Region(kind, tuple(listed))
    if brackets in ("(]", "[)") and len(listed) != 2:
        raise Unreadable
    return Seq(brackets, tuple(listed))


def _braces(p: Parser) -> Node:
    closing = "}" if p.expect("{", "\\{") == "{" else "\\}"
    if p.take(closing):
        return EMPTY if closing == "\\}" else Braced(())
    bars, p.bars = p.bars, 1
    listed, _ = p.listed()
    p.bars = bars
    if p.is_op("|", ":"):
        return _described(p, listed, closing)
    p.expect(closing)
    if closing == "}" and len(listed) == 1:
        return listed[0]
    return Braced(tuple(listed))


def _described(p: Parser, listed: list[Node], closing: str) -> Node:
    """The rest of {x | condition}, or of the print of a dictionary {x: 5, y: 6}."""
    colon = p.expect("|", ":") == ":"
    bars, p.bars = p.bars, 0
    conditions, separators = p.listed()
    entries: list[Node] = []
    while colon and p.take(":"):
        value = p.sum()
        entries.append(Rel(("=",), (conditions[-1], value)))
        conditions = conditions[:-1]
        if p.take(","):
            more, _ = p.listed()
            conditions += more
    p.expect(closing)
    p.bars = bars
    if colon and len(listed) == 1 and isinstance(conditions[0], SCALARS):
        first = Rel(("=",), (listed[0], conditions[0]))
        return Bag((first, *entries)) if entries else first
    variable = listed[0].sides[0] if isinstance(listed[0], Rel) else listed[0]
    if len(listed) != 1 or not isinstance(variable, Sym) or entries:
        raise Unreadable
    kind = "union" if "or" in separators else "intersection"
    condition = conditions[0] if len(conditions) == 1 else Region(kind, tuple(conditions))
    return Builder(variable.name, condition)
