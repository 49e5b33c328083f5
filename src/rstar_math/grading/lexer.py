"""Splits a normalized answer into tokens: LaTeX, Python and plain mathematics."""

import re
import string
from dataclasses import dataclass
from fractions import Fraction

from rstar_math.extraction import CALLS, CONSTANTS, FUNCTIONS
from rstar_math.grading.nodes import MAX_DIGITS, LimitExceeded, Num, ParseError

NAMED_SETS = {"Reals": "reals", "EmptySet": "empty", "emptyset": "empty", "varnothing": "empty"}
_COMMANDS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "leqslant": "<=",
    "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=",
    "approx": "≈", "simeq": "≈", "doteq": "≈", "in": "∈", "cup": "∪", "cap": "∩", "setminus": "∖",
    "backslash": "∖", "pm": "±", "mp": "∓", "lor": "or", "vee": "or", "land": "and",
    "wedge": "and", "colon": ":", "langle": "⟨", "rangle": "⟩", "lbrace": r"\{", "rbrace": r"\}",
    "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "lparen": "(", "rparen": ")",
    "prime": "'", "equiv": "=", "bigcup": "∪",
}  # fmt: skip
_SPELLED = {
    "<=": "<=",
    "=<": "<=",
    ">=": ">=",
    "=>": ">=",
    "!=": "!=",
    "==": "=",
    "&&": "and",
    "||": "or",
}
_SMALL_WORDS = frozenset(
    [
        "is",
        "of",
        "to",
        "in",
        "at",
        "no",
        "by",
        "an",
        "on",
        "it",
        "be",
        "do",
        "so",
        "us",
        "we",
        "he",
        "if",
        "as",
        "up",
        "my",
        "go",
        "me",
        "or",
        "ok",
        "the",
        "and",
        "for",
        "not",
        "men",
    ]
)
_PRODUCTS = re.compile(
    r"(?:abc?d?e?|bcd?|cd|xyz?|yz|pqr?s?|qr|rst?|st|uvw?|mnp?|ijk?|[a-zA-Z][xyztn]|[a-zA-Z]{2})"
)
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<hex>0x[0-9a-fA-F]+|0b[01]+|0o[0-7]+)(?!\w)
    |(?P<num>(?:\d+(?:\.\d*(?:¦\d+)?)?|\.\d*¦\d+|\.\d+)(?:[eE][+-]?\d+(?![\w.^{]))?)
    |(?P<name>log10(?!\d)|log2(?!\d)|Point[23]D|[A-Za-z]+)
    |(?P<cmd>\\[A-Za-z]+|\\.)
    |(?P<word>"[^"]*")
    |(?P<op>\*\*|<=|>=|=<|=>|!=|==|&&|\|\||->|.)""",
    re.VERBOSE | re.DOTALL,
)
_FONT = re.compile(
    r"\\(text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|sf|it|cal|scr)|mbox|rm)\s*\{([^{}]*)\}"
)
_ARGUMENT = re.compile(r"\s*[({\\a-z]")
_VECTOR = re.compile(
    r"\\(?:mathbf|boldsymbol|vec|hat|bm|overrightarrow|bar|overline|widehat|tilde)\s*"
    r"\{?\s*\\?([A-Za-z]+)\s*\}?"
)


@dataclass(frozen=True, slots=True)
class Token:
    """One sign, name, number or word."""

    kind: str
    """"num", "hex", "name" (symbol or known name), "word" (prose), "cmd" (a LaTeX command),
    "op"."""
    text: str
    spaced: bool = False
    """Whether white space stands before it."""


def tokenize(text: str) -> list[Token]:
    """The tokens of a cleaned answer. Raises `LimitExceeded` for numbers beyond the cap on
    digits."""
    text = _FONT.sub(_font, text)
    text = _VECTOR.sub(lambda m: f"\\vector{{{m[1]}}}", text)
    python = "\\" not in text and "*" in text
    tokens: list[Token] = []
    spaced = False
    for match in _TOKEN.finditer(text):
        kind, found = str(match.lastgroup), match.group()
        if kind == "space":
            spaced = True
            continue
        if kind in ("num", "hex") and len(found) > MAX_DIGITS:
            raise LimitExceeded("A number has too many digits.")
        tokens.extend(_refine(kind, found, spaced, python))
        spaced = False
    return tokens


def _font(match: re.Match[str]) -> str:
    inner = match[2].strip().strip("~").strip()
    if inner in ("min", "sec") and not _ARGUMENT.match(match.string, match.end()):
        return f' "{inner}" '
    if inner in FUNCTIONS or inner in ("e", "i", "pi", "R") or re.fullmatch(r"[\d.,]+", inner):
        return f" {inner} " if not inner[:1].isdigit() else inner
    if re.fullmatch(r"\(?[A-Z]\)?", inner) and match[1] != "mathrm":
        return f" {inner} "
    return f' "{inner}" '


def _refine(kind: str, found: str, spaced: bool, python: bool) -> list[Token]:
    if kind == "op":
        return [Token("op", _SPELLED.get(found, found), spaced)]
    if kind == "word":
        inner = found.strip('"').strip().lower()
        if inner in ("or", "and", ","):
            return [Token("op", inner, spaced)]
        return [Token("word", inner, spaced)] if inner.strip(".,;:!") else []
    if kind == "cmd":
        return [_command(found, spaced)]
    if kind == "name":
        return _split_name(found, spaced, python)
    return [Token(kind, found, spaced)]


def _command(found: str, spaced: bool) -> Token:
    name = found[1:]
    if name in _COMMANDS:
        return Token("op", _COMMANDS[name], spaced)
    if name in FUNCTIONS or name in CONSTANTS or name in NAMED_SETS:
        return Token("name", name, spaced)
    if name in ("{", "}"):
        return Token("op", found, spaced)
    if name == "%":
        return Token("op", "%", spaced)
    if name == "|":
        raise ParseError
    return Token("cmd", name, spaced)


def _split_name(found: str, spaced: bool, python: bool) -> list[Token]:
    found = {"log10": "logten", "log2": "logtwo"}.get(found, found)
    if found in FUNCTIONS or found in CALLS or found in CONSTANTS or found in NAMED_SETS:
        return [Token("name", found, spaced)]
    if found in ("or", "and", "Or", "And"):
        return [Token("op", found.lower(), spaced)]
    if len(found) == 1:
        if python and found in "EI":
            found = {"E": "e", "I": "i"}[found]
        return [Token("name", found, spaced)]
    for name in ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "ln", "log", "pi"):
        if found.startswith(name) and len(found) == len(name) + 1:
            return [Token("name", name, spaced), Token("name", found[-1])]
        if found.endswith(name) and len(found) == len(name) + 1 and found[0] in "xyzabcknert":
            return [Token("name", found[0], spaced), Token("name", name)]
    if found.isupper() and len(found) in (3, 4):
        return [Token("name", found, spaced)]
    if found.lower() not in _SMALL_WORDS and _PRODUCTS.fullmatch(found):
        return [Token("name", letter, spaced and k == 0) for k, letter in enumerate(found)]
    return [Token("word", found.lower(), spaced)]


_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_DIGITS = string.digits + string.ascii_lowercase


def number(text: str) -> Num:
    """The number that a numeral stands for, with a repeating part after "¦" if there is one."""
    if text[:2].lower() in ("0x", "0b", "0o"):
        return Num(Fraction(int(text, 0)))
    mantissa, _, exponent = text.lower().partition("e")
    mantissa, _, period = mantissa.partition("¦")
    if len(exponent) > 5:
        raise LimitExceeded("A number has too large an exponent.")
    value = Fraction(mantissa.rstrip(".") or "0")
    if period:
        places = len(mantissa.partition(".")[2])
        value += Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    if exponent:
        value *= Fraction(10) ** int(exponent)
    exact = bool(period) or "." not in mantissa or (not exponent and value.denominator == 1)
    return Num(value, exact)


def in_base(digits: str, text: str) -> Num:
    """The value of digits in the base that a subscript names. Raises `ParseError` if they do not
    fit it."""
    radix = _BASE_WORDS.get(text, int(text) if text.isdigit() and len(text) < 3 else 0)
    whole, _, part = digits.lower().partition(".")
    if not 2 <= radix <= 36 or not (whole + part).isalnum():
        raise ParseError
    value = 0
    for digit in whole + part:
        if digit not in _DIGITS or _DIGITS.index(digit) >= radix:
            raise ParseError
        value = value * radix + _DIGITS.index(digit)
    return Num(Fraction(value, radix ** len(part)))
