"""Decides whether two expressions with variables, roots, pi, e and i are equal, without rounding.

An expression is evaluated modulo large primes. Each variable, pi and e is one fixed random number,
i is a root of -1, and the square root of each prime below 100 is one of its roots. This is a ring
homomorphism: equal expressions have equal residues, and different ones agree with a probability of
about 2^-250 (Schwartz-Zippel). Both primes are 1 modulo 8 and modulo every odd prime below 100, so
that all these roots exist.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

from rstar_math.grading.exact import rational_value
from rstar_math.grading.nodes import (
    MAX_EXPONENT,
    MAX_FACTORIAL,
    LimitExceeded,
    Node,
    Num,
    Operation,
    Sym,
)

_PRIMES = (
    37829759152418066313348900033419453596561,
    37885092783552758755542974484955415742241,
)
_SMALL_PRIMES = (
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
)  # fmt: skip
_MAX_RADICAND_BITS = 256
MAX_MODULAR_FACTORIAL = 10**6
"""Largest argument of a factorial that is computed modulo the primes; it takes half a second."""
_ARITHMETIC = frozenset(("add", "mul", "div", "neg", "deg"))


@dataclass(frozen=True, slots=True)
class _Field:
    """Residues modulo a prime, with fixed random values of the variables."""

    prime: int
    max_factorial: int
    seed: int = 0


def equal_residues(left: Node, right: Node, *, max_factorial: int | None = None) -> bool | None:
    """Whether two expressions are equal, even if their values are too large to compute.

    None if either contains another function, a root that is not known here, or a factorial above
    `max_factorial`. Raises `LimitExceeded` for an exponent or a factorial above the limit.
    """
    limit = MAX_MODULAR_FACTORIAL if max_factorial is None else max_factorial
    try:
        for prime in _PRIMES:
            a, b = (_residue(side, _Field(prime, limit)) for side in (left, right))
            if a is None or b is None:
                return None
            if a != b:
                return False
    except ValueError:  # The prime divides a denominator.
        return None
    return True


def have_constant_ratio(left: Node, right: Node) -> bool | None:
    """Whether one expression is a constant multiple of the other. None as in `equal_residues`."""
    try:
        for prime in _PRIMES:
            fields = [_Field(prime, MAX_FACTORIAL, seed) for seed in (0, 1)]
            a, b, c, d = (_residue(side, f) for side in (left, right) for f in fields)
            if a is None or b is None or c is None or d is None:
                return None
            if (a * d - b * c) % prime:
                return False
    except ValueError:
        return None
    return True


def _residue(node: Node, field: _Field) -> int | None:
    if isinstance(node, Num):
        return _number(node, field.prime)
    if isinstance(node, Sym):
        return _random_residue(f"variable {node.name} {field.seed}", field.prime)
    if not isinstance(node, Operation):
        return None
    if not node.args:
        return _constant(node.name, field.prime)
    if node.name == "fact":
        return _factorial(node.args[0], field)
    if node.name in ("pow", "root"):
        return _power(node, field)
    if node.name not in _ARITHMETIC:
        return None
    args = []
    for arg in node.args:
        residue = _residue(arg, field)
        if residue is None:
            return None
        args.append(residue)
    return _apply(node.name, args, field.prime)


def _apply(name: str, args: list[int], prime: int) -> int:
    if name == "add":
        return sum(args) % prime
    if name == "neg":
        return -args[0] % prime
    if name == "deg":
        return args[0]
    product = args[0]
    for arg in args[1:]:
        product = product * (pow(arg, -1, prime) if name == "div" else arg) % prime
    return product


def _number(node: Num, prime: int) -> int | None:
    if not node.exact:
        return None
    return node.value.numerator * pow(node.value.denominator, -1, prime) % prime


def _constant(name: str, prime: int) -> int | None:
    if name == "i":
        return _square_root(-1, prime)
    return _random_residue(f"constant {name}", prime) if name in ("pi", "e") else None


@lru_cache(maxsize=512)
def _random_residue(name: str, prime: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()) % prime


def _factorial(argument: Node, field: _Field) -> int | None:
    number = rational_value(argument)
    if number is None or number.value.denominator != 1 or number.value < 0:
        return None
    if number.value > MAX_MODULAR_FACTORIAL:
        raise LimitExceeded("A factorial is too large.")
    if number.value > field.max_factorial:
        return None
    return _factorial_residue(number.value.numerator) % field.prime


@lru_cache(maxsize=64)
def _factorial_residue(number: int) -> int:
    """The factorial modulo the product of the primes."""
    modulus = _PRIMES[0] * _PRIMES[1]
    result = 1
    for factor in range(2, number + 1):
        result = result * factor % modulus
    return result


def _power(node: Operation, field: _Field) -> int | None:
    """The residue of a power whose exponent is a multiple of 1/2."""
    given = rational_value(node.args[1])
    if given is None or not given.exact or given.value == 0:
        return None
    exponent = given.value if node.name == "pow" else 1 / given.value
    if abs(exponent) > MAX_EXPONENT:
        raise LimitExceeded("An exponent is too large.")
    if exponent.denominator == 2:
        base = _root_of_number(node.args[0], field.prime)
    elif exponent.denominator == 1:
        base = _residue(node.args[0], field)
    else:
        return None
    return None if base is None else pow(base, exponent.numerator, field.prime)


def _root_of_number(radicand: Node, prime: int) -> int | None:
    """The square root of a rational number; None if a prime above 100 remains under the root."""
    number = rational_value(radicand)
    if number is None or not number.exact:
        return None
    top, bottom = number.value.numerator, number.value.denominator
    if (top * bottom).bit_length() > _MAX_RADICAND_BITS:
        return None
    root = _square_root(top * bottom, prime)
    return None if root is None else root * pow(bottom, -1, prime) % prime


@lru_cache(maxsize=2048)
def _square_root(number: int, prime: int) -> int | None:
    """The residue of the square root, as a product of roots of primes and of -1."""
    root, rest = 1, abs(number)
    if number == 0:
        return 0
    if number < 0:
        root = _prime_root(-1, prime)
    for small in _SMALL_PRIMES:
        while rest % small == 0:
            rest //= small
            if rest % small == 0:
                rest //= small
                root = root * small % prime
            else:
                root = root * _prime_root(small, prime) % prime
    whole = _integer_square_root(rest)
    return None if whole is None else root * whole % prime


def _integer_square_root(number: int) -> int | None:
    root = isqrt(number)
    return root if root * root == number else None


@lru_cache(maxsize=64)
def _prime_root(number: int, prime: int) -> int:
    """One of the two square roots modulo the prime (Tonelli and Shanks)."""
    odd, twos = prime - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    generator = next(g for g in range(2, 1000) if pow(g, (prime - 1) // 2, prime) != 1)
    step = pow(generator, odd, prime)
    root, rest = pow(number, (odd + 1) // 2, prime), pow(number, odd, prime)
    while rest != 1:
        order, power = 0, rest
        while power != 1:
            power, order = power * power % prime, order + 1
        factor = pow(step, 1 << (twos - order - 1), prime)
        root = root * factor % prime
        step = factor * factor % prime
        rest, twos = rest * step % prime, order
    return root
