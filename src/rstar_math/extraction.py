"""Finds the final answer in a model's text, in linear time."""

import re

_BOX = re.compile(r"\\f?boxed\b|\\fbox\b")
_NESTED_BOX = re.compile(r"\s{0,20}\\(?:f?boxed|fbox)\b")
_SPACE = re.compile(r"\s{0,20}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED_CONTENT = re.compile(r"\s*(\\[A-Za-z]+\{[^{}\n]{0,200}\}|[^\s{}$\\,;]+)")
_ANSWER_PHRASE = re.compile(
    r"(?:\b(?:final\s+)?(?:answer|result|solution)s?(?:\s+(?:to|for|of)\b[^.:\n]{0,80}?)?"
    r"[\s*]*(?:(?:is|are|was|be|equals?)\b|[:=：])|####|答案(?:是|为|：|:))"
    r"[\s:]*",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"(?:\b(?:therefore|thus|hence|so|finally|in conclusion)\b|∴)"
    r"[^\n]{0,200}?\b(?:is|are|equals?|=)\s+",
    re.IGNORECASE,
)
_CHOSEN_OPTION = re.compile(
    r"\b(?:choice|option|choose|select|pick)\s+(?:is\s+)?(?:\\text\s*\{\s*)?\(?([A-J])\)?(?![A-Za-z0-9])"
)
_SUBORDINATE_CLAUSE = re.compile(r",?\s+(?:because|since|which|so that|where)\b|,\s+(?:so|as)\b")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_EMPHASIS = re.compile(r"^(?:\*\*|__|`)(.+?)(?:\*\*|__|`)$", re.DOTALL)
_MAX_MATCHES = 20
"""Number of answer phrases that are tried, from the last one backwards."""
_CONCLUSION_CHARS = 20_000
"""Length of the end of a text in which conclusions ("therefore x is ...") are searched."""
_DELIMITERS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
"""Opening and closing delimiters of TeX formulas."""
_BARE_ANSWER = re.compile(
    r"\(?[A-J][).]?|(?:yes|no|true|false)\b[.!]?|[-+]?[$€£]?\s?\d[\d,._]*(?:/\d+)?\s*%?\.?",
    re.IGNORECASE,
)


def extract_answer(text: str) -> str | None:
    """Return the final answer of a text without its wrapping, or None if the text states none.

    The first of these that the text contains is the answer:

    - the last balanced `\\boxed{...}` or `\\fbox{...}` that is not empty (also `\\boxed 5`);
    - the last "the answer is ...", "Answer: ...", "#### ..." or "therefore ... is ...";
    - the last chosen option, such as "option B";
    - a number, choice letter, yes/no or formula that fills the last line;
    - the whole text, if it is one line of mathematics without prose (a program's output).

    Only the last `MAX_PROSE_CHARS` characters are searched.
    """
    text = text[-MAX_PROSE_CHARS:]
    for find in (boxed, stated, _chosen_option, _last_line, _math_line):
        answer = find(text)
        if answer is not None:
            return answer
    return None


def boxed(text: str) -> str | None:
    """Return the content of the last balanced box that is not empty, or None."""
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    closing = _closing_braces(text, starts[0])
    for start in reversed(starts):
        opening = _SPACE.match(text, start).end()  # type: ignore[union-attr]
        if text[opening : opening + 1] == "{":
            end = closing.get(opening)
            if end is None or _NESTED_BOX.match(text, opening + 1):
                continue  # unbalanced, or contains only a box that was already found empty
            content = text[opening + 1 : end].strip()
        else:
            match = _UNBRACED_CONTENT.match(text, start)
            content = match.group(1).rstrip(".:!?") if match else ""
        if content:
            return content
    return None


def _closing_braces(text: str, start: int) -> dict[int, int]:
    """Map the position of each opening brace from `start` on to its closing brace."""
    closing: dict[int, int] = {}
    open_braces: list[int] = []
    for match in _BRACE.finditer(text, start):
        if match.group() == "{":
            open_braces.append(match.start())
        elif match.group() == "}" and open_braces:
            closing[open_braces.pop()] = match.start()
    return closing


def stated(text: str) -> str | None:
    """Return the answer of the last sentence such as "the answer is ...", or None."""
    for pattern, part in ((_ANSWER_PHRASE, text), (_CONCLUSION, text[-_CONCLUSION_CHARS:])):
        for match in reversed(list(pattern.finditer(part))[-_MAX_MATCHES:]):
            answer = _first_clause(part[match.end() : match.end() + 2000])
            if answer:
                return answer
    return None


def _first_clause(text: str) -> str:
    """Return the first clause of a text; it ends with its formula, its sentence or its line."""
    text = text.strip()
    line = text.split("\n", 1)[0].strip() or text
    for opening, end in _DELIMITERS:
        if text.startswith(opening):
            inner, found, after = text[len(opening) :].partition(end)
            if found and not re.match(r"\s*[A-Za-z0-9$\\+*/=-]", after.split("\n", 1)[0]):
                return inner.strip()
    sentence = re.split(r"(?<=[^\s.])[.!?。](?=\s|\*|$)|\n", line, maxsplit=1)[0]
    return _unwrap(_SUBORDINATE_CLAUSE.split(sentence, maxsplit=1)[0].strip())


def _unwrap(text: str) -> str:
    """Strip Markdown emphasis and final punctuation."""
    text = text.strip().rstrip(".").strip()
    match = _EMPHASIS.match(text)
    if match:
        text = match.group(1).strip()
    text = text.removesuffix("**").removeprefix("**").strip()
    return text.rstrip(",;:.").strip()


def _chosen_option(text: str) -> str | None:
    letters: list[str] = _CHOSEN_OPTION.findall(text)
    return letters[-1] if letters else None


def _math_line(text: str) -> str | None:
    """Return a one-line text that contains no word of prose, such as a program's output."""
    line = text.strip()
    if (
        len(line) > 300
        or "\n" in line
        or "box" in line
        or not re.search(r"\d|\\[A-Za-z{]|[∞∅π√]", line)
    ):
        return None
    words = _WORD.findall(line)
    known = all(word in FUNCTIONS or word in CALLS or word in CONSTANTS for word in words)
    return (_first_clause(line) or None) if known else None


def _last_line(text: str) -> str | None:
    """Return the last line if it is a bare answer or one formula, without delimiters; else None."""
    last = next((line for line in reversed(text[-4000:].splitlines()) if line.strip()), "").strip()
    line = _unwrap(last) or last
    content = line
    for opening, end in _DELIMITERS:
        if line.startswith(opening) and line.endswith(end) and len(line) > len(opening + end):
            content = line[len(opening) : -len(end)].strip()
            if opening not in content:
                return content or None
    return content.rstrip(".!") if _BARE_ANSWER.fullmatch(content) else None


MAX_PROSE_CHARS = 4_000_000
"""Maximum number of characters that `extract_answer` reads, counted from the end of the text."""
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
"""Names of Python and sympy calls that may appear in printed answers."""
CONSTANTS = {
    "pi": "pi", "Pi": "pi", "PI": "pi", "oo": "inf", "inf": "inf", "infty": "inf",
    "infinity": "inf", "Infinity": "inf",
}  # fmt: skip
"""Canonical names of constants, by spelling."""
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
"""Canonical names of functions, by spelling."""
