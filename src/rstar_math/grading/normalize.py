"""Normalizes an answer's text: Unicode, LaTeX and Markdown delimiters, numbers, currencies."""

import re
import unicodedata

from rstar_math.grading.units import CURRENCY_CODES, MEASURE_WORDS

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ", "0123456789+-nx", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_UNICODE_FRACTIONS = {
    "½": "1 2", "⅓": "1 3", "⅔": "2 3", "¼": "1 4", "¾": "3 4", "⅕": "1 5", "⅖": "2 5", "⅗": "3 5",
    "⅘": "4 5", "⅙": "1 6", "⅚": "5 6", "⅛": "1 8", "⅜": "3 8", "⅝": "5 8", "⅞": "7 8", "⅑": "1 9",
    "⅒": "1 10", "⅐": "1 7",
}  # fmt: skip
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi",
    "ρ": "rho", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi",
    "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Σ": "Sigma",
    "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
"""Greek letters that are variables, and their names in LaTeX."""
_UNICODE_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "﹣": "-", "×": r"\times ", "✕": r"\times ", "÷": "/",
    "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "∗": "*", "≤": "<=", "⩽": "<=",
    "≥": ">=", "⩾": ">=", "≠": "!=", "∞": r"\infty ", "π": r"\pi ", "√": r"\sqrt ",
    "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "Ø": r"\emptyset ", "°": "°", "º": "°", "˚": "°", "′": "'", "’": "'",
    "‘": "'", "“": '"', "”": '"', "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "⟨": r"\langle ",
    "⟩": r"\rangle ", "〈": r"\langle ", "〉": r"\rangle ", "±": r"\pm ", "∓": r"\mp ",
    "≈": r"\approx ", "≅": r"\approx ", "…": "...", "⋯": "...", "∨": r"\lor ", "∧": r"\land ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∣": "|", "∶": ":",
    "。": ".", "，": ",", "、": ",", "￥": "", "¥": "", "€": "", "£": "", "₹": "", "⁄": "/",
    "¢": "", "₩": "", "₽": "", "₫": "", "₱": "", "₦": "", "₺": "", "₴": "", "฿": "",
    "₪": "", "∖": r"\setminus ", "ε": r"\epsilon ", "ϵ": r"\epsilon ", "ϕ": r"\phi ", "µ": r"\mu ",
    "∠": r"\angle ", "△": r"\triangle ", "ℓ": "l", "𝑖": "i", "ⅈ": "i", "ℯ": "e", "\u00a0": " ",
    "\u2009": " ", "\u202f": " ",
}  # fmt: skip
_INVISIBLE_CHARS = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f"), None)
_SCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SUBSCRIPT_RUN = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_DELIMITERS = (
    ("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)"), ("**", "**"), ("```", "```"),
    ("`", "`"), ('"', '"'), ("'", "'"), ("``", "''"),
)  # fmt: skip
_FIRST_CHARS = frozenset(opening[0] for opening, _ in _DELIMITERS)
_WRAPPER_COMMAND = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mbox|displaystyle|ensuremath)\s*(?=\{)"
)
_LAYOUT_COMMAND = re.compile(
    r"\\(?:left|right)\s*\.(?!\d)|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits"
    r"|hfill|hspace\{[^{}]*\}|vspace\{[^{}]*\}|phantom\{[^{}]*\}|label\{[^{}]*\}|tag\{[^{}]*\})(?![a-zA-Z])"
)
_REWRITES: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (needed, re.compile(pattern), replacement)
    for needed, pattern, replacement in (
        ("\\", r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        ("\\", r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        ("\\", r"\\operatorname\*?\s*\{\s*([a-zA-Z]+)\s*\}", r"\\\1 "),
        (
            "\\",
            r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degrees?(?![a-zA-Z])|\\textdegree",
            "°",
        ),
        ("US", r"\bUS\s?(?=\d)", ""),
        ("", rf"(?<![A-Za-z])(?:{'|'.join(CURRENCY_CODES)})\.?\s?(?=-?\d)", ""),
        ("万", r"(?<![\d.])(\d+(?:\.\d+)?)万", r"(\1*10000)"),
        ("亿", r"(?<![\d.])(\d+(?:\.\d+)?)亿", r"(\1*100000000)"),
        ("", rf"(?<=[\d}})°%])\s{{0,3}}(?:{MEASURE_WORDS})$", ""),
        ("或", r"或者?", " or "),
        ("", r"[和且与及]", " and "),
        (" and ", r"^(-?\d+) and (\d+/\d+)$", r"\1 \2"),
        ("10", r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", r"\\times "),
        ("", r"(?<=\d)(?:\\[,!;: ]|\{,\})\s?(?=\d{3}(?!\d))", ","),
        ("\\", r"(?<=\d),\\!\s{0,3}(?=\d{3}(?!\d))", ","),
        (
            "",
            r"(?<!\\)\\[,;:!> ]|~|\\(?:quad|qquad|enspace|thinspace)(?![a-zA-Z])|(?<!\\)\\\n",
            " ",
        ),
        ("\\", r"\\[$€£]|\\(?:pounds|euro|textdollar)(?![a-zA-Z])", ""),
        ("_", r"(?<=\d)_(?=\d{3}(?!\d))", ""),
        ("\\", r"\.(\d*)\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r".\1¦\2\3\4"),
        ("\\", r"\.(\d*)\\(?:overline|bar|dot|overbar)\s*\{?\s*(\d+)\s*\}?", r".\1¦\2"),
        ("(", r"\.(\d*)\((\d+)\)(?!\w)", r".\1¦\2"),
        ("", r"\.(\d{0,20}?)(\d)\2{2,}(?:\\[lc]?dots|\.\.\.)", r".\1¦\2"),
        ("", r"\.(\d{0,20}?)(\d{2,6}?)\2+(?:\\[lc]?dots|\.\.\.)", r".\1¦\2"),
        ("\\", r"\\text[a-z]*\s*\{\s*[.,;:]?\s*\}", " "),
        ("", r"(\d)(?:\\[lc]?dots|\.\.\.)$", r"\1"),
        ("np.", r"\bnp\.(?:float|int)\d*\(([^()]*)\)", r"\1"),
        ("Interval.", r"\bInterval\.(open|Lopen|Ropen)\b", r"Interval\1"),
        (".", r"\b(?:S|sp|sympy|math|np|numpy|fractions)\.(?=[A-Za-z])", ""),
    )
)
"""Text that an answer must contain, pattern and replacement."""
_LETTERED_DOLLAR = re.compile(r"(?<![A-Za-z])(?:US|CA|AU|HK|NZ|NT|MX|[ACSR])\\?\$")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,] )(?<![\d.,])\d{1,3}(?: \d{3})+(?! ?\d)")


def clean(text: str) -> str:
    """The answer without delimiters and layout commands, in a normalized notation; may be ""."""
    text = unwrap(unicode_to_latex(text))
    text = _LETTERED_DOLLAR.sub("", text).replace("$", " ")
    text = _LAYOUT_COMMAND.sub(" ", text)
    for needed, pattern, replacement in _REWRITES:
        if needed in text:
            text = pattern.sub(replacement, text)
    return unwrap(re.sub(r"\s+", " ", text))


def unicode_to_latex(text: str) -> str:
    """The text with Unicode mathematics replaced by LaTeX, and full-width by plain characters."""
    text = text.translate(_INVISIBLE_CHARS)
    if text.isascii():
        return text
    text = _SCRIPT_RUN.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
    out = []
    for char in text:
        if char in _UNICODE_FRACTIONS:
            top, bottom = _UNICODE_FRACTIONS[char].split()
            out.append(rf"\frac{{{top}}}{{{bottom}}}")
        elif char in _UNICODE_SYMBOLS:
            out.append(_UNICODE_SYMBOLS[char])
        elif char in GREEK:
            out.append(f"\\{GREEK[char]} ")
        else:
            out.append(char)
    return "".join(
        _UNICODE_SYMBOLS.get(char, char) for char in unicodedata.normalize("NFKC", "".join(out))
    )


def unwrap(text: str) -> str:
    """The text without surrounding delimiters, emphasis, boxes and final punctuation."""
    while True:
        before = text
        text = text.strip().rstrip(",;:").rstrip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        text = text.removesuffix("\\").rstrip() if not text.endswith("\\\\") else text[:-2].rstrip()
        if text[:1] in _FIRST_CHARS:
            text = _unwrap_delimiters(text)
        if text[:1] == "\\":
            text = _unwrap_command(text)
        if text == before:
            return text


def _unwrap_delimiters(text: str) -> str:
    for opening, end in _DELIMITERS:
        if text.startswith(opening) and text.endswith(end) and len(text) > len(opening + end):
            inner = text[len(opening) : -len(end)]
            if opening not in inner:
                return inner
    return text


def _unwrap_command(text: str) -> str:
    match = _WRAPPER_COMMAND.match(text)
    if not match or not text.endswith("}"):
        return text
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text[match.end() :]):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            last = match.end() + brace.end() == len(text)
            return text[match.end() + 1 : -1] if last else text
    return text


def join_thousands(text: str) -> str:
    """The text with 1,000,000 and 1 000 000 written as 1000000.

    Inside brackets, commas stay: they separate items.
    """
    out, end, depth = [], 0, 0
    if text.startswith("{"):
        depth = 1
    for match in _THOUSANDS.finditer(text):
        before = text[end : match.start()]
        depth += len(re.findall(r"[(\[]|\\\{", before)) - len(re.findall(r"[)\]]|\\\}", before))
        out.append(before)
        out.append(match.group().replace(",", "") if depth <= 0 else match.group())
        end = match.end()
    out.append(text[end:])
    joined = "".join(out)
    return _SPACED_THOUSANDS.sub(lambda m: m.group().replace(" ", ""), joined)
