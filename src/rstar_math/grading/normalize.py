"""Normalizes an answer's text: Unicode, LaTeX and Markdown delimiters, units, phrases."""

import re
import unicodedata
from fractions import Fraction

from rstar_math.grading.nodes import EMPTY, REALS, Node, Num, TimeOfDay, Word

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
    "¢": "", "∖": r"\setminus ", "ε": r"\epsilon ", "ϵ": r"\epsilon ", "ϕ": r"\phi ", "µ": r"\mu ",
    "∠": r"\angle ", "△": r"\triangle ", "ℓ": "l", "𝑖": "i", "ⅈ": "i", "ℯ": "e", "\u00a0": " ",
    "\u2009": " ", "\u202f": " ",
}  # fmt: skip
_INVISIBLE_CHARS = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f"), None)
_SCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SUBSCRIPT_RUN = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_DELIMITERS = (
    ("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)"), ("**", "**"), ("```", "```"),
    ("`", "`"), ('"', '"'),
)  # fmt: skip
_WRAPPER_COMMAND = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mbox|displaystyle|ensuremath)\s*(?=\{)"
)
_LAYOUT_COMMAND = re.compile(
    r"\\(?:left|right)\s*\.(?!\d)|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits"
    r"|hfill|hspace\{[^{}]*\}|vspace\{[^{}]*\}|phantom\{[^{}]*\}|label\{[^{}]*\}|tag\{[^{}]*\})(?![a-zA-Z])"
)
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\operatorname\*?\s*\{\s*([a-zA-Z]+)\s*\}", r"\\\1 "),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degrees?(?![a-zA-Z])|\\textdegree", "°"),
        (r"\bUS\s*(?=\d)", ""),
        (r"^(-?\d+) and (\d+/\d+)$", r"\1 \2"),
        (r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", r"\\times "),
        (r"(?<=\d)(?:\\[,!;: ]|\{,\})\s?(?=\d{3}(?!\d))", ","),
        (r"(?<=\d),\\!(?=\d{3}(?!\d))", ","),
        (r"(?<!\\)\\[,;:!> ]|~|\\(?:quad|qquad|enspace|thinspace)(?![a-zA-Z])|(?<!\\)\\\n", " "),
        (r"\\[$€£]|\\(?:pounds|euro|textdollar)(?![a-zA-Z])", ""),
        (r"(?<=\d)_(?=\d{3}(?!\d))", ""),
        (r"\.(\d*)\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r".\1¦\2\3\4"),
        (r"\.(\d*)\\(?:overline|bar|dot|overbar)\s*\{?\s*(\d+)\s*\}?", r".\1¦\2"),
        (r"\.(\d*)\((\d+)\)(?!\w)", r".\1¦\2"),
        (r"\.(\d*?)(\d)\2{2,}(?:\\[lc]?dots|\.\.\.)", r".\1¦\2"),
        (r"\.(\d*?)(\d{2,6}?)\2+(?:\\[lc]?dots|\.\.\.)", r".\1¦\2"),
        (r"\\text[a-z]*\s*\{\s*[.,;:]?\s*\}", " "),
        (r"(\d)(?:\\[lc]?dots|\.\.\.)$", r"\1"),
        (r"\bnp\.(?:float|int)\d*\(([^()]*)\)", r"\1"),
        (r"\bInterval\.(open|Lopen|Ropen)\b", r"Interval\1"),
        (r"\b(?:S|sp|sympy|math|np|numpy|fractions)\.(?=[A-Za-z])", ""),
    )
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,] )(?<![\d.,])\d{1,3}(?: \d{3})+(?! ?\d)")


def clean(text: str) -> str:
    """The answer without delimiters and layout commands, in a normalized notation; may be ""."""
    text = unwrap(unicode_to_latex(text))
    text = text.replace("US\\$", "").replace("US$", "").replace("$", " ")
    text = _LAYOUT_COMMAND.sub(" ", text)
    for pattern, replacement in _REWRITES:
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
        for opening, end in _DELIMITERS:
            inner = text[len(opening) : -len(end)]
            if (
                len(text) > len(opening) + len(end)
                and text.startswith(opening)
                and text.endswith(end)
                and opening not in inner
            ):
                text = inner
                break
        text = _unwrap_command(text)
        if text == before:
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


