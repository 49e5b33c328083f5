"""Foreign prose as HTML: escaped, its formulas as MathML.

latex2mathml takes over what a formula says of links, styles and classes, and its text unescaped
(`\\text{<script>}`). So its tree is taken instead of its string, and written anew from a list of
harmless elements and attributes.
"""

import re
from functools import lru_cache
from html import escape, unescape
from xml.etree.ElementTree import Element

from rstar_math.foreign import plain

LONGEST = 600
"""Characters of a formula that is translated; a longer one is shown as it was written."""
_DEEPEST = 40
_FORMULA = re.compile(
    r"\$\$(?P<a>[^$]{1,600}?)\$\$|\\\[(?P<b>.{1,600}?)\\\]|\\\((?P<c>.{1,600}?)\\\)"
    r"|(?<![\\$\w])\$(?=[^\s$])(?P<d>[^$\n]*?[^\s$\\])\$(?![\d$])"
    r"|(?P<e>\\(?:boxed|[dt]?frac|sqrt)\{)",
    re.DOTALL,
)
"""Formulas of at most `LONGEST` characters between signs of TeX (a dollar sign as pandoc reads it:
"$5 and $6" are prices), and what models often leave without such signs."""
_ELEMENTS = re.compile(
    "m(row|i|n|o|text|space|frac|sqrt|root|sub|sup|subsup|under|over|underover|table|tr|td|padded"
    "|phantom|style)"
)
_ATTRIBUTES = re.compile(
    "stretchy|fence|form|separator|[lr]space|linethickness|accent(under)?|columnalign|mathvariant"
    "|displaystyle|width|(min|max)size|movablelimits"
)
_SIGNS = re.compile(r"[\\^]")
"""What an answer has that is written as a formula."""
_WORDS = re.compile(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}")
_HARMLESS = re.compile(r"[\w .%+-]{0,40}\Z")


def prose_html(text: str) -> str:
    """The text as HTML that holds nothing but text and formulas. Lines stay lines: show it with
    `white-space: pre-wrap`."""
    parts: list[str] = []
    at = 0
    text = plain(text)
    while (match := _FORMULA.search(text, at)) is not None:
        parts.append(escape(text[at : match.start()]))
        end = match.end() if match["e"] is None else _closing(text, match.end())
        display = "block" if match["a"] or match["b"] else "inline"
        tex = next((t for t in match.group("a", "b", "c", "d") if t), text[match.start() : end])
        priced = match["d"] is not None and "\\" not in tex and _WORDS.search(tex)
        made = None if priced else _boxed(tex.strip()) or formula(tex.strip(), display)
        parts.append(escape(text[match.start() : end]) if made is None else made)
        at = end
    parts.append(escape(text[at:]))
    return "".join(parts)


def answer_html(answer: str, most: int = 200) -> str:
    """An answer as HTML: as a formula where it is written as one."""
    text = plain(answer)
    if len(text) > most:
        return escape(f"{text[: most - 1]}…")
    made = formula(text, "inline") if _SIGNS.search(text) and "$" not in text else None
    return made or prose_html(text)


@lru_cache(4096)
def formula(tex: str, display: str) -> str | None:
    """A formula as MathML; None for one that is too long or that cannot be read."""
    if len(tex) > LONGEST or tex.count("{") > _DEEPEST or tex.count("\\left") > _DEEPEST:
        return None
    from latex2mathml.converter import convert_to_element

    try:
        tree = convert_to_element(tex)
        inside = "".join(_written(child) for child in tree)
    except Exception:  # a formula of a model can break a translator in ways of its own
        return None
    if "\\" in inside:
        return None
    return f'<math display="{display}">{inside}</math>'


def _boxed(tex: str) -> str | None:
    """A formula that is one box, with what is in it; words and figures stay words. None for
    others."""
    inside = tex[7:-1] if tex.startswith("\\boxed{") and tex.endswith("}") else ""
    if not inside or _closing(tex, 7) != len(tex):
        return None
    made = formula(inside, "inline") if _SIGNS.search(inside) else None
    return f'<span class="box">{escape(inside) if made is None else made}</span>'


def _written(element: Element) -> str:
    """An element of MathML, anew."""
    tag = element.tag if _ELEMENTS.fullmatch(element.tag) else "mrow"
    given = "".join(
        f' {key}="{value}"'
        for key, value in element.attrib.items()
        if _ATTRIBUTES.fullmatch(key) and _HARMLESS.match(value)
    )
    text = escape(plain(unescape(element.text or "")))
    if text.strip() and tag == "mrow":
        text = f"<mtext>{text}</mtext>"
    return f"<{tag}{given}>{text}{''.join(_written(child) for child in element)}</{tag}>"


def _closing(text: str, at: int) -> int:
    """The place after the brace that closes the one before `at`, and after a second group in
    braces; `at` where none does."""
    found = at
    depth = 1
    for place in range(at, min(len(text), at + LONGEST)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            found = place + 1
            if text[found : found + 1] != "{":
                return found
    return found
