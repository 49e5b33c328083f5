"""Rough values in double precision, for order and for ruling out; never for deciding equality."""

import cmath
import math
from collections.abc import Callable, Mapping

from rstar_math.grading.nodes import Node, Num, Op, Sym

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
    """A value to about 10 digits, or None where there is none: a free variable, an overflow, a
    pole, a function that is not known here."""
    try:
        found = _value(node, variables or {})
    except (ArithmeticError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return None if cmath.isnan(found) else found


def real(node: Node) -> float | None:
    """The rough value of a real constant, perhaps infinite, or None."""
    found = approximate(node)
    if found is None or abs(found.imag) > 1e-9 * max(1.0, abs(found.real)):
        return None
    return found.real


def _value(node: Node, variables: Mapping[str, complex]) -> complex:
    if isinstance(node, Num):
        return complex(float(node.value))
    if isinstance(node, Sym):
        return variables[node.name]
    if not isinstance(node, Op):
        raise TypeError
    if not node.args:
        return _CONSTANTS[node.name]
    if node.name == "neg" and isinstance(node.args[0], Op) and node.args[0].name == "inf":
        return complex(-math.inf)
    args = [_value(arg, variables) for arg in node.args]
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