_ONE_LETTER_UNITS = "m s g h L l N J W"
_UNIT_SYMBOLS = (
    "mm cm dm km nm mi ft in yd kg mg lb lbs oz min hr hrs sec ms ml mL cL dL kL kW MW kJ kN "
    "Pa kPa Hz kHz MHz mph kph rpm eV mol kmol psi cc sq pt qt gal rad deg cal kcal ac ha bps "
    "kB MB GB TB mV kV mA kWh USD EUR GBP CAD AUD RMB dollars cents"
)
_UNIT_WORDS = (
    "meters? metres? centimet(?:er|re)s? millimet(?:er|re)s? kilomet(?:er|re)s? inch(?:es)? "
    "foot feet yards? miles? grams? kilograms? milligrams? pounds? ounces? tons? tonnes? "
    "lit(?:er|re)s? millilit(?:er|re)s? gallons? quarts? pints? cups? seconds? minutes? "
    "hours? days? weeks? months? years? degrees? radians? dollars? cents? bucks euros? "
    "percent units? square cubic squared cubed per people person points? newtons? joules? "
    "watts? volts? amps? mol moles? acres? hectares? knots?"
)
_UNIT = f"(?:{'|'.join(_UNIT_SYMBOLS.split())}|{'|'.join(_UNIT_WORDS.split())})"
_UNIT_POWER = r"(?:\s*\^\s*\{?-?[1-4]\}?)?"
_ANY_UNIT = rf"(?:{_UNIT}|[{''.join(_ONE_LETTER_UNITS.split())}])(?![A-Za-z]){_UNIT_POWER}"
_TRAILING_UNIT = re.compile(
    rf"(?:(?<=[\d)}}°%.])(?:\s*{_UNIT}(?![A-Za-z]){_UNIT_POWER}|\s+{_ANY_UNIT})"
    rf"|(?<=[A-Za-z])\s+{_UNIT}(?![A-Za-z]){_UNIT_POWER})"
    rf"(?:\s*(?:/|\\cdot|\*|-|per\b|a\b|an\b)?\s*{_ANY_UNIT})*\s*$"
)


def strip_unit(text: str) -> str:
    """The text without a known unit at its end, if a digit precedes the unit."""
    match = _TRAILING_UNIT.search(text)
    if not match or match.start() == 0 or not re.search(r"\d", text[: match.start()]):
        return text
    return text[: match.start()].strip()


_YES_NO = re.compile(r"(yes|no|true|false)(?:\s*[,.;:!]\s+[^=\\]*)?", re.IGNORECASE)
_BOOLEANS = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_OPTION = re.compile(
    r"(?i:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*(?:is\s*)?:?\s*)\(?([A-Ha-h])\)?[.:)]?"
    r"|\(([A-Ha-h])\)|([A-Ha-h])\)|([A-H])[.:]"
)
_OPTION_TEXT = re.compile(
    r"(?:\(([A-H])\)|([A-Ha-h])\)|([A-H])[.:]\s)\s*(?!and\b|or\b)([\w\\$.+-].*)", re.DOTALL
)
_TIME_OF_DAY = re.compile(
    r"(\d{1,2})(?::([0-5]\d))?\s*([ap])\.?\s?m\.?|(\d{1,2}):([0-5]\d)(?:\s*o'clock)?", re.IGNORECASE
)
_OCLOCK = re.compile(r"(\d{1,2})\s*o'?clock", re.IGNORECASE)
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_DATE_WORDS = re.compile(
    r"\b(?:of|the|on|in|monday|tuesday|wednesday|thursday|friday|saturday|sunday|mon|tue|wed|thu|fri|sat|sun)\b"
)
_NUMERIC_DATE = re.compile(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{4}|\d{4}[/-]\d{2}[/-]\d{2}")
_PHRASES: dict[str, Node] = {
    "no solution": EMPTY, "no solutions": EMPTY, "no real solution": EMPTY,
    "no real solutions": EMPTY, "there is no solution": EMPTY, "there are no solutions": EMPTY,
    "empty set": EMPTY, "null set": EMPTY, "emptyset": EMPTY, "all real numbers": REALS,
    "all reals": REALS, "any real number": REALS, "set of all real numbers": REALS,
    "set of real numbers": REALS, "real numbers": REALS, "all real x": REALS, "reals": REALS,
    "infinitely many": Word("infinitely many"),
    "infinitely many solutions": Word("infinitely many"),
    "infinite solutions": Word("infinitely many"),
    "infinite number of solutions": Word("infinitely many"), "dne": Word("does not exist"),
    "does not exist": Word("does not exist"), "diverges": Word("diverges"),
    "divergent": Word("diverges"), "converges": Word("converges"), "convergent": Word("converges"),
    "none": Word("none"), "none of the above": Word("none of the above"),
}  # fmt: skip
_SMALL_NUMBERS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight":
    8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen":
    15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    word: 10 * number
    for number, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2
    )
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_FRACTION_WORDS = {
    "half": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10,
    "tenths": 10,
}  # fmt: skip


