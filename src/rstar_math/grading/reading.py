"""From the text of an answer to what it reads as, and from there to one line for a person."""

import re
from functools import lru_cache

from rstar_math.grading.cleaning import clean, join_thousands
from rstar_math.grading.exact import value
from rstar_math.grading.limits import MAX_ANSWER_CHARS, Refused, Unreadable
from rstar_math.grading.nodes import (
    Bag,
    Braced,
    Builder,
    Choice,
    Clock,
    Matrix,
    Node,
    Num,
    Op,
    Ratio,
    Region,
    Rel,
    Seq,
    Sym,
    Word,
)
from rstar_math.grading.numerals import in_base
from rstar_math.grading.parser import Parser
from rstar_math.grading.tokens import tokenize
from rstar_math.grading.units import strip_unit
from rstar_math.grading.words import option, plain_words, read_words

_HEDGE = re.compile(
    r"^(?:approximately|approx\.?|about|around|roughly|exactly|only|just|a total of|total of|or"
    r"|then|so|thus|hence|therefore|we have|we get|solutions? (?:is|are)\b\s*:?|solutions?\s*:"
    r"|answer\s*:|\\therefore|\\implies|\\Rightarrow|:|\\boxed)\s*",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"^(?:[\w',\s$-]+?)\s(?:is|are|was|were|equals|has|have|had|costs?|be|gets?|makes?|earns?"
    r"|needs?|spent|saved|left with|is equal to|total is)\s+(?:equal to\s+|exactly\s+|about\s+"
    r"|approximately\s+)?(.+)$",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\b(?:not|no|never|n't|cannot|isn't)\b", re.IGNORECASE)
_FLAT = re.compile(r"\\text[a-z]*\s*\{([^{}$]*)\}")
_IN_BASE = re.compile(r"([0-9A-Fa-f]+)(?:_\{? ?| ?\(?base )([0-9]{1,2}|[a-z]+) ?\}?\)?")
_PROSE = re.compile(r"[A-Za-z]{3,}|^[A-Za-z]{2}$")
_LISTED_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+")


@lru_cache(maxsize=8192)
def read(text: str) -> Node:
    """What a cleaned answer reads as. Raises `Unreadable` for what is neither mathematics known
    here nor prose, `Refused` for what is beyond a cap."""
    if len(text) > MAX_ANSWER_CHARS:
        raise Refused("The answer is too long.")
    flat = re.sub(r"\s+", " ", _FLAT.sub(r" \1 ", text)).strip()
    known = read_words(flat) or _in_base(flat)
    if known is not None:
        return known
    chosen = option(flat)
    if chosen is not None:
        return Choice(chosen[0], _try(chosen[1]) if chosen[1] else None)
    ratio = _ratio(text)
    if ratio is not None:
        return ratio
    failure: Exception | None = None
    for candidate in _candidates(text):
        try:
            return _mathematics(candidate)
        except Unreadable as error:
            failure = error
    if "\\" not in re.sub(r"\\text[a-z]*\s*\{", "", text) and _PROSE.search(text):
        return Word(plain_words(text))
    raise failure or Unreadable


def read_as_list(text: str) -> Node | None:
    """The other reading of 1,200: the list 1, 200. None for any other text."""
    if not _LISTED_NUMBER.fullmatch(text):
        return None
    return _mathematics(text.replace(",", ", "))


def _try(text: str) -> Node | None:
    try:
        return read(clean(text))
    except (Unreadable, Refused):
        return None


def _candidates(text: str) -> list[str]:
    """The text, and the text without a unit, a hedge or the sentence around it."""
    found = [text]
    hedge = _HEDGE.match(text)
    while hedge and hedge.end() < len(text):
        text = text[hedge.end() :]
        found.append(text)
        hedge = _HEDGE.match(text)
    bare = strip_unit(text)
    if bare != text:
        found.insert(0, bare)
    verb = _VERB.match(text)
    if verb and len(text) < 300 and not _NEGATION.search(text):
        found.extend((strip_unit(clean(verb[1])), clean(verb[1])))
    return found


def _mathematics(text: str) -> Node:
    parser = Parser(tokenize(join_thousands(text)))
    try:
        node = parser.answer()
    except RecursionError:
        raise Refused("The answer is nested too deeply.") from None
    units = {unit for unit in parser.units if unit}
    if isinstance(node, Bag) and len(units) > 1:
        raise Unreadable
    return node


def _in_base(text: str) -> Node | None:
    match = _IN_BASE.fullmatch(text)
    if not match or not (any(sign.isdigit() for sign in match[1]) or match[2] == "16"):
        return None
    try:
        return in_base(match[1], match[2])
    except Unreadable:
        return None


def _ratio(text: str) -> Node | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) to (\d+(?:\.\d+)?)", text)
    parts = list(match.groups()) if match else text.split(":")
    if (
        not 2 <= len(parts) <= 6
        or ("{" in text and ("|" in text or "\\{" in text))
        or text.startswith(("{", "[", "\\{"))
    ):
        return None
    nodes = []
    for part in parts:
        try:
            node = _mathematics(part.strip())
        except (Unreadable, Refused):
            return None
        if not isinstance(node, Num | Sym | Op):
            return None
        nodes.append(node)
    return Ratio(tuple(nodes))


def form(node: Node) -> str:
    """The node in one line, the same for all orders of a sum or product and for all writings of a
    number: two scalars of one form are equal."""
    number = value(node)
    if number is not None:
        return f"{'' if number.exact else '~'}{number.value}"
    match node:
        case Num(found, exact):
            return f"{'' if exact else '~'}{found}"
        case Sym(name):
            return name
        case Op(name, args):
            return _operation_form(name, args)
        case Seq(brackets, items):
            return f"{brackets[0]}{', '.join(map(form, items))}{brackets[1]}"
        case Bag(items):
            return " or ".join(sorted(map(form, items)))
        case Braced(items):
            return "{" + ", ".join(sorted(map(form, items))) + "}"
        case Region(kind, parts):
            return f" {kind} ".join(map(form, parts))
        case Builder(variable, condition):
            return f"{{{variable} | {form(condition)}}}"
        case Rel(ops, sides):
            return form(sides[0]) + "".join(
                f" {op} {form(side)}" for op, side in zip(ops, sides[1:], strict=True)
            )
        case Matrix(rows):
            return "matrix [" + "; ".join(", ".join(map(form, row)) for row in rows) + "]"
        case Word(text):
            return f'"{text}"'
        case Choice(letter, _):
            return f"option {letter}"
        case Clock(minutes, half):
            return f"time {minutes // 60}:{minutes % 60:02d}{half and ' ' + half}"
        case Ratio(parts):
            return ":".join(map(form, parts))


def _operation_form(name: str, args: tuple[Node, ...]) -> str:
    if not args:
        return name
    if name in ("add", "mul"):
        flat: list[Node] = []
        for arg in args:
            flat.extend(arg.args if isinstance(arg, Op) and arg.name == name else (arg,))
        return "(" + (" + " if name == "add" else "*").join(sorted(map(form, flat))) + ")"
    if name == "neg":
        return f"-{form(args[0])}"
    if name in ("div", "pow"):
        sign = "/" if name == "div" else "^"
        return f"({form(args[0])}{sign}{form(args[1])})"
    return f"{name}({', '.join(map(form, args))})"
