"""Grades a pair of answers with exact arithmetic, and says when the numeric engine is needed."""

import re
from dataclasses import dataclass
from functools import lru_cache

from rstar_math.extraction import boxed, stated
from rstar_math.grading import exact
from rstar_math.grading.equality import equal
from rstar_math.grading.exact import approximate, value
from rstar_math.grading.lexer import in_base, tokenize
from rstar_math.grading.nodes import (
    MAX_ANSWER_CHARS,
    SCALARS,
    BracketedList,
    Builder,
    Choice,
    Clock,
    FiniteSet,
    LimitExceeded,
    Matrix,
    NeedsNumericEngine,
    Node,
    Num,
    Operation,
    ParseError,
    Ratio,
    RealSet,
    Relation,
    Sym,
    UnorderedList,
    Word,
    symbols,
)
from rstar_math.grading.normalize import (
    clean,
    join_thousands,
    option,
    plain_words,
    read_words,
    strip_unit,
)
from rstar_math.grading.parser import Parser
from rstar_math.grading.relations import Scalars
from rstar_math.types import Verdict


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict and the rule behind it."""

    verdict: Verdict
    reason: str
    """A short plain sentence; the same rule always gives the same text."""


def right(reason: str) -> Grade:
    """A judgement that the answer equals the reference."""
    return Grade(Verdict.RIGHT, reason)


def wrong(reason: str) -> Grade:
    """A judgement that the answer differs from the reference."""
    return Grade(Verdict.WRONG, reason)


def unknown(reason: str) -> Grade:
    """A judgement that no verdict can be given."""
    return Grade(Verdict.UNKNOWN, reason)


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
    """What a cleaned answer reads as. Raises `ParseError` for what is neither mathematics known
    here nor prose, `LimitExceeded` for what is beyond a cap."""
    if len(text) > MAX_ANSWER_CHARS:
        raise LimitExceeded("The answer is too long.")
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
        except ParseError as error:
            failure = error
    if "\\" not in re.sub(r"\\text[a-z]*\s*\{", "", text) and _PROSE.search(text):
        return Word(plain_words(text))
    raise failure or ParseError


def read_as_list(text: str) -> Node | None:
    """The other reading of 1,200: the list 1, 200. None for any other text."""
    if not _LISTED_NUMBER.fullmatch(text):
        return None
    return _mathematics(text.replace(",", ", "))


def _try(text: str) -> Node | None:
    try:
        return read(clean(text))
    except (ParseError, LimitExceeded):
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
        raise LimitExceeded("The answer is nested too deeply.") from None
    units = {unit for unit in parser.units if unit}
    if isinstance(node, UnorderedList) and len(units) > 1:
        raise ParseError
    return node


def _in_base(text: str) -> Node | None:
    match = _IN_BASE.fullmatch(text)
    if not match or not (any(sign.isdigit() for sign in match[1]) or match[2] == "16"):
        return None
    try:
        return in_base(match[1], match[2])
    except ParseError:
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
        except (ParseError, LimitExceeded):
            return None
        if not isinstance(node, Num | Sym | Operation):
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
        case Operation(name, args):
            return _operation_form(name, args)
        case BracketedList(brackets, items):
            return f"{brackets[0]}{', '.join(map(form, items))}{brackets[1]}"
        case UnorderedList(items):
            return " or ".join(sorted(map(form, items)))
        case FiniteSet(items):
            return "{" + ", ".join(sorted(map(form, items))) + "}"
        case RealSet(kind, parts):
            return f" {kind} ".join(map(form, parts))
        case Builder(variable, condition):
            return f"{{{variable} | {form(condition)}}}"
        case Relation(ops, sides):
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
            flat.extend(arg.args if isinstance(arg, Operation) and arg.name == name else (arg,))
        return "(" + (" + " if name == "add" else "*").join(sorted(map(form, flat))) + ")"
    if name == "neg":
        return f"-{form(args[0])}"
    if name in ("div", "pow"):
        sign = "/" if name == "div" else "^"
        return f"({form(args[0])}{sign}{form(args[1])})"
    return f"{name}({', '.join(map(form, args))})"


NO_ANSWER = wrong("The answer is empty.")
NO_REFERENCE = unknown("The reference is empty.")
SAME_TEXT = right("The two are the same text.")
UNREADABLE = unknown("The answer cannot be read as mathematics.")
UNREADABLE_REFERENCE = unknown("The reference cannot be read as mathematics.")
_SIGN = re.compile(r"\w|\\\{\s*\\\}")
_TEXT = re.compile(r"\\text\s*\{([^{}$]{2,})\}")
_LOOSE_SPACE = re.compile(r"(?<!\w) | (?!\w)")


class Exact:
    """Scalars compared by exact values and by form alone."""

    def same(self, a: Node, b: Node) -> bool:
        """Whether two scalars are equal. Raises `NeedsNumericEngine` where neither their values nor
        their forms can tell."""
        left, right_ = exact.value(a), exact.value(b)
        if left is not None and right_ is not None:
            return exact.equal_numbers(left, right_)
        if form(a) == form(b):
            return True
        raise NeedsNumericEngine

    def ratio(self, a: Node, b: Node) -> int:
        """1 for two of the same form. Raises `NeedsNumericEngine` for all others."""
        if form(a) == form(b):
            return 1
        raise NeedsNumericEngine


def quick(pred: str, gold: str) -> Grade | None:
    """The judgement where it needs no engine, else None. Bounded work: no number is built beyond
    the caps, and no loop goes round more often than the texts are long."""
    try:
        return grade_pair(pred, gold, Exact())
    except (NeedsNumericEngine, ParseError):
        return None


def grade_pair(pred: str, gold: str, scalars: Scalars) -> Grade:
    """The judgement of a pair with the given way to compare scalars. Raises `NeedsNumericEngine`
    where those are not enough, `ParseError` where one side is no mathematics that the reader
    knows."""
    answer, reference = extract_core(pred), extract_core(gold)
    if not _SIGN.search(answer):
        return NO_ANSWER
    if not _SIGN.search(reference):
        return NO_REFERENCE
    if _strip_spaces(answer) in (
        _strip_spaces(reference),
        _strip_spaces(clean(gold[: MAX_ANSWER_CHARS + 1])),
    ):
        return SAME_TEXT
    try:
        left, right_ = read(answer), read(reference)
        same = equal(left, right_, scalars) or _as_lists(answer, reference, left, right_, scalars)
    except LimitExceeded as refusal:
        return unknown(str(refusal))
    return _explained(right_, same)


def _strip_spaces(text: str) -> str:
    """The text without the spaces that part nothing; 1 2 is not 12."""
    return _LOOSE_SPACE.sub("", text)


def _as_lists(answer: str, reference: str, left: Node, right_: Node, scalars: Scalars) -> bool:
    """Whether the two are equal when 1,200 is the list 1, 200, the other side being a list."""
    lists = UnorderedList | FiniteSet | BracketedList
    if isinstance(left, Num) and isinstance(right_, lists):
        other = read_as_list(answer)
        return other is not None and equal(other, right_, scalars)
    if isinstance(right_, Num) and isinstance(left, lists):
        other = read_as_list(reference)
        return other is not None and equal(left, other, scalars)
    return False


def extract_core(text: str) -> str:
    """The answer in a text, cleaned: what its last box holds, what its sentence states, or all of
    it."""
    found = boxed(text) if "box" in text else None
    if found is None and len(text) >= 6:
        found = stated(_TEXT.sub(r"\1", text) if "\\text" in text else text)
    if found is None:
        found = text
    return clean(found) if len(found) <= MAX_ANSWER_CHARS else found.strip()


def _explained(reference: Node, same: bool) -> Grade:
    if isinstance(reference, Word):
        kind = "words"
    elif exact.value(reference) is not None:
        kind = "numbers"
    elif isinstance(reference, SCALARS):
        kind = "expressions"
    else:
        kind = {
            "BracketedList": "sequences or intervals", "UnorderedList": "lists", "FiniteSet":
            "sets", "RealSet": "sets", "Builder": "sets", "Relation": "equations or inequalities",
            "Matrix": "matrices", "Choice": "options", "Clock": "times", "Ratio": "ratios",
        }[type(reference).__name__]  # fmt: skip
    return right(f"The two are equal as {kind}.") if same else wrong(f"The two differ as {kind}.")


def canonical_key(answer: str) -> object:
    """A key that only equal answers share, or None for an answer that cannot be read."""
    try:
        node = read(extract_core(answer))
    except (ParseError, LimitExceeded):
        return None
    number = exact.value(node)
    if number is not None:
        return ("number", number.value)
    return (type(node).__name__, form(node))


def could_be_equal(a: str, b: str) -> bool:
    """Whether two answers could be equal, by rough values at one fixed point; errs towards yes."""
    try:
        left, right_ = read(extract_core(a)), read(extract_core(b))
    except (ParseError, LimitExceeded):
        return True
    if isinstance(left, Word) != isinstance(right_, Word):
        return False
    if not isinstance(left, SCALARS) or not isinstance(right_, SCALARS):
        return True
    names = sorted(symbols(left) | symbols(right_))
    point = {name: complex(0.37 + 0.59 * k) for k, name in enumerate(names)}
    x, y = approximate(left, point), approximate(right_, point)
    if x is None or y is None:
        return True
    return abs(x - y) <= 1e-4 * max(abs(x), abs(y)) or max(abs(x), abs(y)) < 1e-6


def normal_form(text: str) -> str | None:
    """What an answer reads as, in one line, or None where it cannot be read."""
    answer = extract_core(text)
    try:
        return form(read(answer)) if answer else None
    except (ParseError, LimitExceeded):
        return None
