"""Parses the smallest parts of an answer: numbers, names, brackets, LaTeX commands and function
calls."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

from rstar_math.extraction import CALLS, CONSTANTS, FUNCTIONS
from rstar_math.grading import nodes
from rstar_math.grading.lexer import NAMED_SETS, Token, in_base, number
from rstar_math.grading.nodes import (
    EMPTY,
    EULER,
    IMAGINARY,
    MAX_DEPTH,
    MAX_ITEMS,
    REALS,
    SCALARS,
    BracketedList,
    Builder,
    FiniteSet,
    LimitExceeded,
    Matrix,
    Node,
    Num,
    Operation,
    ParseError,
    RealSet,
    Relation,
    Sym,
    UnorderedList,
    scalar,
)
from rstar_math.grading.normalize import GREEK

_MATRICES = frozenset(("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"))
_LETTERS = frozenset((
    *GREEK.values(), "varepsilon", "vartheta", "varphi", "Upsilon", "ell", "hbar", "partial",
    "nabla", "angle", "triangle", "odot",
))  # fmt: skip
"""Commands that stand for a letter."""


class ExpressionParser(Protocol):
    """What an atom needs of the parser that reads it (`parser.Parser`)."""

    tokens: list[Token]
    at: int
    """Place of the next token."""
    depth: int
    bars: int
    """Open bars of an absolute value."""

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or a later one."""
        ...

    def is_op(self, *texts: str) -> bool:
        """Whether the next token is one of these signs."""
        ...

    def take(self, *texts: str) -> bool:
        """Step over the next token if it is one of these signs."""
        ...

    def expect(self, *texts: str) -> str:
        """Step over one of these signs. Raises `ParseError` where there is none."""
        ...

    def items(self, outermost: bool = False) -> Node:
        """One relation, or a list of several."""
        ...

    def listed(self, outermost: bool = False) -> tuple[list[Node], list[str]]:
        """The relations of a list, and what separates them."""
        ...

    def relation(self) -> Node:
        """A relation, or one side alone."""
        ...

    def sum(self) -> Node:
        """A sum of terms."""
        ...

    def group_or_factor(self) -> Node:
        """What a command applies to: a group in braces, or one factor."""
        ...

    def implicit_argument(self) -> Node:
        """The argument of a function without brackets."""
        ...


def base(p: ExpressionParser) -> Node:
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
        return bracketed(p)
    if token.kind == "word" and len(token.text) == 1:
        return Sym(token.text)
    raise ParseError


def _numeral(p: ExpressionParser, token: Token) -> Node:
    value = number(token.text)
    following = p.peek()
    if following.text == "j" and not following.spaced and following.kind == "name":
        p.at += 1
        return Operation("mul", (value, IMAGINARY))
    return value


def _name(p: ExpressionParser, token: Token) -> Node:
    name = token.text
    if name in CALLS:
        if not p.is_op("("):
            raise ParseError
        return nodes.call(name, arguments(p))
    if name in FUNCTIONS:
        return _function(p, name)
    if name in CONSTANTS:
        return Operation(CONSTANTS[name])
    if name in NAMED_SETS:
        return REALS if NAMED_SETS[name] == "reals" else EMPTY
    if name in ("e", "i"):
        return EULER if name == "e" else IMAGINARY
    following = p.peek()
    if following.kind == "num" and not following.spaced and following.text.isdigit():
        p.at += 1
        return Sym(f"{name}_{following.text}")
    return Sym(name)


def arguments(p: ExpressionParser) -> tuple[Node, ...]:
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


def _function(p: ExpressionParser, name: str) -> Node:
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
        args = (group(p),)
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
    node = nodes.function(FUNCTIONS.get(name, name), args)
    return Operation("pow", (node, power)) if power is not None else node


def _log_base(p: ExpressionParser) -> Node:
    if p.is_op("{"):
        return group(p)
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


def first_digit(p: ExpressionParser) -> Node:
    """The first digit of the next number alone, as LaTeX reads \\frac12; the rest stays."""
    token = p.peek()
    if token.kind != "num" or len(token.text) == 1:
        return group(p) if p.is_op("{") else base(p)
    p.tokens[p.at] = Token("num", token.text[1:])
    return number(token.text[0])


def _command(p: ExpressionParser, token: Token) -> Node:
    name = token.text
    if name == "frac":
        top = scalar(first_digit(p))
        return Operation("div", (top, scalar(first_digit(p))))
    if name == "binom":
        top = scalar(first_digit(p))
        return Operation("binom", (top, scalar(first_digit(p))))
    if name == "begin":
        return _environment(p)
    if name == "mathbb":
        letter = group(p)
        return REALS if letter == Sym("R") else Sym(f"mathbb {letter}")
    if name == "vector":
        p.expect("{")
        text = "".join(until_brace(p))
        return Sym(f"vector {text}")
    if name in _LETTERS:
        return Sym(name.removeprefix("var"))
    raise ParseError


