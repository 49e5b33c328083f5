"""Parses answers by recursive descent, with limits on size and depth. Never executes anything.

items    := relation ((","|";"|"or"|"and") relation)*
relation := set (("="|"<"|...) set)*
set      := sum (("∪"|"∩"|"∖") sum)*
sum      := ["+"|"-"|"±"] term (("+"|"-"|"±") term)*
term     := factor (["*"|"/"] factor)*          without an operator: a product
factor   := atom ("^" factor | "!" | "°" | "%" | "'" | "_" ...)*
"""

from __future__ import annotations

from typing import TypeGuard

from rstar_math.extraction import FUNCTIONS
from rstar_math.grading import atoms
from rstar_math.grading.lexer import Token
from rstar_math.grading.nodes import (
    MAX_DEPTH,
    MAX_ITEMS,
    SCALARS,
    BracketedList,
    FiniteSet,
    LimitExceeded,
    Node,
    Num,
    Operation,
    ParseError,
    RealSet,
    Relation,
    SetBuilder,
    Sym,
    UnorderedList,
    is_inequality,
    product,
    require_scalar,
    with_sign,
)
from rstar_math.grading.relations import assigned_name

_RELATIONS = frozenset(("=", "≈", "<", "<=", ">", ">=", "!=", "∈"))
_SEPARATORS = frozenset((",", ";", "or", "and"))
_LOGICAL = {"&": "and", "|": "or"}
_SET_OPERATORS = {"∪": "union", "∩": "intersection", "∖": "difference"}
_CLOSING = frozenset((")", "]", "}", "\\}", "⟩", "⌋", "⌉"))
_ARITHMETIC = ("+", "-", "*", "/")
_END = Token("end", "")


