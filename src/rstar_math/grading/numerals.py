"""Numerals: decimal, scientific, repeating, hexadecimal, and in a base of their own."""

import string
from fractions import Fraction

from rstar_math.grading.limits import Refused, Unreadable
from rstar_math.grading.nodes import Num

_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_DIGITS = string.digits + string.ascii_lowercase


def number(text: str) -> Num:
    """The number that a numeral stands for, with a repeating part after "¦" if there is one."""
    if text[:2].lower() in ("0x", "0b", "0o"):
        return Num(Fraction(int(text, 0)))
    mantissa, _, exponent = text.lower().partition("e")
    mantissa, _, period = mantissa.partition("¦")
    if len(exponent) > 5:
        raise Refused("A number has too large an exponent.")
    value = Fraction(mantissa.rstrip(".") or "0")
    if period:
        places = len(mantissa.partition(".")[2])
        value += Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    if exponent:
        value *= Fraction(10) ** int(exponent)
    exact = bool(period) or "." not in mantissa or (not exponent and value.denominator == 1)
    return Num(value, exact)


def in_base(digits: str, text: str) -> Num:
    """The value of digits in the base that a subscript names. Raises `Unreadable` if they do not
    fit it."""
    radix = _BASE_WORDS.get(text, int(text) if text.isdigit() and len(text) < 3 else 0)
    whole, _, part = digits.lower().partition(".")
    if not 2 <= radix <= 36 or not (whole + part).isalnum():
        raise Unreadable
    value = 0
    for digit in whole + part:
        if digit not in _DIGITS or _DIGITS.index(digit) >= radix:
            raise Unreadable
        value = value * radix + _DIGITS.index(digit)
    return Num(Fraction(value, radix ** len(part)))
