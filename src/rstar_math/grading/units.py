"""Removes units, currencies and counted things after a number."""

import re

from rstar_math.extraction import FUNCTIONS

CURRENCY_CODES = (
    "USD", "EUR", "GBP", "CAD", "AUD", "NZD", "RMB", "CNY", "HKD", "TWD", "JPY", "KRW", "INR",
    "PKR", "LKR", "BDT", "NPR", "CHF", "SEK", "NOK", "DKK", "PLN", "CZK", "HUF", "RON", "BGN",
    "RUB", "UAH", "TRY", "ILS", "SAR", "AED", "QAR", "KWD", "EGP", "NGN", "KES", "GHS", "ZAR",
    "BRL", "MXN", "ARS", "CLP", "COP", "PEN", "SGD", "MYR", "THB", "IDR", "PHP", "VND", "Rs",
)  # fmt: skip
MEASURE_WORDS = (
    "平方厘米|平方千米|平方米|立方厘米|立方米|厘米|毫米|分米|千米|公里|千克|公斤|毫升|小时|分钟|"
    "[个元人天岁次只本张条块件辆秒分米克吨升支名位页棵道度年月周日套种组双头匹颗朵根把间台架艘枚]"
)
"""Chinese units and measure words, as a regular expression."""
_ONE_LETTER_UNITS = frozenset("msghLlNJW")
_UNIT_SYMBOLS = frozenset((
    "mm", "cm", "dm", "km", "nm", "mi", "ft", "in", "yd", "kg", "mg", "lb", "lbs", "oz", "min",
    "hr", "hrs", "sec", "ms", "ml", "mL", "cL", "dL", "kL", "kW", "MW", "kJ", "kN", "Pa", "kPa",
    "Hz", "kHz", "MHz", "mph", "kph", "rpm", "eV", "mol", "kmol", "psi", "cc", "sq", "pt", "qt",
    "gal", "rad", "deg", "cal", "kcal", "ac", "ha", "bps", "kB", "MB", "GB", "TB", "mV", "kV",
    "mA", "kWh", "kr", "Ft",
))  # fmt: skip
_UNIT_WORDS = frozenset(
    word + ending
    for words, endings in (
        (
            "meter metre centimeter centimetre millimeter millimetre kilometer kilometre yard mile "
            "gram kilogram milligram pound ounce ton tonne liter litre milliliter millilitre "
            "gallon quart pint cup second minute hour day week month year degree radian dollar "
            "cent euro unit point newton joule watt volt amp mole acre hectare knot rupee "
            "franc peso ruble rouble pound krona krone dirham riyal dinar lira",
            ("", "s"),
        ),
        ("inch", ("", "es")),
        (
            "foot feet bucks percent square cubic squared cubed per people person yen yuan won "
            "rand baht rupiah ringgit zloty shekels",
            ("",),
        ),
    )
    for word in words.split()
    for ending in endings
)
_TAIL_TOKEN = re.compile(
    r"(?P<power>\^\s?\{?-?[1-4]\}?)|(?P<word>[A-Za-z]+)|(?P<join>/|\\cdot(?![A-Za-z])|\*|-)"
    r"|(?P<space>\s+)|(?P<other>\\[A-Za-z]+|.)",
    re.DOTALL,
)
_MAX_UNIT_CHARS = 200
_BRACKETED_UNIT = re.compile(r"[(\[]\s?(?:\\text\{)?\s?([A-Za-z][A-Za-z .^0-9{}/-]{0,60})[)\]]$")
_AFTER_NUMBER = frozenset("0123456789)}°%.")


def strip_unit(text: str) -> str:
    """The text without a known unit at its end, if a digit precedes the unit.

    A word in brackets after a number counts as a unit too: 6 (pencils).
    """
    match = _BRACKETED_UNIT.search(text, max(0, len(text) - _MAX_UNIT_CHARS))
    if match and _is_unit_phrase(match[1]):
        before = text[: match.start()].rstrip()
        if before[-1:] in _AFTER_NUMBER and any(char.isdigit() for char in before):
            return before
    tokens = list(_TAIL_TOKEN.finditer(text, max(0, len(text) - _MAX_UNIT_CHARS)))
    for index in _trailing_units(tokens):
        start = tokens[index].start()
        before = text[:start].rstrip()
        is_symbol = len(tokens[index][0]) == 1
        gap = len(before) < start
        if (before[-1:] in _AFTER_NUMBER and (gap or not is_symbol)) or (
            before[-1:].isalpha() and gap and not is_symbol
        ):
            return before if any(char.isdigit() for char in before) else text
    return text


def _is_unit_phrase(text: str) -> bool:
    """Whether a text in brackets is a unit: known units, or words of three letters or more."""
    words = re.findall(r"[A-Za-z]+", text.removesuffix("}"))
    return not re.search(r"\d", re.sub(r"\^\{?-?[1-4]", "", text)) and all(
        _is_unit(word) or (len(word) > 2 and word not in FUNCTIONS and word not in ("mod", "base"))
        for word in words
    )


def _is_unit(word: str) -> bool:
    return (
        word in _UNIT_SYMBOLS
        or word in _ONE_LETTER_UNITS
        or word.lower() in _UNIT_WORDS
        or word in CURRENCY_CODES
    )


def _trailing_units(tokens: list[re.Match[str]]) -> list[int]:
    """The indices of the unit words at the end of a text, the first one first.

    Powers, spaces and the joints "/", "*", "-", "per" and "a" may stand between them.
    """
    found: list[int] = []
    index = _skip(tokens, len(tokens), "space")
    while index:
        index = _skip(tokens, _skip(tokens, index, "power"), "space")
        if not index or tokens[index - 1].lastgroup != "word" or not _is_unit(tokens[index - 1][0]):
            break
        index -= 1
        found.append(index)
        index = _skip(tokens, index, "space")
        if index and (tokens[index - 1].lastgroup == "join" or tokens[index - 1][0] in ("a", "an")):
            index = _skip(tokens, index - 1, "space")
    return found[::-1]


def _skip(tokens: list[re.Match[str]], index: int, kind: str) -> int:
    return index - 1 if index and tokens[index - 1].lastgroup == kind else index
