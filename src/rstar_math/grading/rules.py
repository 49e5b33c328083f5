"""Parses answers and grades a pair of them; says when the numeric engine is needed."""

import re
from dataclasses import dataclass
from functools import lru_cache

from rstar_math.extraction import MAX_PROSE_CHARS, boxed, stated
from rstar_math.grading import exact
from rstar_math.grading.equality import equal
from rstar_math.grading.exact import approximate, rational_value
from rstar_math.grading.lexer import parse_in_base, tokenize
from rstar_math.grading.nodes import (
    MAX_ANSWER_CHARS,
    MAX_FACTORIAL,
    SCALARS,
    BracketedList,
    Choice,
    CountedList,
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
    SetBuilder,
    Sym,
    TimeOfDay,
    UnorderedList,
    Word,
    require_shallow,
    symbols,
)
from rstar_math.grading.normalize import clean, join_thousands
from rstar_math.grading.parser import Parser
from rstar_math.grading.phrases import parse_option, parse_phrase, plain_words
from rstar_math.grading.relations import ScalarComparer
from rstar_math.grading.residues import equal_residues, have_constant_ratio
from rstar_math.grading.units import strip_unit
from rstar_math.types import Verdict


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict and its reason."""

    verdict: Verdict
    reason: str
    """A short sentence. The same rule always gives the same text."""


def right(reason: str) -> Grade:
    """A grade for an answer that equals the reference."""
    return Grade(Verdict.RIGHT, reason)


def wrong(reason: str) -> Grade:
    """A grade for an answer that differs from the reference."""
    return Grade(Verdict.WRONG, reason)


def unknown(reason: str) -> Grade:
    """A grade for a pair that cannot be decided."""
    return Grade(Verdict.UNKNOWN, reason)


_HEDGE = re.compile(
    r"^(?:approximately|approx\.?|about|around|roughly|exactly|only|just|a total of|total of|or"
    r"|then|so|thus|hence|therefore|we have|we get|solutions? (?:is|are)\b\s*:?|solutions?\s*:"
    r"|answer\s*:|\\therefore|\\implies|\\Rightarrow|:|\\boxed)\s*",
    re.IGNORECASE,
)
_MAX_HEDGES = 4
_SENTENCE = re.compile(
    r"^(?:[\w',\s$-]+?)\s(?:is|are|was|were|equals|has|have|had|costs?|be|gets?|makes?|earns?"
    r"|needs?|spent|saved|left with|is equal to|total is)\s+(?:equal to\s+|exactly\s+|about\s+"
    r"|approximately\s+)?(.+)$",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\b(?:not|no|never|n't|cannot|isn't)\b", re.IGNORECASE)
_TEXT_COMMAND = re.compile(r"\\text[a-z]*\s*\{([^{}$]*)\}")
_NUMBER_IN_BASE = re.compile(
    r"([0-9A-Fa-f]{1,100})(?:_\{? ?| ?\(?base )([0-9]{1,2}|[a-z]+) ?\}?\)?"
)
_PROSE = re.compile(r"[A-Za-z]{3,}|^[A-Za-z]{2}$")
_LISTED_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+")


@lru_cache(maxsize=8192)
def parse_answer(text: str) -> Node:
    """The node of a cleaned answer.

    Raises `ParseError` if it is neither known mathematics nor prose, `LimitExceeded` above a limit.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise LimitExceeded("The answer is too long.")
    flat = re.sub(r"\s+", " ", _TEXT_COMMAND.sub(r" \1 ", text)).strip()
    node = parse_phrase(flat) or _number_in_base(flat)
    if node is not None:
        return node
    choice = parse_option(flat)
    if choice is not None:
        letter, content = choice
        return Choice(letter, _parse_or_none(content) if content else None)
    ratio = _ratio(text)
    if ratio is not None:
        return ratio
    failure: Exception | None = None
    for candidate in _candidates(text):
        try:
            return _parse_mathematics(candidate)
        except ParseError as error:
            failure = error
    if "\\" not in re.sub(r"\\text[a-z]*\s*\{", "", text) and _PROSE.search(text):
        return Word(plain_words(text))
    raise failure or ParseError


def parse_as_list(text: str) -> Node | None:
    """The number 1,200 as the list 1, 200. None for any other text."""
    if not _LISTED_NUMBER.fullmatch(text):
        return None
    return _parse_mathematics(text.replace(",", ", "))


