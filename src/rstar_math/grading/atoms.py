"""Parses the atoms of an answer: numbers, names, brackets, LaTeX commands, function calls."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

from rstar_math.extraction import CALLS, CONSTANTS, FUNCTIONS
from rstar_math.grading import nodes
from rstar_math.grading.lexer import NAMED_SETS, Token, parse_in_base, parse_number
from rstar_math.grading.nodes import (
    EMPTY,
    EULER,
    IMAGINARY,
    MAX_DEPTH,
    MAX_ITEMS,
    REALS,
    SCALARS,
    BracketedList,
    FiniteSet,
    LimitExceeded,
    Matrix,
    Node,
    Num,
    Operation,
    ParseError,
    RealSet,
    Relation,
    SetBuilder,
    Sym,
    UnorderedList,
    require_scalar,
)
from rstar_math.grading.normalize import GREEK

_MATRIX_ENVIRONMENTS = frozenset(
    ["matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"]
)
_INVERTIBLE = frozenset(["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"])
"""Functions for which the exponent -1 means the inverse function."""
_LETTER_COMMANDS = frozenset((
    *GREEK.values(), "varepsilon", "vartheta", "varphi", "Upsilon", "ell", "hbar", "partial",
    "nabla", "angle", "triangle", "odot",
))  # fmt: skip
"""LaTeX commands for a single letter."""


class ExpressionParser(Protocol):
    """The methods of `parser.Parser` that this module uses."""

    tokens: list[Token]
    position: int
    """Index of the next token."""
    depth: int
    open_bars: int
    """Number of open absolute-value bars."""

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or a later one."""
        ...

    def is_op(self, *texts: str) -> bool:
        """Whether the next token is one of these operators."""
        ...

    def accept(self, *texts: str) -> bool:
        """Consume the next token if it is one of these operators; return whether it was."""
        ...

    def expect(self, *texts: str) -> str:
        """Consume one of these operators and return it. Raises `ParseError` if it is not next."""
        ...

    def items(self, outermost: bool = False) -> Node:
        """One relation, or an unordered list of several."""
        ...

    def item_list(self, outermost: bool = False) -> tuple[list[Node], list[str]]:
        """The relations of a list, and their separators."""
        ...

    def relation(self) -> Node:
        """A chain of relations, or a single expression."""
        ...

    def sum(self) -> Node:
        """A sum of terms."""
        ...

    def group_or_factor(self) -> Node:
        """A group in braces, or one factor."""
        ...

    def implicit_argument(self) -> Node:
        """The argument of a function that is written without brackets."""
        ...


def atom(p: ExpressionParser) -> Node:
    """One atom without postfix operators. Raises `ParseError` if none starts here."""
    token = p.peek()
    p.position += 1
    if token.kind in ("num", "hex"):
        return _numeral(p, token)
    if token.kind == "name":
        return _name(p, token)
    if token.kind == "cmd":
        return _command(p, token)
    if token.kind == "op":
        p.position -= 1
        return bracketed(p)
    if token.kind == "word" and len(token.text) == 1:
        return Sym(token.text)
    raise ParseError


def _numeral(p: ExpressionParser, token: Token) -> Node:
    value = parse_number(token.text)
    next_token = p.peek()
    if next_token.text == "j" and not next_token.space_before and next_token.kind == "name":
        p.position += 1
        return Operation("mul", (value, IMAGINARY))
    return value


def _name(p: ExpressionParser, token: Token) -> Node:
    name = token.text
    if name in CALLS:
        if not p.is_op("("):
            raise ParseError
        return nodes.apply_constructor(name, arguments(p))
    if name in FUNCTIONS:
        return _function(p, name)
    if name in CONSTANTS:
        return Operation(CONSTANTS[name])
    if name in NAMED_SETS:
        return REALS if NAMED_SETS[name] == "reals" else EMPTY
    if name in ("e", "i"):
        return EULER if name == "e" else IMAGINARY
    next_token = p.peek()
    if next_token.kind == "num" and not next_token.space_before and next_token.text.isdigit():
        p.position += 1
        return Sym(f"{name}_{next_token.text}")
    return Sym(name)


def arguments(p: ExpressionParser) -> tuple[Node, ...]:
    """The arguments of a call. The next token must be its opening bracket."""
    p.expect("(")
    if p.accept(")"):
        return ()
    open_bars, p.open_bars = p.open_bars, 0
    items, _ = p.item_list()
    p.accept(",")
    p.expect(")")
    p.open_bars = open_bars
    return tuple(items)