class Parser:
    """Parses the tokens of one answer. All methods may raise `ParseError` or `LimitExceeded`."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.open_bars = 0
        """Number of open absolute-value bars; inside, the next bar closes one."""
        self.units: list[str] = []
        """The unit after each item of the outermost list; "" for none."""

    def answer(self) -> Node:
        """The whole answer. Raises `ParseError` if tokens remain, `LimitExceeded` above a cap."""
        if self.is_op("=", "≈"):
            self.position += 1
        node = self.items(outermost=True)
        if self.peek() is not _END:
            raise ParseError
        return node

    # The token stream

    def peek(self, ahead: int = 0) -> Token:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else _END

    def is_op(self, *texts: str) -> bool:
        token = self.peek()
        return token.kind == "op" and token.text in texts

    def accept(self, *texts: str) -> bool:
        """Consume the next token if it is one of these operators; return whether it was."""
        if self.is_op(*texts):
            self.position += 1
            return True
        return False

    def expect(self, *texts: str) -> str:
        token = self.peek()
        if not self.accept(*texts):
            raise ParseError
        return token.text

    # Lists and relations

    def items(self, outermost: bool = False) -> Node:
        """One relation, or an unordered list of several.

        Several solutions for the same unknowns, as in p=5, q=2; p=7, q=2, are lists of their own.
        """
        items, separators = self.item_list(outermost)
        if len(items) == 1:
            return items[0]
        solutions = split_solutions(items)
        if solutions:
            return UnorderedList(solutions)
        if set(separators) == {"and"} and all(is_inequality(item) for item in items):
            return RealSet("intersection", tuple(items))
        return UnorderedList(tuple(items))

    def item_list(self, outermost: bool = False) -> tuple[list[Node], list[str]]:
        items, separators = [self.item(outermost)], []
        while self.is_op(*_SEPARATORS) or self._is_logical(items[-1]):
            separators.append(_LOGICAL.get(self.peek().text, self.peek().text))
            self.position += 1
            if self.is_op("or", "and"):
                separators[-1] = self.peek().text
                self.position += 1
            if self.peek().kind == "op" and self.peek().text in _CLOSING:
                break
            items.append(self.item(outermost))
            if len(items) > MAX_ITEMS:
                raise LimitExceeded("The answer has too many parts.")
        return items, separators

    def _is_logical(self, before: Node) -> bool:
        """Whether a & or | follows that joins conditions, as sympy prints them."""
        return isinstance(before, Relation | RealSet) and (
            self.is_op("&") or (self.is_op("|") and self.open_bars == 0)
        )

    def item(self, outermost: bool) -> Node:
        node = self.relation()
        if outermost:
            self.unit_words()
        return node

    def unit_words(self) -> None:
        """Consume a unit: words after a number, with powers, slashes and products."""
        words: list[str] = []
        start = self.position
        while self.peek().kind == "word" or (
            words and self.peek().text in ("/", "^", "*", ".", "°")
        ):
            words.append(self.peek().text)
            self.position += 1
            if words[-1] == "^":
                self.group_or_factor()
        if words and not any(token.kind in ("num", "hex") for token in self.tokens[:start]):
            raise ParseError
        self.units.append(" ".join(words))

    def relation(self) -> Node:
        sides, ops = [self.set_expression()], []
        while self.is_op(*_RELATIONS):
            op = self.peek().text
            self.position += 1
            if op in "<>" and self.accept("="):
                op += "="
            ops.append(op)
            if op == "=" and self.accept("≈"):
                ops[-1] = "≈"
            sides.append(self.set_expression())
        return Relation(tuple(ops), tuple(sides)) if ops else sides[0]

    def set_expression(self) -> Node:
        node = self.sum()
        while self.is_op(*_SET_OPERATORS) or self._is_letter_union():
            kind = _SET_OPERATORS.get(self.peek().text, "union")
            self.position += 1
            other = self.sum()
            if isinstance(node, RealSet) and node.kind == kind == "union":
                node = RealSet(kind, (*node.parts, other))
            else:
                node = RealSet(kind, (node, other))
        return node

    def _is_letter_union(self) -> bool:
        """Whether the next token is a U between brackets, which means a union."""
        if self.peek().text != "U" or self.position == 0:
            return False
        after = self.peek(1).text
        return self.tokens[self.position - 1].text in _CLOSING and after in ("(", "[", "\\{", "{")

    # Scalars

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise LimitExceeded("The answer is nested too deeply.")
        first = self.signed_term()
        terms = [first]
        while self.is_op("+", "-", "±", "∓"):
            sign = self.peek().text
            self.position += 1
            term = self.signed_term() if self.is_op("-", "+") else self.term()
            terms.append(with_sign(sign, term))
        self.depth -= 1
        if len(terms) == 1:
            return first
        return Operation("add", tuple(require_scalar(term) for term in terms))

    def signed_term(self) -> Node:
        if not self.is_op("+", "-", "±", "∓"):
            return self.term()
        sign = self.expect("+", "-", "±", "∓")
        return with_sign(sign, self.signed_term())

    def term(self) -> Node:
        node = last = self.factor()
        while True:
            if self.accept("*"):
                last = self.operand()
                node = product(node, last)
            elif self.accept("/"):
                node = Operation("div", (require_scalar(node), require_scalar(self.operand())))
            elif is_mixed_number(self, node):
                node = Operation("add", (node, mixed_fraction(self)))
            elif self.starts_factor() and isinstance(node, SCALARS):
                if self.peek().kind in ("num", "hex") and isinstance(last, Num):
                    raise ParseError
                last = self.factor()
                node = product(node, last)
            elif self.is_op("[") and isinstance(node, SCALARS):
                last = self.factor()
                if not is_grouping(last):
                    raise ParseError
                last = last.items[0]
                node = product(node, last)
            else:
                return node

    def operand(self) -> Node:
        """A factor after "*" or "/", which may have a sign of its own."""
        if self.is_op("-", "+", "±"):
            sign = self.peek().text
            self.position += 1
            return with_sign(sign, self.factor())
        return self.factor()

    def starts_factor(self) -> bool:
        """Whether the next token begins a factor, so that an implicit product follows."""
        token = self.peek()
        if token.kind in ("num", "hex", "cmd"):
            return token.text not in ("\\", "end")
        if token.kind == "name":
            return not self._is_letter_union()
        if token.kind == "op":
            if token.text == "|":
                return self.open_bars == 0
            return token.text in ("(", "{", "⌊", "⌈")
        return False

    def factor(self) -> Node:
        start = self.position
        node = atoms.atom(self)
        if is_grouping(node) and (self._is_operand(start) or self.starts_factor()):
            node = node.items[0]
        while True:
            if self.accept("^", "**"):
                node = self._power(node)
            elif self.is_op("!") and isinstance(node, SCALARS):
                self.position += 1
                if self.is_op("!"):
                    raise ParseError
                node = Operation("fact", (node,))
            elif self.accept("°"):
                node = Operation("deg", (require_scalar(node),))
            elif self.is_op("%") and isinstance(node, SCALARS):
                self.position += 1
                if self.peek().kind in ("num", "name"):
                    raise ParseError
            elif self.is_op("_"):
                node = atoms.subscript(self, node)
            elif self.is_op("'") and isinstance(node, Sym):
                self.position += 1
                node = Sym(node.name + "'")
            else:
                return node

    def _is_operand(self, start: int) -> bool:
        """Whether an arithmetic operator stands before the token at `start` or comes next."""
        before = self.tokens[start - 1].text if start else ""
        return before in _ARITHMETIC or self.peek().text in (*_ARITHMETIC, "^", "**", "!")

    def _power(self, node: Node) -> Node:
        if self.is_op("'"):
            raise ParseError
        exponent = self.group_or_factor()
        if isinstance(node, BracketedList | FiniteSet | UnorderedList | SetBuilder):
            raise ParseError
        return Operation("pow", (require_scalar(node), require_scalar(exponent)))

    def group_or_factor(self) -> Node:
        """An exponent: a group in braces, or one factor with an optional sign, as in 2**-3."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise LimitExceeded("The answer is nested too deeply.")
        sign = self.peek().text if self.is_op("-", "+") else "+"
        if self.is_op("-", "+"):
            self.position += 1
        if self.peek().text == "{":
            node = atoms.group(self)
            if self.accept("^", "**"):
                node = self._power(node)
        else:
            node = atoms.atom(self)
            while self.is_op("!", "_", "°"):
                node = atoms.subscript(self, node) if self.is_op("_") else self._postfix(node)
            if self.accept("^", "**"):
                node = self._power(node)
        self.depth -= 1
        return with_sign(sign, node)

    def _postfix(self, node: Node) -> Node:
        name = "fact" if self.expect("!", "°") == "!" else "deg"
        return Operation(name, (require_scalar(node),))

    def implicit_argument(self) -> Node:
        """The argument of a function that is written without brackets.

        It is a product that ends before the next function or bracket.
        """
        if self.is_op("-", "+"):
            sign = self.expect("-", "+")
            return with_sign(sign, self.implicit_argument())
        node = self.factor()
        while self.starts_factor() and self.peek().text not in FUNCTIONS and not self.is_op("("):
            if is_mixed_number(self, node):
                node = Operation("add", (node, mixed_fraction(self)))
            else:
                node = product(node, self.factor())
        return node


