"""Parses answers in words: yes and no, options, times, dates, numbers in words, set phrases."""

import re
from fractions import Fraction

from rstar_math.grading.nodes import EMPTY, REALS, Node, Num, TimeOfDay, Word

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
    r"(\d{1,2})(?::([0-5]\d)(?::([0-5]\d))?)?\s?([ap])\.?\s?m\.?"
    r"|(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?:\s?o'clock)?",
    re.IGNORECASE,
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
    if match and match[4]:
        hour, minute, second = int(match[1]), int(match[2] or 0), int(match[3] or 0)
        period = match[4].lower() + "m"
        if 1 <= hour <= 12:
            hour = hour % 12 + (12 if period == "pm" else 0)
            return TimeOfDay(hour * 3600 + minute * 60 + second, period)
    elif match and int(match[5]) < 24:
        return TimeOfDay(int(match[5]) * 3600 + int(match[6]) * 60 + int(match[7] or 0), "")
    match = _OCLOCK.fullmatch(text)
    if match and int(match[1]) <= 24:
        return TimeOfDay(int(match[1]) % 24 * 3600, "")
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
