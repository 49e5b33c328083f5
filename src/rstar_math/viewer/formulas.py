"""Formulas as MathML, bounded in size on the page, in length and in time.

latex2mathml converts TeX, which models and other people write. It passes sizes such as those of
\\hspace and \\above on unchecked, and it expands macros. Its result is therefore written anew, with
known elements and attributes and with values that fit a line of text; what is not known is left
out. A formula that would grow without bound is shown as it was written.
"""

import re
from functools import lru_cache
from html import escape, unescape
from xml.etree.ElementTree import Element

from rstar_math.text import sanitize

MAX_FORMULA_CHARS = 600
"""Maximum length of a formula that is converted; longer ones are shown as source text."""
MAX_ELEMENTS = 2_500
"""Maximum number of elements of a formula; long formulas of people have some 500."""
_WIDE_CHARS = 40
"""A longer formula scrolls where it does not fit, because formulas do not wrap. A shorter one stays
on the line's baseline."""
_MAX_DEPTH = 40
_GROWING = re.compile(
    r"\\(?:newcommand|renewcommand|providecommand|def|DeclareMathOperator|newenvironment)(?![A-Za-z])"
    r"|\\sideset.*\\sideset",
    re.DOTALL,
)
"""Definitions of macros, and nested \\sideset, which writes its operator twice: the MathML of both
grows exponentially with the length of the formula."""
_ELEMENTS = re.compile(
    "m(row|i|n|o|text|space|frac|sqrt|root|sub|sup|subsup|under|over|underover|table|tr|td|padded"
    "|phantom|style)"
)
_KEYWORDS = re.compile(
    "stretchy|fence|form|separator|accent(under)?|columnalign|mathvariant|displaystyle"
    "|movablelimits"
)
"""Attributes whose values are words."""
_KEYWORD = re.compile(r"[a-z -]{1,40}")
_MAX_EM = {
    "width": 4.0,
    "lspace": 4.0,
    "rspace": 4.0,
    "minsize": 4.0,
    "maxsize": 4.0,
    "linethickness": 0.5,
}
"""Attributes whose values are lengths, with the largest, up or down, in em. A \\qquad has 2 em."""
_LENGTH = re.compile(r"([+-]?(?:\d{1,6}(?:\.\d{0,6})?|\.\d{1,6}))(em|ex|px|pt|pc|in|cm|mm)?")
_EMS = {
    "em": 1.0,
    "ex": 0.5,
    "px": 1 / 16,
    "pt": 1 / 12,
    "pc": 1.0,
    "in": 6.0,
    "cm": 2.4,
    "mm": 0.24,
}
"""Length of each unit in em, at 16 px."""

_NAMED_SPACES = {
    f"{sign}{name}mathspace": f"{number}{ems}em"
    for sign, number in (("", ""), ("negative", "-"))
    for name, ems in (("thin", 0.167), ("medium", 0.222), ("thick", 0.278))
}
"""Lengths that MathML had names for; browsers no longer know the names."""


@lru_cache(4096)
def formula(tex: str, display: str) -> str | None:
    """A formula as MathML; None if it is too long, could grow too large or cannot be converted."""
    if len(tex) > MAX_FORMULA_CHARS or _GROWING.search(tex):
        return None
    if tex.count("{") > _MAX_DEPTH or tex.count("\\left") > _MAX_DEPTH:
        return None
    from latex2mathml.converter import convert_to_element

    try:
        tree = convert_to_element(tex)
        if sum(1 for _ in tree.iter()) > MAX_ELEMENTS:
            return None
        mathml = "".join(_safe_mathml(child) for child in tree)
    except Exception:  # the converter raises many types for malformed formulas
        return None
    if "\\" in mathml:
        return None
    math = f'<math display="{display}">{mathml}</math>'
    return f'<span class="wide">{math}</span>' if len(tex) > _WIDE_CHARS else math


def _safe_mathml(element: Element) -> str:
    """An element as MathML with only known tags and harmless attributes."""
    tag = element.tag if _ELEMENTS.fullmatch(element.tag) else "mrow"
    given = {key: _NAMED_SPACES.get(value, value) for key, value in element.attrib.items()}
    attributes = "".join(
        f' {key}="{value}"' for key, value in given.items() if _is_harmless(key, value)
    )
    text = escape(sanitize(unescape(element.text or "")))
    if text.strip() and tag == "mrow":
        text = f"<mtext>{text}</mtext>"
    return f"<{tag}{attributes}>{text}{''.join(_safe_mathml(child) for child in element)}</{tag}>"


def _is_harmless(name: str, value: str) -> bool:
    """Whether an attribute is known, and its value a word or a length that fits a line of text."""
    if _KEYWORDS.fullmatch(name):
        return _KEYWORD.fullmatch(value) is not None
    length = _LENGTH.fullmatch(value) if name in _MAX_EM else None
    return length is not None and abs(float(length[1])) * _EMS[length[2] or "em"] <= _MAX_EM[name]