def is_grouping(node: Node) -> TypeGuard[BracketedList]:
    """Whether square brackets hold one scalar, so that they may only group it: 2[x + 1]."""
    return (
        isinstance(node, BracketedList)
        and node.brackets == "[]"
        and len(node.items) == 1
        and isinstance(node.items[0], SCALARS)
    )


def split_solutions(items: list[Node]) -> tuple[Node, ...]:
    """The items cut into lists that assign the same names in the same order; () if they do not."""
    names = [assigned_name(item) for item in items]
    size = len(set(names))
    if None in names or not 1 < size < len(names) or len(names) % size:
        return ()
    if names != names[:size] * (len(names) // size):
        return ()
    return tuple(UnorderedList(tuple(items[at : at + size])) for at in range(0, len(items), size))


def is_mixed_number(p: Parser, node: Node) -> bool:
    """Whether an integer is followed by a proper fraction of integers, as in 3 1/2."""
    before = p.tokens[p.position - 1]
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
        p.peek().space_before
        and found[1] == "/"
        and found[0].isdigit()
        and found[2].isdigit()
        and int(found[0]) < int(found[2])
    )


def mixed_fraction(p: Parser) -> Node:
    """The fraction of a mixed number."""
    top = p.factor()
    if p.accept("/"):
        return Operation("div", (top, p.factor()))
    return top