def _parse_or_none(text: str) -> Node | None:
    try:
        return parse_answer(clean(text))
    except (ParseError, LimitExceeded):
        return None


def _candidates(text: str) -> list[str]:
    """The texts to parse in turn: without a unit, as it is, without a hedge or a sentence."""
    candidates = [text]
    for _ in range(_MAX_HEDGES):
        hedge = _HEDGE.match(text)
        if not hedge or hedge.end() == len(text):
            break
        text = text[hedge.end() :]
        candidates.append(text)
    bare = strip_unit(text)
    if bare != text:
        candidates.insert(0, bare)
    sentence = _SENTENCE.match(text)
    if sentence and len(text) < 300 and not _NEGATION.search(text):
        candidates.extend((strip_unit(clean(sentence[1])), clean(sentence[1])))
    return candidates


def _parse_mathematics(text: str) -> Node:
    """The node of a mathematical text. Raises `ParseError` or `LimitExceeded`."""
    parser = Parser(tokenize(join_thousands(text)))
    try:
        node = parser.answer()
    except RecursionError:
        raise LimitExceeded("The answer is nested too deeply.") from None
    require_shallow(node)
    if isinstance(node, UnorderedList) and len(set(filter(None, parser.units))) > 1:
        if len(parser.units) != len(node.items) or "" in parser.units:
            raise ParseError
        return CountedList(node.items, tuple(parser.units))
    return node


def _number_in_base(text: str) -> Node | None:
    match = _NUMBER_IN_BASE.fullmatch(text)
    if not match or not (any(sign.isdigit() for sign in match[1]) or match[2] == "16"):
        return None
    try:
        return parse_in_base(match[1], match[2])
    except ParseError:
        return None


def _ratio(text: str) -> Node | None:
    """The ratio in "2:3" or "2 to 3"; None for other texts."""
    names, equals, values = text.partition("=")
    if equals and ":" in names and ":" in values:
        ratio = _ratio(values.strip())
        owners = tuple(plain_words(name) for name in names.split(":"))
        if not isinstance(ratio, Ratio) or len(ratio.parts) != len(owners) or ratio.names:
            return None
        return Ratio(ratio.parts, owners)
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
            node = _parse_mathematics(part.strip())
        except (ParseError, LimitExceeded):
            return None
        if not isinstance(node, Num | Sym | Operation):
            return None
        nodes.append(node)
    return Ratio(tuple(nodes))


def canonical_form(node: Node) -> str:
    """The node in one line.

    It does not depend on the order of a sum or product or on the notation of a number. Two scalars
    with the same form are equal.
    """
    number = rational_value(node)
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
            return f"{brackets[0]}{', '.join(map(canonical_form, items))}{brackets[1]}"
        case UnorderedList(items):
            return " or ".join(sorted(map(canonical_form, items)))
        case FiniteSet(items):
            return "{" + ", ".join(sorted(map(canonical_form, items))) + "}"
        case RealSet(kind, parts):
            return f" {kind} ".join(map(canonical_form, parts))
        case SetBuilder(variable, condition):
            return f"{{{variable} | {canonical_form(condition)}}}"
        case Relation(ops, sides):
            return canonical_form(sides[0]) + "".join(
                f" {op} {canonical_form(side)}" for op, side in zip(ops, sides[1:], strict=True)
            )
        case Matrix(rows):
            return "matrix [" + "; ".join(", ".join(map(canonical_form, row)) for row in rows) + "]"
        case Word(text):
            return f'"{text}"'
        case Choice(letter, _):
            return f"option {letter}"
        case TimeOfDay(seconds, period):
            minutes, second = divmod(seconds, 60)
            shown = f"time {minutes // 60}:{minutes % 60:02d}" + (
                f":{second:02d}" if second else ""
            )
            return shown + (period and f" {period}")
        case Ratio(parts, names):
            owners = f"{':'.join(names)} = " if names else ""
            return owners + ":".join(map(canonical_form, parts))
        case CountedList(items, things):
            counted = zip(map(canonical_form, items), things, strict=True)
            return ", ".join(f"{number} {thing}" for number, thing in counted)


