"""The caps that stand before every reader of untrusted text, and the refusal they end in."""

MAX_PROSE_CHARS = 4_000_000
"""Longest text that `extract_answer` looks through; the tail of a longer one is used."""
MAX_ANSWER_CHARS = 3000
"""Longest answer that is read as mathematics; longer ones are only compared as text."""
MAX_DEPTH = 32
"""Deepest nesting of brackets, fractions, roots and powers."""
MAX_DIGITS = 1000
"""Most digits of one number."""
MAX_BITS = 40_000
"""Largest numerator or denominator, in bits, that exact arithmetic builds."""
MAX_EXPONENT = 10**15
"""Largest absolute exponent that is evaluated at all."""
MAX_FACTORIAL = 2000
"""Largest argument of a factorial or binomial that is evaluated."""
MAX_ITEMS = 200
"""Most members of one list, set or matrix."""


class Refused(Exception):
    """The text is beyond a cap; the message is the reason a person is given."""


class Unreadable(Exception):
    """The text is no mathematics that the reader knows."""


class Undecided(Exception):
    """Exact arithmetic alone cannot tell; the symbolic engine has to be asked."""
