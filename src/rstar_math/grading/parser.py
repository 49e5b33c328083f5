"""A recursive-descent parser of answers with limits on size and depth; it never executes anything.

items    := relation ((","|";"|"or"|"and") relation)*
relation := region (("="|"<"|...) region)*
region   := sum (("∪"|"∩"|"∖") sum)*
sum      := ["+"|"-"|"±"] term (("+"|"-"|"±") term)*
term     := factor (["*"|"/"] factor)*          a missing sign is a product
factor   := base ("^" factor | "!" | "°" | "%" | "'" | "_" ...)*
"""

from __future__ import annotations

from rstar_math.extraction import FUNCTIONS
from rstar_math.grading import atoms
from rstar_math.grading.lexer import Token
from rstar_math.grading.nodes import (
    MAX_DEPTH,
    MAX_ITEMS,
    SCALARS,
    BracketedList,
    Builder,
    FiniteSet,
    LimitExceeded,
    Node,
    Num,
    Operation,
    ParseError,
    RealSet,
    Relation,
    Sym,
    UnorderedList,
    is_inequality,
    product,
    scalar,
    signed,
)

_RELATIONS = frozenset(("=", "≈", "<", "<=", ">", ">=", "!=", "∈"))
_SEPARATORS = frozenset((",", ";", "or", "and"))
_LOGICAL = {"&": "and", "|": "or"}
_REGIONS = {"∪": "union", "∩": "intersection", "∖": "difference"}
_CLOSING = frozenset((")", "]", "}", "\\}", "⟩", "⌋", "⌉"))
_END = Token("end", "")


