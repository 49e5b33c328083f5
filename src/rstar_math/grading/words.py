"""Answers in words: options, yes and no, times, dates, ratios, named sets, numbers written out."""

import re
from fractions import Fraction

from rstar_math.grading.nodes import EMPTY, REALS, Clock, Node, Num, Word

_YES_NO = re.compile(r"(yes|no|true|false)(?:\s*[,.;:!]\s+[^=\\]*)?", re.IGNORECASE)
_BOOLEANS = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_OPTION = re.compile(
    r"(?i:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*(?:is\s*)?:?\s*)\(?([A-Ha-h])\)?[.:)]?"
    r"|\(([A-Ha-h])\)|([A-Ha-h])\)|([A-H])[.:]"
)
_OPTION_TEXT = re.compile(
    r"(?:\(([A-H])\)|([A-Ha-h])\)|([A-H])[.:]\s)\s*(?!and\b|or\b)([\w\\$.+-].*)", re.DOTALL
)
_CLOCK = re.compile(
    r"(\d{1,2})(?::([0-5]\d))?\s*([ap])\.?\s?m\.?|(\d{1,2}):([0-5]\d)(?:\s*o'clock)?", re.IGNORECASE
)
_OCLOCK = re.compile(r"(\d{1,2})\s*o'?clock", re.IGNORECASE)
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_DATE_WORDS = re.compile(
    r"\b(?:of|the|on|in|monday|tuesday|wednesday|thursday|friday|saturday|sunday|mon|tue|wed|thu|fri|sat|sun)\b"
)
_NUMERIC_DATE = re.compile(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{4}|\d{4}[/-]\d{2}[/-]\d{2}")
_NAMED: dict[str, Node] = {
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
_UNITS = {
    word: number
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_TENS = {
    word: 10 * number
    for number, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2
    )
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_PARTS = {
    "half": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10,
    "tenths": 10,
}  # fmt: skip


def read_words(text: str) -> Node | None:
    """What an answer that is a phrase of a known kind reads as, or None for any other text."""
    match = _YES_NO.fullmatch(text)
    if match:
        return Word(_BOOLEANS[match[1].lower()])
    plain = plain_words(text)
    if plain in _NAMED:
        return _NAMED[plain]
    return _clock(text) or _date(text) or _written_number(plain)


def option(text: str) -> tuple[str, str] | None:
    """The letter of an option and the text given with it ("" where there is none), or None."""
    match = _OPTION.fullmatch(text)
    if match:
        return next(letter for letter in match.groups() if letter).upper(), ""
    match = _OPTION_TEXT.fullmatch(text)
    if match:
        return (match[1] or match[2] or match[3]).upper(), match[4]
    return None


def plain_words(text: str) -> str:
    """Words in lower case, one space apart, without articles and signs of punctuation."""
    text = re.sub(r"\\text[a-z]*\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"[\"“”‘’`*_{}$!?.,;:()\[\]\-]+", " ", text.replace("'", "")).lower()
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"^(?:the|an?)\s+(?=\S)", "", text)


def _clock(text: str) -> Node | None:
    match = _CLOCK.fullmatch(text)
    if match and match[3]:
        hour, minute, half = int(match[1]), int(match[2] or 0), match[3].lower() + "m"
        if 1 <= hour <= 12:
            return Clock((hour % 12 + (12 if half == "pm" else 0)) * 60 + minute, half)
    elif match and int(match[4]) < 24:
        return Clock(int(match[4]) * 60 + int(match[5]), "")
    match = _OCLOCK.fullmatch(text)
    if match and int(match[1]) <= 24:
        return Clock(int(match[1]) % 24 * 60, "")
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


def _written_number(plain: str) -> Node | None:
    words = plain.replace(" and ", " ").split()
    if len(words) == 2 and words[0] in _UNITS and words[1] in _PARTS:
        return Num(Fraction(_UNITS[words[0]], _PARTS[words[1]]))
    if plain == "half":
        return Num(Fraction(1, 2))
    total = current = 0
    for word in words:
        if word in _UNITS:
            current += _UNITS[word]
        elif word in _TENS:
            current += _TENS[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word in _SCALES:
            total, current = total + max(current, 1) * _SCALES[word], 0
        else:
            return None
    return Num(Fraction(total + current)) if words else None
