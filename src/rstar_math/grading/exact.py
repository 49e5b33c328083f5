"""Computes exact rational values of bounded size, residues of larger ones, and rough values."""

import cmath
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, gcd, isqrt, lcm

from rstar_math.grading.nodes import (
    MAX_BITS,
    MAX_EXPONENT,
    MAX_FACTORIAL,
    LimitExceeded,
    Node,
    Num,
    Operation,
    Sym,
)

_PRIMES = (2**61 - 1, 2**89 - 1, 2**107 - 1)
"""Moduli of the residues. Different values agree in all three with probability < 2^-200."""


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


def equal_residues(left: Node, right: Node) -> bool | None:
    """Whether two rational expressions are equal, even if their values are too large to compute.

    Each is evaluated modulo three Mersenne primes, so 9^{9^9} takes as long as 9^9. None if either
    has no residue. Raises `LimitExceeded` for an exponent above the limit.
    """
    try:
        for prime in _PRIMES:
            a, b = _residue(left, prime), _residue(right, prime)
            if a is None or b is None:
                return None
            if a != b:
                return False
    except ValueError:  # The prime divides a denominator.
        return None
    return True


_WITH_RESIDUE = frozenset(("add", "mul", "div", "neg", "pow", "fact"))
MAX_MODULAR_FACTORIAL = 10**6
"""Largest argument of a factorial that is computed modulo the primes; it takes half a second."""


@lru_cache(maxsize=64)
def _factorial_residues(number: int) -> int:
    """The factorial modulo the product of the three primes."""
    modulus = _PRIMES[0] * _PRIMES[1] * _PRIMES[2]
    result = 1
    for factor in range(2, number + 1):
        result = result * factor % modulus
    return result


def _residue(node: Node, prime: int) -> int | None:
    if isinstance(node, Num):
        if not node.exact:
            return None
        return node.value.numerator * pow(node.value.denominator, -1, prime) % prime
    if not isinstance(node, Operation) or node.name not in _WITH_RESIDUE:
        return None
    if node.name == "fact":
        number = rational_value(node.args[0])
        if number is None or number.value.denominator != 1 or number.value < 0:
            return None
        if number.value > MAX_MODULAR_FACTORIAL:
            raise LimitExceeded("A factorial is too large.")
        return _factorial_residues(number.value.numerator) % prime
    if node.name == "pow":
        base, exponent = _residue(node.args[0], prime), rational_value(node.args[1])
        if base is None or exponent is None or exponent.value.denominator != 1:
            return None
        if abs(exponent.value) > MAX_EXPONENT:
            raise LimitExceeded("An exponent is too large.")
        return pow(base, exponent.value.numerator, prime)
    args = [_residue(arg, prime) for arg in node.args]
    total = 0 if node.name == "add" else 1
    for index, arg in enumerate(args):
        if arg is None:
            return None
        if node.name == "add":
            total += arg
        elif node.name == "neg":
            total = -arg
        else:
            total *= pow(arg, -1, prime) if node.name == "div" and index else arg
        total %= prime
    return total


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
