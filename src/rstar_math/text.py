"""Text from models, servers and files, made safe to show."""

import re

_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that steer a terminal, turn the direction of text or are no text at all."""


def sanitize(text: str) -> str:
    """The text with every character that could do more than be read as a replacement sign."""
    return _HARMFUL.sub("\N{REPLACEMENT CHARACTER}", text)


def replace_surrogates(text: str) -> str:
    """The text with lone surrogates, which no file or request can hold, as replacement signs."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