def parse_phrase(text: str) -> Node | None:
    """The node of an answer that is a known phrase, time, date or number word; else None."""
    match = _YES_NO.fullmatch(text)
    if match:
        return Word(_BOOLEANS[match[1].lower()])
    plain = plain_words(text)
    if plain in _PHRASES:
        return _PHRASES[plain]
    return _time_of_day(text) or _date(text) or _number_in_words(plain)


def parse_option(text: str) -> tuple[str, str] | None:
    """The letter of a multiple-choice option and its text ("" for none); None if it is neither."""
    match = _OPTION.fullmatch(text)
    if match:
        return next(letter for letter in match.groups() if letter).upper(), ""
    match = _OPTION_TEXT.fullmatch(text)
    if match:
        return (match[1] or match[2] or match[3]).upper(), match[4]
    return None


def plain_words(text: str) -> str:
    """The text in lower case without articles and punctuation, words separated by one space."""
    text = re.sub(r"\\text[a-z]*\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"[\"“”‘’`*_{}$!?.,;:()\[\]\-]+", " ", text.replace("'", "")).lower()
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"^(?:the|an?)\s+(?=\S)", "", text)


def _time_of_day(text: str) -> Node | None:
    match = _TIME_OF_DAY.fullmatch(text)
    if match and match[3]:
        hour, minute, period = int(match[1]), int(match[2] or 0), match[3].lower() + "m"
        if 1 <= hour <= 12:
            return TimeOfDay((hour % 12 + (12 if period == "pm" else 0)) * 60 + minute, period)
    elif match and int(match[4]) < 24:
        return TimeOfDay(int(match[4]) * 60 + int(match[5]), "")
    match = _OCLOCK.fullmatch(text)
    if match and int(match[1]) <= 24:
        return TimeOfDay(int(match[1]) % 24 * 60, "")
    return None


def _date(text: str) -> Node | None:
    if _NUMERIC_DATE.fullmatch(text):
        return Word("date " + text)
    words = re.sub(r"[,.]", " ", _DATE_WORDS.sub(" ", text.lower())).split()
    months = [
        k
        for k, month in enumerate(_MONTHS, 1)
        for word in words
        if len(word) > 2 and month.startswith(word)
    ]
    numbers = [m[1] for word in words if (m := re.fullmatch(r"(\d{1,4})(?:st|nd|rd|th)?", word))]
    if len(months) != 1 or len(numbers) + 1 != len(words) or not 1 <= len(numbers) <= 2:
        return None
    days = [int(number) for number in numbers if len(number) <= 2]
    years = [int(number) for number in numbers if len(number) == 4]
    return Word(f"date {months[0]} {days} {years}")


def _number_in_words(plain: str) -> Node | None:
    words = plain.replace(" and ", " ").split()
    if len(words) == 2 and words[0] in _SMALL_NUMBERS and words[1] in _FRACTION_WORDS:
        return Num(Fraction(_SMALL_NUMBERS[words[0]], _FRACTION_WORDS[words[1]]))
    if plain == "half":
        return Num(Fraction(1, 2))
    total = current = 0
    for word in words:
        if word in _SMALL_NUMBERS:
            current += _SMALL_NUMBERS[word]
        elif word in _TENS:
            current += _TENS[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word in _SCALES:
            total, current = total + max(current, 1) * _SCALES[word], 0
        else:
            return None
    return Num(Fraction(total + current)) if words else None
