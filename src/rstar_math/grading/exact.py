"""Computes exact rational values of bounded size, and rough values."""

import cmath
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, gcd, isqrt, lcm

from rstar_math.grading.nodes import (
    MAX_BITS,
    MAX_FACTORIAL,
    Node,
    Num,
    Operation,
    Sym,
)


def rational_value(node: Node) -> Num | None:
    """The rational value of a node, or None if it has none within the limits."""
    if isinstance(node, Num):
        return node
    if isinstance(node, Operation) and node.args and node.name in _OPERATIONS:
        return _operation(node)
    return None


@lru_cache(maxsize=4096)
def _operation(node: Operation) -> Num | None:
    args = [rational_value(arg) for arg in node.args]
    known = [arg for arg in args if arg is not None]
    if len(known) < len(args):
        return None
    try:
        result = _apply(node.name, [arg.value for arg in known])
    except (ZeroDivisionError, ValueError, OverflowError):
        return None
    if result is None or result.numerator.bit_length() + result.denominator.bit_length() > MAX_BITS:
        return None
    return Num(result, all(arg.exact for arg in known))


_OPERATIONS = frozenset((
    "add", "mul", "div", "neg", "pow", "root", "abs", "floor", "ceil", "deg", "fact", "binom",
    "gcd", "lcm", "max", "min", "sign",
))  # fmt: skip


def _apply(name: str, args: list[Fraction]) -> Fraction | None:
    first = args[0]
    if name == "add":
        return sum(args, Fraction(0))
    if name == "mul":
        return _multiply(args)
    if name == "div":
        return first / args[1]
    if name == "pow":
        return _power(first, args[1])
    if name == "root":
        return _power(first, 1 / args[1])
    if name in ("neg", "abs", "deg", "sign"):
        sign = (first > 0) - (first < 0)
        return {"neg": -first, "abs": abs(first), "deg": first, "sign": Fraction(sign)}[name]
    if name in ("max", "min"):
        return max(args) if name == "max" else min(args)
    if name in ("floor", "ceil"):
        return Fraction(first.__floor__() if name == "floor" else first.__ceil__())
    return _integer_function(name, args)


def _multiply(args: list[Fraction]) -> Fraction | None:
    product = Fraction(1)
    for arg in args:
        product *= arg
        if product.numerator.bit_length() + product.denominator.bit_length() > MAX_BITS:
            return None
    return product


def _integer_function(name: str, args: list[Fraction]) -> Fraction | None:
    """The value of gcd, lcm, a factorial or a binomial; None if an argument does not fit."""
    if any(arg.denominator != 1 for arg in args):
        return None
    integers = [arg.numerator for arg in args]
    if name == "gcd":
        return Fraction(gcd(*integers))
    if name == "lcm":
        return Fraction(lcm(*integers))
    if not 0 <= integers[0] <= MAX_FACTORIAL:
        return None
    if name == "fact":
        return Fraction(factorial(integers[0]))
    return Fraction(comb(integers[0], integers[1])) if integers[1] >= 0 else None


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    """The power, or None if it is irrational, undefined or too large."""
    if base == 0:
        return Fraction(0) if exponent > 0 else None
    if base == 1:
        return base
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size * abs(exponent) > MAX_BITS or exponent.denominator > 64:
        return None
    if exponent.denominator == 1:
        return base**exponent.numerator
    if base < 0:
        return None
    top = _integer_root(base.numerator, exponent.denominator)
    bottom = _integer_root(base.denominator, exponent.denominator)
    if top is None or bottom is None:
        return None
    return Fraction(top, bottom) ** exponent.numerator