def _function(p: ExpressionParser, name: str) -> Node:
    index: Node | None = None
    power: Node | None = None
    if name in ("log", "sqrt") and p.accept("_" if name == "log" else "["):
        if name == "sqrt":
            index = p.sum()
            p.expect("]")
        else:
            index = _log_base(p)
    if name != "sqrt" and p.accept("^"):
        power = p.group_or_factor()
        if name == "log" and index is None and p.accept("_"):
            index = _log_base(p)
    if p.is_op("("):
        args = arguments(p)
    elif p.is_op("{"):
        args = (group(p),)
    elif name in ("sqrt", "cbrt"):
        args = (atom(p),)
    else:
        args = (p.implicit_argument(),)
    if index is not None:
        args = (*args, index)
    if power == Num(Fraction(-1)) and name in _INVERTIBLE:
        name, power = "a" + name, None
    node = nodes.apply_function(FUNCTIONS.get(name, name), args)
    return Operation("pow", (node, power)) if power is not None else node


def _log_base(p: ExpressionParser) -> Node:
    if p.is_op("{"):
        return group(p)
    token = p.peek()
    next_token = p.peek(1)
    if (
        token.kind == "num"
        and len(token.text) > 1
        and not next_token.space_before
        and next_token.kind == "end"
    ):
        return latex_argument(p)
    return atom(p)


def latex_argument(p: ExpressionParser) -> Node:
    """One argument of a LaTeX command: a group, an atom, or a single digit as in \\frac12."""
    token = p.peek()
    if token.kind != "num" or len(token.text) == 1:
        return group(p) if p.is_op("{") else atom(p)
    p.tokens[p.position] = Token("num", token.text[1:])
    return parse_number(token.text[0])


def _command(p: ExpressionParser, token: Token) -> Node:
    name = token.text
    if name == "frac":
        top = require_scalar(latex_argument(p))
        return Operation("div", (top, require_scalar(latex_argument(p))))
    if name == "binom":
        top = require_scalar(latex_argument(p))
        return Operation("binom", (top, require_scalar(latex_argument(p))))
    if name == "begin":
        return _environment(p)
    if name == "mathbb":
        letter = group(p)
        return REALS if letter == Sym("R") else Sym(f"mathbb {letter}")
    if name == "vector":
        p.expect("{")
        text = "".join(texts_until_brace(p))
        return Sym(f"vector {text}")
    if name in _LETTER_COMMANDS:
        return Sym(name.removeprefix("var"))
    raise ParseError


def _environment(p: ExpressionParser) -> Node:
    name = _environment_name(p)
    if name == "cases":
        return _system(p)
    if name not in _MATRIX_ENVIRONMENTS:
        raise ParseError
    if name == "array":
        p.expect("{")
        texts_until_brace(p)
    rows: list[list[Node]] = [[]]
    while True:
        token = p.peek()
        if token.kind == "cmd" and token.text == "end":
            break
        if token.kind == "cmd" and token.text in ("\\", "cr", "hline"):
            p.position += 1
            rows.extend([[]] if rows[-1] else [])
        elif not p.accept("&"):
            rows[-1].append(p.relation())
        if sum(map(len, rows)) > MAX_ITEMS:
            raise LimitExceeded("The answer has too many parts.")
    p.position += 1
    if _environment_name(p) != name:
        raise ParseError
    return nodes.matrix([row for row in rows if row])


def _system(p: ExpressionParser) -> Node:
    """A system of equations or inequalities: an unordered list of the rows."""
    rows: list[Node] = []
    while not (p.peek().kind == "cmd" and p.peek().text == "end"):
        if p.peek().kind == "cmd" and p.peek().text in ("\\", "cr"):
            p.position += 1
            continue
        row = p.items()
        rows += row.items if isinstance(row, UnorderedList) else (row,)
        if len(rows) > MAX_ITEMS:
            raise LimitExceeded("The answer has too many parts.")
    p.position += 1
    if _environment_name(p) != "cases" or not all(isinstance(row, Relation) for row in rows):
        raise ParseError
    return UnorderedList(tuple(rows))


def _environment_name(p: ExpressionParser) -> str:
    p.expect("{")
    return "".join(texts_until_brace(p))


def subscript(p: ExpressionParser, node: Node) -> Node:
    """A name with its index, or the value of a number in its base."""
    digits = p.tokens[p.position - 1].text
    p.expect("_")
    if isinstance(node, Num):
        return parse_in_base(digits, _subscript_text(p))
    if not isinstance(node, Sym) or "_" in node.name:
        raise ParseError
    return Sym(f"{node.name}_{_subscript_text(p)}")


def _subscript_text(p: ExpressionParser) -> str:
    if p.accept("{"):
        return "".join(texts_until_brace(p)).removeprefix("base").strip()
    token = p.peek()
    if token.kind == "end" or token.kind == "op":
        raise ParseError
    p.position += 1
    return token.text


