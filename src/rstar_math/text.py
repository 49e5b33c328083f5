"""Makes text from models, servers and files safe to display and to store, and writes counts."""

import re

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Terminal control characters, Unicode direction overrides, line separators and surrogates."""


def sanitize(text: str) -> str:
    """Return the text with each unsafe character replaced by U+FFFD.

    Unsafe are terminal control characters other than tab and newline, Unicode direction marks and
    overrides, Unicode line separators and lone surrogates.
    """
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def replace_surrogates(text: str) -> str:
    """Return the text with each lone surrogate replaced by U+FFFD, so that UTF-8 can encode it."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def count_noun(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 problem" or "1,200 problems"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
