"""Mixed numbers: a whole number and a proper fraction side by side are a sum, not a product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rstar_math.grading.nodes import Node, Num, Op

if TYPE_CHECKING:
    from rstar_math.grading.parser import Parser


def is_mixed(p: Parser, node: Node) -> bool:
    """Whether a whole number is followed by a proper fraction of whole numbers: 3 1/2."""
    before = p.tokens[p.at - 1]
    if not isinstance(node, Num) or node.value.denominator != 1 or before.kind != "num":
        return False
    if not before.text.isdigit():
        return False
    found = [p.peek(ahead).text for ahead in range(7)]
    if found[0] == "frac":
        numbers = [text for text in found[1:] if text not in ("{", "}")]
        shape = [text for text in found[1:7] if text in ("{", "}")]
        if len(numbers[0]) == 2 and not shape[:1]:
            return numbers[0].isdigit() and numbers[0][0] < numbers[0][1]
        return (
            len(numbers) > 1
            and numbers[0].isdigit()
            and numbers[1].isdigit()
            and int(numbers[0]) < int(numbers[1])
        )
    return (
        p.peek().spaced
        and found[1] == "/"
        and found[0].isdigit()
        and found[2].isdigit()
        and int(found[0]) < int(found[2])
    )


def part_of_mixed(p: Parser) -> Node:
    """The fraction of a mixed number."""
    top = p.factor()
    if p.take("/"):
        return Op("div", (top, p.factor()))
    return top