class Parser:
    """Reads one answer's tokens from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0
        """Open |...|, within which a bar closes."""
        self.units: list[str] = []
        """Words of unit found after the items of the outermost list."""

    def answer(self) -> Node:
        """The whole answer. Raises `ParseError` if anything is left over, `LimitExceeded` past a
        cap."""
        if self.is_op("=", "≈"):
            self.at += 1
        node = self.items(outermost=True)
        if self.peek() is not _END:
            raise ParseError
        return node

    # The token stream

    def peek(self, ahead: int = 0) -> Token:
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else _END

    def is_op(self, *texts: str) -> bool:
        token = self.peek()
        return token.kind == "op" and token.text in texts

    def take(self, *texts: str) -> bool:
        """Step over the next token if it is one of these signs."""
        if self.is_op(*texts):
            self.at += 1
            return True
        return False

    def expect(self, *texts: str) -> str:
        token = self.peek()
        if not self.take(*texts):
            raise ParseError
        return token.text

    # Lists and relations

    def items(self, outermost: bool = False) -> Node:
        """One relation, or a Bag of several."""
        listed, separators = self.listed(outermost)
        if len(listed) == 1:
            return listed[0]
        if set(separators) == {"and"} and all(is_inequality(item) for item in listed):
            return RealSet("intersection", tuple(listed))
        return UnorderedList(tuple(listed))

    def listed(self, outermost: bool = False) -> tuple[list[Node], list[str]]:
        items, separators = [self.item(outermost)], []
        while self.is_op(*_SEPARATORS) or self._is_logical(items[-1]):
            separators.append(_LOGICAL.get(self.peek().text, self.peek().text))
            self.at += 1
            if self.is_op("or", "and"):
                separators[-1] = self.peek().text
                self.at += 1
            if self.peek().kind == "op" and self.peek().text in _CLOSING:
                break
            items.append(self.item(outermost))
            if len(items) > MAX_ITEMS:
                raise LimitExceeded("The answer has too many parts.")
        return items, separators

    def _is_logical(self, before: Node) -> bool:
        """Whether a & or | joins conditions, as sympy prints them."""
        return isinstance(before, Relation | RealSet) and (
            self.is_op("&") or (self.is_op("|") and self.bars == 0)
        )

    def item(self, outermost: bool) -> Node:
        node = self.relation()
        if outermost:
            self.unit_words()
        return node

    def unit_words(self) -> None:
        """Step over a unit: words after a number, with their powers, per and slash."""
        words: list[str] = []
        start = self.at
        while self.peek().kind == "word" or (
            words and self.peek().text in ("/", "^", "*", ".", "°")
        ):
            words.append(self.peek().text)
            self.at += 1
            if words[-1] == "^":
                self.group_or_factor()
        if words and not any(token.kind in ("num", "hex") for token in self.tokens[:start]):
            raise ParseError
        self.units.append(" ".join(words))

    def relation(self) -> Node:
        sides, ops = [self.region()], []
        while self.is_op(*_RELATIONS):
            op = self.peek().text
            self.at += 1
            if op in "<>" and self.take("="):
                op += "="
            ops.append(op)
            if op == "=" and self.take("≈"):
                ops[-1] = "≈"
            sides.append(self.region())
        return Relation(tuple(ops), tuple(sides)) if ops else sides[0]

    def region(self) -> Node:
        node = self.sum()
        while self.is_op(*_REGIONS) or self._is_letter_union():
            kind = _REGIONS.get(self.peek().text, "union")
            self.at += 1
            other = self.sum()
            if isinstance(node, RealSet) and node.kind == kind == "union":
                node = RealSet(kind, (*node.parts, other))
            else:
                node = RealSet(kind, (node, other))
        return node

    def _is_letter_union(self) -> bool:
        """Whether a U stands between brackets, where it means a union."""
        if self.peek().text != "U" or self.at == 0:
            return False
        after = self.peek(1).text
        return self.tokens[self.at - 1].text in _CLOSING and after in ("(", "[", "\\{", "{")

    # Scalars

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise LimitExceeded("The answer is nested too deeply.")
        first = self.signed_term()
        terms = [first]
        while self.is_op("+", "-", "±", "∓"):
            sign = self.peek().text
            self.at += 1
            term = self.signed_term() if self.is_op("-", "+") else self.term()
            terms.append(signed(sign, term))
        self.depth -= 1
        if len(terms) == 1:
            return first
        return Operation("add", tuple(scalar(term) for term in terms))

    def signed_term(self) -> Node:
        if not self.is_op("+", "-", "±", "∓"):
            return self.term()
        sign = self.expect("+", "-", "±", "∓")
        return signed(sign, self.signed_term())

    def term(self) -> Node:
        node = self.factor()
        while True:
            if self.take("*"):
                node = product(node, self.operand())
            elif self.take("/"):
                node = Operation("div", (scalar(node), scalar(self.operand())))
            elif is_mixed(self, node):
                node = Operation("add", (node, part_of_mixed(self)))
            elif self.starts_factor() and isinstance(node, SCALARS):
                if self.peek().kind in ("num", "hex") and self.tokens[self.at - 1].kind in (
                    "num",
                    "hex",
                ):
                    raise ParseError
                node = product(node, self.factor())
            else:
                return node

    def operand(self) -> Node:
        """A factor after a sign of operation, which may have a sign of its own."""
        if self.is_op("-", "+", "±"):
            sign = self.peek().text
            self.at += 1
            return signed(sign, self.factor())
        return self.factor()

    def starts_factor(self) -> bool:
        """Whether the next token begins a factor, so that a product is meant."""
        token = self.peek()
        if token.kind in ("num", "hex", "cmd"):
            return token.text not in ("\\", "end")
        if token.kind == "name":
            return not self._is_letter_union()
        if token.kind == "op":
            if token.text == "|":
                return self.bars == 0
            return token.text in ("(", "{", "⌊", "⌈")
        return False

    def factor(self) -> Node:
        node = atoms.base(self)
        while True:
            if self.take("^", "**"):
                node = self._power(node)
            elif self.is_op("!") and isinstance(node, SCALARS):
                self.at += 1
                if self.is_op("!"):
                    raise ParseError
                node = Operation("fact", (node,))
            elif self.take("°"):
                node = Operation("deg", (scalar(node),))
            elif self.is_op("%") and isinstance(node, SCALARS):
                self.at += 1
                if self.peek().kind in ("num", "name"):
                    raise ParseError
            elif self.is_op("_"):
                node = atoms.subscript(self, node)
            elif self.is_op("'") and isinstance(node, Sym):
                self.at += 1
                node = Sym(node.name + "'")
            else:
                return node

    def _power(self, node: Node) -> Node:
        if self.is_op("'"):
            raise ParseError
        exponent = self.group_or_factor()
        if isinstance(node, BracketedList | FiniteSet | UnorderedList | Builder):
            raise ParseError
        return Operation("pow", (scalar(node), scalar(exponent)))

    def group_or_factor(self) -> Node:
        """What stands in a superscript: a group, or one signed factor (so that 2**-3 reads)."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise LimitExceeded("The answer is nested too deeply.")
        sign = self.peek().text if self.is_op("-", "+") else "+"
        if self.is_op("-", "+"):
            self.at += 1
        if self.peek().text == "{":
            node = atoms.group(self)
            if self.take("^", "**"):
                node = self._power(node)
        else:
            node = atoms.base(self)
            while self.is_op("!", "_", "°"):
                node = atoms.subscript(self, node) if self.is_op("_") else self._postfix(node)
            if self.take("^", "**"):
                node = self._power(node)
        self.depth -= 1
        return signed(sign, node)

    def _postfix(self, node: Node) -> Node:
        name = "fact" if self.expect("!", "°") == "!" else "deg"
        return Operation(name, (scalar(node),))

    def implicit_argument(self) -> Node:
        """The argument of a function written without brackets: a product without further
        functions."""
        if self.is_op("-", "+"):
            sign = self.expect("-", "+")
            return signed(sign, self.implicit_argument())
        node = self.factor()
        while self.starts_factor() and self.peek().text not in FUNCTIONS and not self.is_op("("):
            if is_mixed(self, node):
                node = Operation("add", (node, part_of_mixed(self)))
            else:
                node = product(node, self.factor())
        return node


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
        return Operation("div", (top, p.factor()))
    return top