def group(p: ExpressionParser) -> Node:
    """The content of a group in braces. Several items make a set."""
    p.expect("{")
    open_bars, p.open_bars = p.open_bars, 0
    node = p.items()
    p.expect("}")
    p.open_bars = open_bars
    if isinstance(node, UnorderedList):
        return FiniteSet(node.items)
    return node


def texts_until_brace(p: ExpressionParser) -> list[str]:
    """Consume the tokens up to and including the next closing brace; return their texts."""
    texts: list[str] = []
    while not p.accept("}"):
        if p.peek().kind == "end" or len(texts) > 20:
            raise ParseError
        texts.append(p.peek().text)
        p.position += 1
    return texts


def bracketed(p: ExpressionParser) -> Node:
    """The content of brackets of any kind, as the node that they denote."""
    if p.is_op("{", "\\{"):
        return _braces(p)
    if p.is_op("|"):
        p.position += 1
        p.open_bars += 1
        node = p.sum()
        p.expect("|")
        p.open_bars -= 1
        return Operation("abs", (require_scalar(node),))
    if p.is_op("⌊", "⌈"):
        opening = p.expect("⌊", "⌈")
        node = p.sum()
        p.expect("⌋" if opening == "⌊" else "⌉")
        return Operation("floor" if opening == "⌊" else "ceil", (require_scalar(node),))
    opening = p.expect("(", "[", "⟨", "]")
    open_bars, p.open_bars = p.open_bars, 0
    p.depth += 1
    if p.depth > MAX_DEPTH:
        raise LimitExceeded("The answer is nested too deeply.")
    if p.accept(")", "]"):
        p.depth -= 1
        p.open_bars = open_bars
        return BracketedList("[]" if opening == "[" else "()", ())
    items, separators = p.item_list()
    p.accept(",")
    closing = p.expect("⟩") if opening == "⟨" else p.expect(")", "]", "[")
    p.depth -= 1
    p.open_bars = open_bars
    return _sequence(opening, closing, items, separators)


def _sequence(opening: str, closing: str, items: list[Node], separators: list[str]) -> Node:
    """A parenthesized expression, tuple, list, interval or combined condition."""
    brackets = {"⟨": "(", "]": "("}.get(opening, opening) + {"⟩": ")", "[": ")"}.get(
        closing, closing
    )
    if len(items) == 1:
        if brackets == "()" or isinstance(items[0], Matrix):
            return items[0]
        if brackets != "[]":
            raise ParseError
        return BracketedList("[]", tuple(items))
    if "and" in separators or "or" in separators:
        kind = "intersection" if "and" in separators else "union"
        return RealSet(kind, tuple(items))
    if brackets in ("(]", "[)") and len(items) != 2:
        raise ParseError
    return BracketedList(brackets, tuple(items))


def _braces(p: ExpressionParser) -> Node:
    closing = "}" if p.expect("{", "\\{") == "{" else "\\}"
    if p.accept(closing):
        return EMPTY if closing == "\\}" else FiniteSet(())
    open_bars, p.open_bars = p.open_bars, 1
    items, _ = p.item_list()
    p.open_bars = open_bars
    if p.is_op("|", ":"):
        return _set_builder_or_dict(p, items, closing)
    p.expect(closing)
    if closing == "}" and len(items) == 1:
        return items[0]
    return FiniteSet(tuple(items))


def _set_builder_or_dict(p: ExpressionParser, items: list[Node], closing: str) -> Node:
    """The rest of a set builder {x | condition}, or of a printed dictionary {x: 5, y: 6}."""
    colon = p.expect("|", ":") == ":"
    open_bars, p.open_bars = p.open_bars, 0
    conditions, separators = p.item_list()
    entries: list[Node] = []
    while colon and p.accept(":"):
        value = p.sum()
        entries.append(Relation(("=",), (conditions[-1], value)))
        conditions = conditions[:-1]
        if p.accept(","):
            more, _ = p.item_list()
            conditions += more
    p.expect(closing)
    p.open_bars = open_bars
    if colon and len(items) == 1 and isinstance(conditions[0], SCALARS):
        first = Relation(("=",), (items[0], conditions[0]))
        return UnorderedList((first, *entries)) if entries else first
    variable = items[0].sides[0] if isinstance(items[0], Relation) else items[0]
    if len(items) != 1 or not isinstance(variable, Sym) or entries:
        raise ParseError
    kind = "union" if "or" in separators else "intersection"
    condition = conditions[0] if len(conditions) == 1 else RealSet(kind, tuple(conditions))
    return SetBuilder(variable.name, condition)
