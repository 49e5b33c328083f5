"""The smallest parts of an answer: numbers, names, brackets, LaTeX commands and function calls."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from rstar_math.grading import brackets, calls
from rstar_math.grading.cleaning import GREEK
from rstar_math.grading.limits import MAX_ITEMS, Refused, Unreadable
from rstar_math.grading.nodes import (
    EMPTY,
    EULER,
    IMAGINARY,
    REALS,
    Node,
    Num,
    Op,
    Sym,
)
from rstar_math.grading.numerals import in_base, number
from rstar_math.grading.operations import scalar
from rstar_math.grading.tokens import CALLS, CONSTANTS, FUNCTIONS, NAMED_SETS, Token

if TYPE_CHECKING:
    from rstar_math.grading.parser import Parser

_MATRICES = frozenset(("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"))
_LETTERS = frozenset((
    *GREEK.values(), "varepsilon", "vartheta", "varphi", "Upsilon", "ell", "hbar", "partial",
    "nabla", "angle", "triangle", "odot",
))  # fmt: skip
"""Commands that stand for a letter."""


def base(p: Parser) -> Node:
    """One atom, and nothing after it."""
    token = p.peek()
    p.at += 1
    if token.kind in ("num", "hex"):
        return _numeral(p, token)
    if token.kind == "name":
        return _name(p, token)
    if token.kind == "cmd":
        return _command(p, token)
    if token.kind == "op":
        p.at -= 1
        return brackets.bracketed(p)
    if token.kind == "word" and len(token.text) == 1:
        return Sym(token.text)
    raise Unreadable


def _numeral(p: Parser, token: Token) -> Node:
    value = number(token.text)
    following = p.peek()
    if following.text == "j" and not following.spaced and following.kind == "name":
        p.at += 1
        return Op("mul", (value, IMAGINARY))
    return value


def _name(p: Parser, token: Token) -> Node:
    name = token.text
    if name in CALLS:
        if not p.is_op("("):
            raise Unreadable
        return calls.call(name, arguments(p))
    if name in FUNCTIONS:
        return _function(p, name)
    if name in CONSTANTS:
        return Op(CONSTANTS[name])
    if name in NAMED_SETS:
        return REALS if NAMED_SETS[name] == "reals" else EMPTY
    if name in ("e", "i"):
        return EULER if name == "e" else IMAGINARY
    following = p.peek()
    if following.kind == "num" and not following.spaced and following.text.isdigit():
        p.at += 1
        return Sym(f"{name}_{following.text}")
    return Sym(name)


def arguments(p: Parser) -> tuple[Node, ...]:
    """The arguments of a call, the next token being its opening bracket."""
    p.expect("(")
    if p.take(")"):
        return ()
    bars, p.bars = p.bars, 0
    listed, _ = p.listed()
    p.take(",")
    p.expect(")")
    p.bars = bars
    return tuple(listed)


def _function(p: Parser, name: str) -> Node:
    index: Node | None = None
    power: Node | None = None
    if name in ("log", "sqrt") and p.take("_" if name == "log" else "["):
        if name == "sqrt":
            index = p.sum()
            p.expect("]")
        else:
            index = _log_base(p)
    if name != "sqrt" and p.take("^"):
        power = p.group_or_factor()
        if name == "log" and index is None and p.take("_"):
            index = _log_base(p)
    if p.is_op("("):
        args = arguments(p)
    elif p.is_op("{"):
        args = (brackets.group(p),)
    elif name in ("sqrt", "cbrt"):
        args = (base(p),)
    else:
        args = (p.implicit_argument(),)
    if index is not None:
        args = (*args, index)
    if power == Num(Fraction(-1)) and name in (
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "sinh",
        "cosh",
        "tanh",
    ):
        name, power = "a" + name, None
    node = calls.function(FUNCTIONS.get(name, name), args)
    return Op("pow", (node, power)) if power is not None else node


def _log_base(p: Parser) -> Node:
    if p.is_op("{"):
        return brackets.group(p)
    token = p.peek()
    following = p.peek(1)
    if (
        token.kind == "num"
        and len(token.text) > 1
        and not following.spaced
        and following.kind == "end"
    ):
        return first_digit(p)
    return base(p)


def first_digit(p: Parser) -> Node:
    """The first digit of the next number alone, as LaTeX reads \\frac12; the rest stays."""
    token = p.peek()
    if token.kind != "num" or len(token.text) == 1:
        return brackets.group(p) if p.is_op("{") else base(p)
    p.tokens[p.at] = Token("num", token.text[1:])
    return number(token.text[0])


def _command(p: Parser, token: Token) -> Node:
    name = token.text
    if name == "frac":
        top = scalar(first_digit(p))
        return Op("div", (top, scalar(first_digit(p))))
    if name == "binom":
        top = scalar(first_digit(p))
        return Op("binom", (top, scalar(first_digit(p))))
    if name == "begin":
        return _environment(p)
    if name == "mathbb":
        letter = brackets.group(p)
        return REALS if letter == Sym("R") else Sym(f"mathbb {letter}")
    if name == "vector":
        p.expect("{")
        text = "".join(brackets.until_brace(p))
        return Sym(f"vector {text}")
    if name in _LETTERS:
        return Sym(name.removeprefix("var"))
    raise Unreadable


def _environment(p: Parser) -> Node:
    name = _environment_name(p)
    if name not in _MATRICES:
        raise Unreadable
    if name == "array":
        p.expect("{")
        brackets.until_brace(p)
    rows: list[list[Node]] = [[]]
    while True:
        token = p.peek()
        if token.kind == "cmd" and token.text == "end":
            break
        if token.kind == "cmd" and token.text in ("\\", "cr", "hline"):
            p.at += 1
            rows.extend([[]] if rows[-1] else [])
        elif not p.take("&"):
            rows[-1].append(p.relation())
        if sum(map(len, rows)) > MAX_ITEMS:
            raise Refused("The answer has too many parts.")
    p.at += 1
    if _environment_name(p) != name:
        raise Unreadable
    return calls.matrix([row for row in rows if row])


def _environment_name(p: Parser) -> str:
    p.expect("{")
    return "".join(brackets.until_brace(p))


def subscript(p: Parser, node: Node) -> Node:
    """A name with its index, or a number in its base."""
    digits = p.tokens[p.at - 1].text
    p.expect("_")
    if isinstance(node, Num):
        return in_base(digits, _subscript_text(p))
    if not isinstance(node, Sym) or "_" in node.name:
        raise Unreadable
    return Sym(f"{node.name}_{_subscript_text(p)}")


def _subscript_text(p: Parser) -> str:
    if p.take("{"):
        return "".join(brackets.until_brace(p)).removeprefix("base").strip()
    token = p.peek()
    if token.kind == "end" or token.kind == "op":
        raise Unreadable
    p.at += 1
    return token.text
