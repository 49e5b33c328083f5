"""Splits a normalized answer in LaTeX, Python or plain mathematics into tokens."""

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
_OPERATOR_ALIASES = {
    "<=": "<=",
    "=<": "<=",
    ">=": ">=",
    "=>": ">=",
    "!=": "!=",
    "==": "=",
    "&&": "and",
    "||": "or",
}
_SMALL_WORDS = frozenset((
    "is", "of", "to", "in", "at", "no", "by", "an", "on", "it", "be", "do", "so", "us", "we", "he",
    "if", "as", "up", "my", "go", "me", "or", "ok", "the", "and", "for", "not", "men",
))  # fmt: skip
"""Words that are not products of variables."""
_MATHEMATICAL = frozenset("+-*/^=<>()[]{}_0123456789")
_LETTER_PRODUCT = re.compile(
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
_FONT_COMMAND = re.compile(
    r"\\(text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|sf|it|cal|scr)|mbox|rm)\s*\{([^{}]*)\}"
)
_ARGUMENT_START = re.compile(r"\s{0,20}[({\\a-z]")
_VECTOR_COMMAND = re.compile(
    r"\\(?:mathbf|boldsymbol|vec|hat|bm|overrightarrow|bar|overline|widehat|tilde)\s*"
    r"\{?\s*\\?([A-Za-z]+)\s*\}?"
)


@dataclass(frozen=True, slots=True)
class Token:
    """One operator, name, number or word."""

    kind: str
    """"num", "hex", "name" (a symbol or known name), "word" (prose), "cmd" (a LaTeX command) or
    "op" (an operator)."""
    text: str
    space_before: bool = False
    """Whether white space precedes it."""


def tokenize(text: str) -> list[Token]:
    """The tokens of a cleaned answer. Raises `LimitExceeded` for a number with too many digits."""
    text = _FONT_COMMAND.sub(_replace_font, text)
    text = _VECTOR_COMMAND.sub(lambda m: f"\\vector{{{m[1]}}}", text)
    is_python = "\\" not in text and "*" in text
    tokens: list[Token] = []
    space_before = False
    for match in _TOKEN.finditer(text):
        kind, lexeme = str(match.lastgroup), match.group()
        if kind == "space":
            space_before = True
            continue
        if kind in ("num", "hex") and len(lexeme) > MAX_DIGITS:
            raise LimitExceeded("A number has too many digits.")
        if kind == "name" and len(lexeme) == 2 and _is_product(text, match):
            tokens += [Token("name", lexeme[0], space_before), Token("name", lexeme[1])]
        else:
            tokens.extend(_make_tokens(kind, lexeme, space_before, is_python))
        space_before = False
    return tokens


def _is_product(text: str, match: re.Match[str]) -> bool:
    """Whether two letters that spell a word, such as "at", are a product of variables.

    They are if they touch an operator, a bracket or a digit, or are the whole answer.
    """
    if match[0].lower() not in _SMALL_WORDS or match[0].lower() == "or":
        return False
    neighbours = text[max(0, match.start() - 1) : match.start()] + text[match.end() :][:1]
    return any(char in _MATHEMATICAL for char in neighbours) or match[0] == text.strip()


def _replace_font(match: re.Match[str]) -> str:
    """The content of a font command: mathematics as it is, other text as a quoted word."""
    inner = match[2].strip().strip("~").strip()
    if inner in ("min", "sec") and not _ARGUMENT_START.match(match.string, match.end()):
        return f' "{inner}" '
    if inner in FUNCTIONS or inner in ("e", "i", "pi", "R") or re.fullmatch(r"[\d.,]+", inner):
        return f" {inner} " if not inner[:1].isdigit() else inner
    if re.fullmatch(r"\(?[A-Z]\)?", inner) and match[1] != "mathrm":
        return f" {inner} "
    return f' "{inner}" '


def _make_tokens(kind: str, lexeme: str, space_before: bool, is_python: bool) -> list[Token]:
    """The tokens of one match of `_TOKEN`."""
    if kind == "op":
        return [Token("op", _OPERATOR_ALIASES.get(lexeme, lexeme), space_before)]
    if kind == "word":
        inner = lexeme.strip('"').strip().lower()
        if inner in ("or", "and", ","):
            return [Token("op", inner, space_before)]
        return [Token("word", inner, space_before)] if inner.strip(".,;:!") else []
    if kind == "cmd":
        return [_command_token(lexeme, space_before)]
    if kind == "name":
        return _name_tokens(lexeme, space_before, is_python)
    return [Token(kind, lexeme, space_before)]


def _command_token(lexeme: str, space_before: bool) -> Token:
    name = lexeme[1:]
    if name in _COMMANDS:
        return Token("op", _COMMANDS[name], space_before)
    if name in FUNCTIONS or name in CONSTANTS or name in NAMED_SETS:
        return Token("name", name, space_before)
    if name in ("{", "}"):
        return Token("op", lexeme, space_before)
    if name == "%":
        return Token("op", "%", space_before)
    if name == "|":
        raise ParseError
    return Token("cmd", name, space_before)


def _name_tokens(lexeme: str, space_before: bool, is_python: bool) -> list[Token]:
    """The tokens of a run of letters: a known name, a product of variables, or a word."""
    lexeme = {"log10": "logten", "log2": "logtwo"}.get(lexeme, lexeme)
    if lexeme in FUNCTIONS or lexeme in CALLS or lexeme in CONSTANTS or lexeme in NAMED_SETS:
        return [Token("name", lexeme, space_before)]
    if lexeme in ("or", "and", "Or", "And", "OR", "AND"):
        return [Token("op", lexeme.lower(), space_before)]
    if len(lexeme) == 1:
        if is_python and lexeme in "EI":
            lexeme = {"E": "e", "I": "i"}[lexeme]
        return [Token("name", lexeme, space_before)]
    for name in ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "ln", "log", "pi"):
        if lexeme.startswith(name) and len(lexeme) == len(name) + 1:
            return [Token("name", name, space_before), Token("name", lexeme[-1])]
        if lexeme.endswith(name) and len(lexeme) == len(name) + 1 and lexeme[0] in "xyzabcknert":
            return [Token("name", lexeme[0], space_before), Token("name", name)]
    if lexeme.isupper() and len(lexeme) in (3, 4):
        return [Token("name", lexeme, space_before)]
    if lexeme.lower() not in _SMALL_WORDS and _LETTER_PRODUCT.fullmatch(lexeme):
        return [Token("name", letter, space_before and k == 0) for k, letter in enumerate(lexeme)]
    return [Token("word", lexeme.lower(), space_before)]


_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_DIGITS = string.digits + string.ascii_lowercase


def parse_number(text: str) -> Num:
    """The value of a numeral. A repeating decimal part follows "¦".

    Raises `LimitExceeded` for a large exponent.
    """
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


def parse_in_base(digits: str, text: str) -> Num:
    """The value of digits in the base that a subscript gives, as a number or a word.

    Raises `ParseError` if the base or a digit is invalid.
    """
    base = _BASE_WORDS.get(text, int(text) if text.isdigit() and len(text) < 3 else 0)
    integer, _, decimals = digits.lower().partition(".")
    if not 2 <= base <= 36 or not (integer + decimals).isalnum():
        raise ParseError
    value = 0
    for digit in integer + decimals:
        if digit not in _DIGITS or _DIGITS.index(digit) >= base:
            raise ParseError
        value = value * base + _DIGITS.index(digit)
    return Num(Fraction(value, base ** len(decimals)))