def _integer_root(number: int, index: int) -> int | None:
    """The integer root of a number, or None if there is none."""
    if index == 2:
        root = isqrt(number)
        return root if root * root == number else None
    low, high = 0, 1 << (number.bit_length() // index + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**index < number:
            low = middle + 1
        else:
            high = middle
    return low if low**index == number else None


def equal_numbers(a: Num, b: Num) -> bool:
    """Whether two numbers are equal: exactly, or within 1e-6 relative if either is inexact."""
    if a.value == b.value:
        return True
    if a.exact and b.exact:
        return False
    return abs(a.value - b.value) * 10**6 <= max(abs(a.value), abs(b.value))


_UNARY: Mapping[str, Callable[[complex], complex]] = {
    "neg": lambda z: -z, "deg": lambda z: z, "abs": lambda z: complex(abs(z)), "ln": cmath.log,
    "log": cmath.log, "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan,
    "cot": lambda z: 1 / cmath.tan(z), "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z), "asin": cmath.asin, "acos": cmath.acos, "atan": cmath.atan,
    "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh, "asinh": cmath.asinh,
    "acosh": cmath.acosh, "atanh": cmath.atanh,
    "floor": lambda z: complex(math.floor(z.real + 1e-9)),
    "ceil": lambda z: complex(math.ceil(z.real - 1e-9)),
}  # fmt: skip
_CONSTANTS = {"pi": complex(math.pi), "e": complex(math.e), "i": 1j, "inf": complex(math.inf)}


def approximate(node: Node, variables: Mapping[str, complex] | None = None) -> complex | None:
    """The value to about 10 digits.

    None for a free variable, an overflow, a pole or an unsupported function.
    """
    try:
        result = _evaluate(node, variables or {})
    except (ArithmeticError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return None if cmath.isnan(result) else result


def approximate_real(node: Node) -> float | None:
    """The approximate value of a real constant, possibly infinite. None for other nodes."""
    result = approximate(node)
    if result is None or abs(result.imag) > 1e-9 * max(1.0, abs(result.real)):
        return None
    return result.real


def _evaluate(node: Node, variables: Mapping[str, complex]) -> complex:
    if isinstance(node, Num):
        return complex(float(node.value))
    if isinstance(node, Sym):
        return variables[node.name]
    if not isinstance(node, Operation):
        raise TypeError
    if not node.args:
        return _CONSTANTS[node.name]
    if node.name == "neg" and isinstance(node.args[0], Operation) and node.args[0].name == "inf":
        return complex(-math.inf)
    args = [_evaluate(arg, variables) for arg in node.args]
    if node.name == "add":
        return sum(args)
    if node.name == "mul":
        return (
            math.prod(args, start=1 + 0j) if math.inf not in map(abs, args) else args[0] * args[-1]
        )
    if node.name == "div":
        return args[0] / args[1]
    if node.name in ("pow", "root"):
        exponent = args[1] if node.name == "pow" else 1 / args[1]
        if node.name == "root" and args[0].imag == 0 and args[0].real < 0 and args[1].real % 2 == 1:
            return -((-args[0]) ** exponent)
        return complex(args[0] ** exponent)
    if node.name == "fact":
        return complex(math.gamma(args[0].real + 1))
    return _UNARY[node.name](args[0])


_SAFE = frozenset((
    "add", "mul", "div", "neg", "deg", "abs", "pow", "root", "ln", "sin", "cos", "tan", "atan",
))  # fmt: skip
_MAX_SAFE_VALUE = 1e8
_MAX_SAFE_POWER = 100


def differ_clearly(left: Node, right: Node) -> bool:
    """Whether two constants certainly have different values.

    False if they may be equal, or if their rough values cannot be trusted: with functions, powers
    or intermediate values that magnify rounding errors.
    """
    try:
        (a, a_scale), (b, b_scale) = _trusted_value(left), _trusted_value(right)
    except (ArithmeticError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return abs(a - b) > 1e-4 * max(a_scale, b_scale)


def _trusted_value(node: Node) -> tuple[complex, float]:
    """The value of a constant, and the largest absolute value that occurred on the way.

    Raises `ValueError` if the value cannot be trusted to 8 digits of the latter, and what
    `_evaluate` raises.
    """
    if isinstance(node, Operation) and node.args and node.name not in _SAFE:
        raise ValueError
    if not isinstance(node, Operation) or not node.args:
        value, scale = _evaluate(node, {}), 0.0
    else:
        parts = [_trusted_value(arg) for arg in node.args]
        scale = max(size for _, size in parts)
        first = abs(parts[0][0])
        if node.name in ("pow", "root", "ln") and first < 1e-6 * scale:
            raise ValueError
        if node.name in ("pow", "root") and abs(parts[1][0]) > _MAX_SAFE_POWER:
            raise ValueError
        if node.name == "div" and abs(parts[1][0]) < 1e-6 * scale:
            raise ValueError
        numbers = [Sym(str(index)) for index in range(len(parts))]
        known = {str(index): part for index, (part, _) in enumerate(parts)}
        value = _evaluate(Operation(node.name, tuple(numbers)), known)
    scale = max(scale, abs(value))
    if not scale < _MAX_SAFE_VALUE:
        raise ValueError
    return value, scale
