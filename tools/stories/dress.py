"""The same story in other clothes: sentences joined, the last one made a condition of the question,
an idle beginning, small numbers as words."""

import random
import re

NUMBERS = {
    2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine",
    10: "ten", 11: "eleven", 12: "twelve",
}  # fmt: skip
"""Numbers that may be spelled out."""
_IDLE = (
    "It was a quiet week.",
    "This happened last summer.",
    "It is raining today.",
    "The whole family was there.",
    "Everybody was in a good mood.",
    "School begins again tomorrow.",
    "The shop is around the corner.",
    "There was a lot to do.",
)
_LOWERED = (
    "He", "She", "It", "There", "Each", "Every", "In", "All", "Of", "A", "The", "Then", "After",
    "Now", "Today", "They", "For", "Half", "On", "Before", "So", "Later",
)  # fmt: skip
_BEGINNING = re.compile(r"(?:^|[.?] )[a-z]")
_NUMBER = re.compile(r"(?<![\d.])\d{1,2}(?![\d%.]\d|[\d%])")


def dressed(rng: random.Random, body: str, question: str) -> str:
    """A story and its question as one text, told in one of many ways."""
    if rng.random() < 0.3:
        body = _joined(body)
    if rng.random() < 0.12:
        body = f"{rng.choice(_IDLE)} {body}"
    if rng.random() < 0.3:
        body, question = _conditional(body, question)
    text = f"{body} {question}".strip()
    return _in_words(text) if rng.random() < 0.12 else text


def _joined(body: str) -> str:
    """Two sentences of the same subject as one: "Ann had 3 pens and lost 2."."""
    first, dot, rest = body.partition(". ")
    pronoun, _, words = rest.partition(" ")
    plain = " and " not in first and not set("',") & set(first)
    if dot and plain and pronoun in ("He", "She"):
        return f"{first} and {words}"
    return body


def _conditional(body: str, question: str) -> tuple[str, str]:
    """The last sentence as a condition: "If he lost 2, how many are left?"."""
    head, _, last = body.removesuffix(".").rpartition(". ")
    if "?" in last or "," in last or "?" in question[:-1] or ". " in question:
        return body, question
    return (f"{head}." if head else ""), f"If {_lowered(last)}, {_lowered(question)}"


def _lowered(sentence: str) -> str:
    """A sentence within a sentence."""
    first = sentence.split(" ", 1)[0]
    if first in _LOWERED or first == "How":
        return sentence[0].lower() + sentence[1:]
    return sentence


def _in_words(text: str) -> str:
    """Numbers up to twelve spelled out."""
    found = _NUMBER.sub(lambda match: NUMBERS.get(int(match[0]), match[0]), text)
    return _BEGINNING.sub(lambda match: match[0].upper(), found)