def _operation_form(name: str, args: tuple[Node, ...]) -> str:
    if not args:
        return name
    if name in ("add", "mul"):
        flat: list[Node] = []
        for arg in args:
            flat.extend(arg.args if isinstance(arg, Operation) and arg.name == name else (arg,))
        return "(" + (" + " if name == "add" else "*").join(sorted(map(canonical_form, flat))) + ")"
    if name == "neg":
        return f"-{canonical_form(args[0])}"
    if name in ("div", "pow"):
        sign = "/" if name == "div" else "^"
        return f"({canonical_form(args[0])}{sign}{canonical_form(args[1])})"
    return f"{name}({', '.join(map(canonical_form, args))})"


MAX_EXACT_CHARS = 500
"""Longer answers are left to the numeric engine, which has a time limit."""
NO_ANSWER = wrong("The answer is empty.")
NO_REFERENCE = unknown("The reference is empty.")
SAME_TEXT = right("The two are the same text.")
UNREADABLE = unknown("The answer cannot be read as mathematics.")
UNREADABLE_REFERENCE = unknown("The reference cannot be read as mathematics.")
_CONTENT = re.compile(r"\w|\\\{\s*\\\}")
_TEXT = re.compile(r"\\text\s*\{([^{}$]{2,})\}")
_SPACED_LETTERS = re.compile(r"[A-Za-z](?: [A-Za-z])+")
_INSIGNIFICANT_SPACE = re.compile(r"(?<!\w) | (?!\w)")


class ExactScalars:
    """Compares scalars by their exact values, canonical forms, residues and rough values."""

    def equal(self, a: Node, b: Node) -> bool:
        """Whether two scalars are equal. Raises `NeedsNumericEngine` if these cannot decide."""
        x, y = exact.rational_value(a), exact.rational_value(b)
        if x is not None and y is not None:
            return exact.equal_numbers(x, y)
        if canonical_form(a) == canonical_form(b):
            return True
        same = equal_residues(a, b, max_factorial=MAX_FACTORIAL)
        if same is None and not symbols(a) | symbols(b) and exact.differ_clearly(a, b):
            return False
        if same is None:
            raise NeedsNumericEngine
        return same

    def ratio_sign(self, a: Node, b: Node) -> int:
        """The sign of a / b if it is a constant, else 0. Raises `NeedsNumericEngine` if unsure."""
        if canonical_form(a) == canonical_form(b):
            return 1
        is_constant = have_constant_ratio(a, b)
        if is_constant is None:
            raise NeedsNumericEngine
        return _sign_of_ratio(a, b) if is_constant else 0


def _sign_of_ratio(a: Node, b: Node) -> int:
    """The sign of a constant ratio, from rough values at three points."""
    names = sorted(symbols(a) | symbols(b))
    ratios = []
    for shift in (0.37, 1.41, -0.73):
        point = {name: complex(shift + 0.59 * k) for k, name in enumerate(names)}
        x, y = approximate(a, point), approximate(b, point)
        if x is None or y is None or abs(y) < 1e-6:
            raise NeedsNumericEngine
        ratios.append(x / y)
    size = abs(ratios[0])
    if size < 1e-6 or any(abs(r - ratios[0].real) > 1e-6 * size for r in ratios):
        raise NeedsNumericEngine
    return 1 if ratios[0].real > 0 else -1


def grade_exactly(pred: str, gold: str) -> Grade | None:
    """The grade if exact arithmetic can decide it, else None.

    The work is bounded: no number exceeds the limits, no loop is longer than the texts, and no
    answer of more than `MAX_EXACT_CHARS` characters is parsed.
    """
    try:
        return grade_pair(pred, gold, ExactScalars(), max_chars=MAX_EXACT_CHARS)
    except (NeedsNumericEngine, ParseError):
        return None


def grade_pair(
    pred: str, gold: str, scalars: ScalarComparer, *, max_chars: int = MAX_ANSWER_CHARS
) -> Grade:
    """The grade of a pair of answers, with the given comparison of scalars.

    Raises `NeedsNumericEngine` if that cannot decide or an answer has more than `max_chars`
    characters, `ParseError` if one side is not mathematics that the parser knows.
    """
    answer, reference = extract_core(pred), extract_core(gold)
    if not _CONTENT.search(answer):
        return NO_ANSWER
    if not _CONTENT.search(reference):
        return NO_REFERENCE
    if _strip_spaces(answer) in (
        _strip_spaces(reference),
        _strip_spaces(clean(gold[: MAX_ANSWER_CHARS + 1])),
    ):
        return SAME_TEXT
    if max_chars < max(len(answer), len(reference)) <= MAX_ANSWER_CHARS:
        raise NeedsNumericEngine
    try:
        pred_node, gold_node = parse_answer(answer), parse_answer(reference)
        same = equal(pred_node, gold_node, scalars) or (
            _equal_as_lists(answer, pred_node, reference, gold_node, scalars)
        )
    except LimitExceeded as error:
        return unknown(str(error))
    return _grade_for(gold_node, same)


