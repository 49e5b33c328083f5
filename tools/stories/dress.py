"""Varies the wording of a story without changing its content.

Sentences are joined, the last sentence becomes a condition of the question, an irrelevant sentence
is added, or small numbers are spelled out.
"""

import random
import re

NUMBERS = {
    2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine",
    10: "ten", 11: "eleven", 12: "twelve",
}  # fmt: skip
"""The numbers that can be spelled out."""
_IRRELEVANT = (
    "It was a quiet week.",
    "This happened last summer.",
    "It is raining today.",
    "The whole family was there.",
    "Everybody was in a good mood.",
    "School begins again tomorrow.",
    "The shop is around the corner.",
    "There was a lot to do.",
)
_LOWERCASE_IN_SENTENCE = (
    "He", "She", "It", "There", "Each", "Every", "In", "All", "Of", "A", "The", "Then", "After",
    "Now", "Today", "They", "For", "Half", "On", "Before", "So", "Later",
)  # fmt: skip
_SENTENCE_START = re.compile(r"(?:^|[.?] )[a-z]")
_NUMBER = re.compile(r"(?<![\d.])\d{1,2}(?![\d%.]\d|[\d%])")


def vary_wording(rng: random.Random, body: str, question: str) -> str:
    """A story and its question as one text, with random changes of the wording."""
    if rng.random() < 0.3:
        body = _join_sentences(body)
    if rng.random() < 0.12:
        body = f"{rng.choice(_IRRELEVANT)} {body}"
    if rng.random() < 0.3:
        body, question = _as_condition(body, question)
    text = f"{body} {question}".strip()
    return _spell_out(text) if rng.random() < 0.12 else text


def _join_sentences(body: str) -> str:
    """The body with its first two sentences joined: "Ann had 3 pens and lost 2."."""
    first, dot, rest = body.partition(". ")
    pronoun, _, words = rest.partition(" ")
    plain = " and " not in first and not set("',") & set(first)
    if dot and plain and pronoun in ("He", "She"):
        return f"{first} and {words}"
    return body


def _as_condition(body: str, question: str) -> tuple[str, str]:
    """The last sentence as a condition of the question: "If he lost 2, how many are left?"."""
    head, _, last = body.removesuffix(".").rpartition(". ")
    if "?" in last or "," in last or "?" in question[:-1] or ". " in question:
        return body, question
    return (f"{head}." if head else ""), f"If {_lower_first(last)}, {_lower_first(question)}"


def _lower_first(sentence: str) -> str:
    """The sentence with a lower-case first letter, unless it begins with a name."""
    first = sentence.split(" ", 1)[0]
    if first in _LOWERCASE_IN_SENTENCE or first == "How":
        return sentence[0].lower() + sentence[1:]
    return sentence


def _spell_out(text: str) -> str:
    """The text with numbers up to twelve spelled out."""
    spelled = _NUMBER.sub(lambda match: NUMBERS.get(int(match[0]), match[0]), text)
    return _SENTENCE_START.sub(lambda match: match[0].upper(), spelled)
