"""Finds the final answer in a model's text, in linear time."""

import re
from collections.abc import Iterator

_BOX = re.compile(r"\\f?boxed\b|\\fbox\b")
_NESTED = re.compile(r"\s{0,20}\\(?:f?boxed|fbox)\b")
_SPACE = re.compile(r"\s{0,20}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"\s*(\\[A-Za-z]+\{[^{}\n]{0,200}\}|[^\s{}$\\,;]+)")
_STATED = re.compile(
    r"(?:\b(?:final\s+)?(?:answer|result|solution)s?(?:\s+(?:to|for|of)\b[^.:\n]{0,80}?)?"
    r"[\s*]*(?:(?:is|are|was|be|equals?)\b|[:=：])|####|答案(?:是|为|：|:))"
    r"[\s:]*",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    r"(?:\b(?:therefore|thus|hence|so|finally|in conclusion)\b|∴)"
    r"[^\n]{0,200}?\b(?:is|are|equals?|=)\s+",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"\b(?:choice|option|choose|select|pick)\s+(?:is\s+)?(?:\\text\s*\{\s*)?\(?([A-J])\)?(?![A-Za-z0-9])"
)
_REASON = re.compile(r",?\s+(?:because|since|which|so that|where)\b|,\s+(?:so|as)\b")
_PRINTED = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_EMPHASIS = re.compile(r"^(?:\*\*|__|`)(.+?)(?:\*\*|__|`)$", re.DOTALL)
_CLAUSES = 20
_TAIL = 20_000
_BARE = re.compile(
    r"\(?[A-J][).]?|(?:yes|no|true|false)\b[.!]?|[-+]?[$€£]?\s?\d[\d,._]*(?:/\d+)?\s*%?\.?",
    re.IGNORECASE,
)


def extract_answer(text: str) -> str | None:
    """The final answer stated in a text, without its wrapping, or None where it states none.

    In this order: the last balanced `\\boxed{...}` or `\\fbox{...}` (also `\\boxed 5`), the last
    "the answer is ...", "Answer: ..." or "#### ...", a chosen option, the number, choice letter or
    yes/no that is all of the text, or all of its last line.
    """
    text = text[-MAX_PROSE_CHARS:]
    for find in (_boxed, _stated, _chosen, _last_line, _printed):
        answer = find(text)
        if answer is not None:
            return answer
    return None


def boxed(text: str) -> str | None:
    """The content of the last balanced box that is not empty, or None."""
    return _boxed(text)


def stated(text: str) -> str | None:
    """The answer that a sentence such as "the answer is ..." gives, or None."""
    return _stated(text)


def _boxed(text: str) -> str | None:
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    closing = _closing_braces(text, starts[0])
    for start in reversed(starts):
        opening = _SPACE.match(text, start).end()  # type: ignore[union-attr]
        if text[opening : opening + 1] == "{":
            end = closing.get(opening)
            if end is None or _NESTED.match(text, opening + 1):
                continue  # never closed, or only holds a box that was found empty already
            content = text[opening + 1 : end].strip()
        else:
            match = _UNBRACED.match(text, start)
            content = match.group(1).rstrip(".:!?") if match else ""
        if content:
            return content
    return None


def _closing_braces(text: str, start: int) -> dict[int, int]:
    """Where each brace that opens from `start` on is closed."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text, start):
        if match.group() == "{":
            opened.append(match.start())
        elif match.group() == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def _stated(text: str) -> str | None:
    for pattern, part in ((_STATED, text), (_CONCLUDED, text[-_TAIL:])):
        for match in reversed(list(pattern.finditer(part))[-_CLAUSES:]):
            answer = _clause(part[match.end() : match.end() + 2000])
            if answer:
                return answer
    return None


def _clause(text: str) -> str:
    """The first clause of a text: to the end of its mathematics, its sentence or its line."""
    text = text.strip()
    line = text.split("\n", 1)[0].strip() or text
    for opening, end in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
        if text.startswith(opening):
            inner, found, after = text[len(opening) :].partition(end)
            if found and not re.match(r"\s*[A-Za-z0-9$\\+*/=-]", after.split("\n", 1)[0]):
                return inner.strip()
    sentence = re.split(r"(?<=[^\s.])[.!?。](?=\s|\*|$)|\n", line, maxsplit=1)[0]
    return _unwrap(_REASON.split(sentence, maxsplit=1)[0].strip())


def _unwrap(text: str) -> str:
    text = text.strip().rstrip(".").strip()
    match = _EMPHASIS.match(text)
    if match:
        text = match.group(1).strip()
    text = text.removesuffix("**").removeprefix("**").strip()
    return text.rstrip(",;:.").strip()


def _chosen(text: str) -> str | None:
    letters: list[str] = _CHOSEN.findall(text)
    return letters[-1] if letters else None


def _printed(text: str) -> str | None:
    """The whole of a one-line text that has no word of prose: what a program printed."""
    line = text.strip()
    if (
        len(line) > 300
        or "\n" in line
        or "box" in line
        or not re.search(r"\d|\\[A-Za-z{]|[∞∅π√]", line)
    ):
        return None
    words = _PRINTED.findall(line)
    known = all(word in FUNCTIONS or word in CALLS or word in CONSTANTS for word in words)
    return (_clause(line) or None) if known else None


def _lines_from_the_end(text: str) -> Iterator[str]:
    for line in reversed(text[-4000:].splitlines()):
        if line.strip():
            yield line.strip()


def _last_line(text: str) -> str | None:
    for line in _lines_from_the_end(text):
        line = _unwrap(line) or line
        bare = line
        for opening, end in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
            if line.startswith(opening) and line.endswith(end) and len(line) > len(opening + end):
                bare = line[len(opening) : -len(end)].strip()
                if opening not in bare:
                    return bare or None
        return bare.rstrip(".!") if _BARE.fullmatch(bare) else None
    return None


MAX_PROSE_CHARS = 4_000_000
"""Longest text that `extract_answer` looks through; the tail of a longer one is used."""
CALLS = frozenset(
    [
        "binomial",
        "comb",
        "Rational",
        "Fraction",
        "Integer",
        "Float",
        "Decimal",
        "Matrix",
        "ImmutableMatrix",
        "ImmutableDenseMatrix",
        "MutableDenseMatrix",
        "array",
        "Interval",
        "Intervalopen",
        "IntervalLopen",
        "IntervalRopen",
        "Union",
        "Intersection",
        "FiniteSet",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "Or",
        "And",
        "Point",
        "Point2D",
        "Point3D",
        "Tuple",
        "tuple",
        "list",
        "set",
        "pow",
        "root",
        "Pow",
        "Mul",
        "Add",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "Complement",
        "complex",
        "frozenset",
    ]
)
CONSTANTS = {
    "pi": "pi", "Pi": "pi", "PI": "pi", "oo": "inf", "inf": "inf", "infty": "inf",
    "infinity": "inf", "Infinity": "inf",
}  # fmt: skip
FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc",
    "cosec": "csc", "tg": "tan", "ctg": "cot", "arcsin": "asin", "arccos": "acos",
    "arctan": "atan", "asin": "asin", "acos": "acos", "atan": "atan", "arccot": "acot",
    "acot": "acot", "arcsec": "asec", "asec": "asec", "arccsc": "acsc", "acsc": "acsc",
    "arctg": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "coth": "coth",
    "sech": "sech", "csch": "csch", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
    "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "arsinh": "asinh",
    "arcosh": "acosh", "artanh": "atanh", "ln": "ln", "log": "log", "lg": "lg", "exp": "exp",
    "cis": "cis", "logten": "lg", "logtwo": "lb", "sqrt": "sqrt", "cbrt": "cbrt", "abs": "abs",
    "Abs": "abs", "floor": "floor", "ceiling": "ceil", "ceil": "ceil", "factorial": "fact",
    "sign": "sign", "sgn": "sign", "gcd": "gcd", "lcm": "lcm", "max": "max", "min": "min",
}  # fmt: skip