def _strip_spaces(text: str) -> str:
    """The text without insignificant spaces. The space in 1 2 is kept: it is not 12."""
    if _SPACED_LETTERS.fullmatch(text):
        return text.replace(" ", "")
    return _INSIGNIFICANT_SPACE.sub("", text)


def _equal_as_lists(
    answer: str, pred_node: Node, reference: str, gold_node: Node, scalars: ScalarComparer
) -> bool:
    """Whether a list equals the other side, if that is a number like 1,200 read as 1, 200."""
    lists = UnorderedList | FiniteSet | BracketedList
    if isinstance(pred_node, Num) and isinstance(gold_node, lists):
        numbers = parse_as_list(answer)
        return numbers is not None and equal(numbers, gold_node, scalars)
    if isinstance(gold_node, Num) and isinstance(pred_node, lists):
        numbers = parse_as_list(reference)
        return numbers is not None and equal(pred_node, numbers, scalars)
    return False


def extract_core(text: str) -> str:
    """The answer in a text, cleaned.

    It is the content of the last \\boxed, else the answer that a sentence states, else the text.
    """
    text = text[-MAX_PROSE_CHARS:]
    found = boxed(text) if "box" in text else None
    if found is None and len(text) >= 6:
        found = stated(_TEXT.sub(r"\1", text) if "\\text" in text else text)
    if found is None:
        found = text
    return clean(found) if len(found) <= MAX_ANSWER_CHARS else found.strip()


def _grade_for(reference: Node, same: bool) -> Grade:
    """The grade with a reason that names the kind of the reference."""
    if isinstance(reference, Word):
        kind = "words"
    elif exact.rational_value(reference) is not None:
        kind = "numbers"
    elif isinstance(reference, SCALARS):
        kind = "expressions"
    else:
        kind = {
            "BracketedList": "sequences or intervals", "UnorderedList": "lists", "FiniteSet":
            "sets", "RealSet": "sets", "SetBuilder": "sets", "Relation": "equations or"
            " inequalities", "Matrix": "matrices", "Choice": "options", "TimeOfDay": "times",
            "Ratio": "ratios", "CountedList": "lists",
        }[type(reference).__name__]  # fmt: skip
    return right(f"The two are equal as {kind}.") if same else wrong(f"The two differ as {kind}.")


def canonical_key(answer: str) -> object:
    """A key that only equal answers share; None for an answer that is long or cannot be parsed."""
    core = extract_core(answer)
    if len(core) > MAX_EXACT_CHARS:
        return None
    try:
        node = parse_answer(core)
    except (ParseError, LimitExceeded):
        return None
    number = exact.rational_value(node)
    if number is not None:
        return ("number", number.value)
    return (type(node).__name__, canonical_form(node))


def could_be_equal(a: str, b: str) -> bool:
    """Whether two answers may be equal, by their approximate values at one fixed point.

    True if that is unknown.
    """
    cores = extract_core(a), extract_core(b)
    if max(map(len, cores)) > MAX_EXACT_CHARS:
        return True
    try:
        first, second = map(parse_answer, cores)
    except (ParseError, LimitExceeded):
        return True
    if isinstance(first, Word) != isinstance(second, Word):
        return False
    if not isinstance(first, SCALARS) or not isinstance(second, SCALARS):
        return True
    names = sorted(symbols(first) | symbols(second))
    point = {name: complex(0.37 + 0.59 * k) for k, name in enumerate(names)}
    x, y = approximate(first, point), approximate(second, point)
    if x is None or y is None:
        return True
    return abs(x - y) <= 1e-4 * max(abs(x), abs(y)) or max(abs(x), abs(y)) < 1e-6


def normal_form(text: str) -> str | None:
    """The canonical form of the answer in a text, in one line; None if it cannot be parsed."""
    answer = extract_core(text)
    try:
        return canonical_form(parse_answer(answer)) if answer else None
    except (ParseError, LimitExceeded):
        return None
