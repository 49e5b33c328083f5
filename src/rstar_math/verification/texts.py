"""Normal forms of short texts: words, yes and no, names, dates."""

import re
import unicodedata
from collections.abc import Sequence
from datetime import date

from rstar_math.tasks import TextForm, TextTask

_MAX_CHARS = 2_000
_ARTICLE = re.compile(r"^(?:the|an?) ")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_NOT_WORD = re.compile(r"[^\w\s+#%.\-]|_|\.(?!\d)|-(?!\d)|(?<=\w)-")
"""What does not belong to a word or a number: the signs of "C++", "-5" and "0.5" do."""
_YES = frozenset(["yes", "y", "true", "correct", "right", "affirmative", "yeah", "yep"])
_NO = frozenset(["no", "n", "false", "incorrect", "wrong", "negative", "nope"])
_TITLES = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "miss",
        "dr",
        "prof",
        "professor",
        "sir",
        "dame",
        "lord",
        "lady",
        "saint",
        "st",
    ]
)
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul",
            "august aug", "september sept sep", "october oct", "november nov", "december dec",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_ORDINAL = re.compile(r"(\d)(?:st|nd|rd|th)\b")


def normalize(text: str, form: TextForm = "words") -> str:
    """The normal form of a short text; equal forms are equal answers.

    words: lower case, no accents, punctuation or leading article. yesno: "yes" or "no". name: as
    words, without titles, with "Family, Given" turned round. date: YYYY-MM-DD, YYYY-MM or YYYY. A
    text that is not of the form is normalised as words.
    """
    text = _strip(text[:_MAX_CHARS])
    if form == "yesno":
        return _yes_or_no(text) or _words(text)
    if form == "date":
        return _date(text) or _words(text)
    if form == "name":
        return _name(text)
    return _words(text)


def equal_texts(first: str, second: str, form: TextForm = "words") -> bool:
    """Whether two short texts are the same answer by their normal forms."""
    a, b = normalize(first, form), normalize(second, form)
    if a == b:
        return bool(a) or first.strip() == second.strip()
    return form == "name" and _same_name(a.split(), b.split())


def group_texts(task: TextTask, texts: Sequence[str]) -> list[int]:
    """The class of each text, numbered from 0 in order of first appearance."""
    first: list[str] = []
    groups: list[int] = []
    for text in texts:
        found = (i for i, other in enumerate(first) if equal_texts(text, other, task.form))
        group = next(found, len(first))
        if group == len(first):
            first.append(text)
        groups.append(group)
    return groups


def _strip(text: str) -> str:
    """The text without markup and without what frames an answer."""
    text = re.sub(r"\\(?:text|textbf|mathrm|boxed)\{([^{}]*)\}", r"\1", text)
    text = text.replace("**", "").replace("\\ ", " ").strip(" \t\n$`\"'“”‘’")
    return text.rstrip(".!;:")


def _words(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in folded if not unicodedata.combining(c))
    plain = _THOUSANDS.sub("", plain)
    words = " ".join(_NOT_WORD.sub(" ", plain.replace("'", "").replace("’", "")).split())
    return _ARTICLE.sub("", words) or " ".join(plain.split())


def _yes_or_no(text: str) -> str | None:
    """ "yes" or "no" if the text begins with one; None for any other text."""
    words = _words(text).split()
    found = [word for word in words if word in _YES or word in _NO]
    if words and words[0] in _YES | _NO:
        return "yes" if words[0] in _YES else "no"
    kinds = {word in _YES for word in found if word in ("yes", "no", "true", "false")}
    return None if len(kinds) != 1 else "yes" if kinds.pop() else "no"


def _name(text: str) -> str:
    family, comma, given = text.partition(",")
    if comma and given.strip() and "," not in given:
        text = f"{given} {family}"
    words = [word for word in _words(text).split() if word not in _TITLES]
    return " ".join(words)


def _same_name(a: list[str], b: list[str]) -> bool:
    """Whether two names have the same family name and given names, initials allowed.

    "J. R. Tolkien" equals "John Ronald Tolkien"; a family name alone equals no longer name.
    """
    if len(a) < 2 or len(a) != len(b) or a[-1] != b[-1]:
        return False
    pairs = zip(a[:-1], b[:-1], strict=True)
    return all(x == y or (1 in (len(x), len(y)) and x[0] == y[0]) for x, y in pairs)


def _date(text: str) -> str | None:
    """The date in ISO 8601; None if the text is not one. Day and month as numbers only are read
    as ISO dates, or where one of them is above 12."""
    words = _ORDINAL.sub(r"\1", text.casefold().replace(",", " ").replace(".", " "))
    words = re.sub(r"\b(?:the|of|on|in|monday|tuesday|wednesday|thursday|friday|saturday|sunday)\b",
                   " ", words)  # fmt: skip
    parts = re.split(r"[\s/\-]+", words.strip())
    months = [_MONTHS[part] for part in parts if part in _MONTHS]
    numbers = [int(part) for part in parts if part.isdecimal() and len(part) <= 4]
    if len(months) + len(numbers) != len(parts) or len(months) > 1:
        return None
    return _assemble(parts, months, numbers)


def _assemble(parts: list[str], months: list[int], numbers: list[int]) -> str | None:
    """A date of at most three parts, in ISO 8601."""
    years = [n for n, part in zip(numbers, (p for p in parts if p.isdecimal()), strict=True)
             if len(part) >= 3 or n > 31]  # fmt: skip
    if len(years) != 1:
        return None
    year = years[0]
    rest = [n for n in numbers if n != year] if numbers.count(year) == 1 else [year]
    if not months and not rest:
        return f"{year:04}"
    if not months:
        if len(rest) == 1:
            return f"{year:04}-{rest[0]:02}" if 1 <= rest[0] <= 12 else None
        if len(rest) != 2:
            return None
        first, second = rest
        iso = parts[0].isdecimal() and int(parts[0]) == year
        if not iso and first <= 12 and second <= 12 and first != second:
            return None
        month, day = (first, second) if iso or second > 12 else (second, first)
    else:
        if not rest:
            return f"{year:04}-{months[0]:02}"
        if len(rest) != 1:
            return None
        month, day = months[0], rest[0]
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return None