def _environment(p: ExpressionParser) -> Node:
    name = _environment_name(p)
    if name not in _MATRICES:
        raise ParseError
    if name == "array":
        p.expect("{")
        until_brace(p)
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
            raise LimitExceeded("The answer has too many parts.")
    p.at += 1
    if _environment_name(p) != name:
        raise ParseError
    return nodes.matrix([row for row in rows if row])


def _environment_name(p: ExpressionParser) -> str:
    p.expect("{")
    return "".join(until_brace(p))


def subscript(p: ExpressionParser, node: Node) -> Node:
    """A name with its index, or a number in its base."""
    digits = p.tokens[p.at - 1].text
    p.expect("_")
    if isinstance(node, Num):
        return in_base(digits, _subscript_text(p))
    if not isinstance(node, Sym) or "_" in node.name:
        raise ParseError
    return Sym(f"{node.name}_{_subscript_text(p)}")


def _subscript_text(p: ExpressionParser) -> str:
    if p.take("{"):
        return "".join(until_brace(p)).removeprefix("base").strip()
    token = p.peek()
    if token.kind == "end" or token.kind == "op":
        raise ParseError
    p.at += 1
    return token.text


def group(p: ExpressionParser) -> Node:
    """The content of {...}."""
    p.expect("{")
    bars, p.bars = p.bars, 0
    node = p.items()
    p.expect("}")
    p.bars = bars
    if isinstance(node, UnorderedList):
        return FiniteSet(node.items)
    return node


def until_brace(p: ExpressionParser) -> list[str]:
    """The texts of the tokens up to the next closing brace, which is stepped over."""
    found: list[str] = []
    while not p.take("}"):
        if p.peek().kind == "end" or len(found) > 20:
            raise ParseError
        found.append(p.peek().text)
        p.at += 1
    return found


def bracketed(p: ExpressionParser) -> Node:
    """What stands between two brackets of any kind, the next token being the first."""
    if p.is_op("{", "\\{"):
        return _braces(p)
    if p.is_op("|"):
        p.at += 1
        p.bars += 1
        node = p.sum()
        p.expect("|")
        p.bars -= 1
        return Operation("abs", (scalar(node),))
    if p.is_op("⌊", "⌈"):
        opening = p.expect("⌊", "⌈")
        node = p.sum()
        p.expect("⌋" if opening == "⌊" else "⌉")
        return Operation("floor" if opening == "⌊" else "ceil", (scalar(node),))
    opening = p.expect("(", "[", "⟨", "]")
    bars, p.bars = p.bars, 0
    p.depth += 1
    if p.depth > MAX_DEPTH:
        raise LimitExceeded("The answer is nested too deeply.")
    if p.take(")", "]"):
        return BracketedList("[]" if opening == "[" else "()", ())
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
            raise ParseError
        return BracketedList("[]", tuple(listed))
    if "and" in separators or "or" in separators:
        kind = "intersection" if "and" in separators else "union"
        return RealSet(kind, tuple(listed))
    if brackets in ("(]", "[)") and len(listed) != 2:
        raise ParseError
    return BracketedList(brackets, tuple(listed))


def _braces(p: ExpressionParser) -> Node:
    closing = "}" if p.expect("{", "\\{") == "{" else "\\}"
    if p.take(closing):
        return EMPTY if closing == "\\}" else FiniteSet(())
    bars, p.bars = p.bars, 1
    listed, _ = p.listed()
    p.bars = bars
    if p.is_op("|", ":"):
        return _described(p, listed, closing)
    p.expect(closing)
    if closing == "}" and len(listed) == 1:
        return listed[0]
    return FiniteSet(tuple(listed))


def _described(p: ExpressionParser, listed: list[Node], closing: str) -> Node:
    """The rest of {x | condition}, or of the print of a dictionary {x: 5, y: 6}."""
    colon = p.expect("|", ":") == ":"
    bars, p.bars = p.bars, 0
    conditions, separators = p.listed()
    entries: list[Node] = []
    while colon and p.take(":"):
        value = p.sum()
        entries.append(Relation(("=",), (conditions[-1], value)))
        conditions = conditions[:-1]
        if p.take(","):
            more, _ = p.listed()
            conditions += more
    p.expect(closing)
    p.bars = bars
    if colon and len(listed) == 1 and isinstance(conditions[0], SCALARS):
        first = Relation(("=",), (listed[0], conditions[0]))
        return UnorderedList((first, *entries)) if entries else first
    variable = listed[0].sides[0] if isinstance(listed[0], Relation) else listed[0]
    if len(listed) != 1 or not isinstance(variable, Sym) or entries:
        raise ParseError
    kind = "union" if "or" in separators else "intersection"
    condition = conditions[0] if len(conditions) == 1 else RealSet(kind, tuple(conditions))
    return Builder(variable.name, condition)
