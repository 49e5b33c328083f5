"""Compares scalars numerically; runs in the worker process."""

from collections.abc import Callable, Mapping
from fractions import Fraction

import mpmath
from mpmath import mp, mpc, mpf

from rstar_math.grading import exact
from rstar_math.grading.nodes import (
    MAX_EXPONENT,
    MAX_FACTORIAL,
    LimitExceeded,
    Node,
    Num,
    Operation,
    ParseError,
    Sym,
    contains_operation,
    symbols,
)
from rstar_math.grading.residues import equal_residues
from rstar_math.grading.rules import (
    UNREADABLE,
    UNREADABLE_REFERENCE,
    Grade,
    extract_core,
    grade_pair,
    parse_answer,
    unknown,
)

DIGITS = 60
"""Decimal digits of the arithmetic."""
_RELATIVE_TOLERANCE = mpf(10) ** -30
"""Relative tolerance between equal values."""
_ROUNDING_TOLERANCE = mpf(10) ** -45
"""Tolerance for rounding errors, relative to the largest term of a sum."""
_DECIMAL_TOLERANCE = mpf(10) ** -6
"""Relative tolerance if an expression contains a rounded decimal."""
_POINT_COUNT = 14
"""Number of points at which expressions with variables are evaluated."""
_MIN_REAL_POINTS = 5
"""Number of points with real values at which equal expressions must agree."""
_MAX_MAGNITUDE = 10**7
"""Largest absolute logarithm of a computed power."""
mp.dps = DIGITS


class NoValue(Exception):
    """An expression has no value at a point, or none that can be computed here."""


class NumericScalars:
    """Compares scalars by their exact values if they have them, else numerically."""

    def equal(self, a: Node, b: Node) -> bool:
        """Whether two scalars are equal: to 30 digits, or to 6 for rounded decimals.

        Raises `NoValue` if they have no values to compare, `LimitExceeded` above a limit.
        """
        x, y = exact.rational_value(a), exact.rational_value(b)
        if x is not None and y is not None:
            return exact.equal_numbers(x, y)
        same = equal_residues(a, b)
        if same is not None:
            return same
        approximate = _has_decimal(a) or _has_decimal(b)
        verdicts = [
            _equal_at_points(_with_log(a, name), _with_log(b, name), approximate)
            for name in _log_interpretations(a, b)
        ]
        return any(verdicts)

    def ratio_sign(self, a: Node, b: Node) -> int:
        """The sign of a / b if the quotient is a real constant other than 0, else 0."""
        names = sorted(symbols(a) | symbols(b))
        quotients = []
        for point in _sample_points(names):
            left, right = _evaluate_at(a, point), _evaluate_at(b, point)
            if (
                left is None
                or right is None
                or right.value == 0
                or not (_is_real(left) and _is_real(right))
            ):
                continue
            quotients.append(left.value / right.value)
            if abs(quotients[-1] - quotients[0]) > _RELATIVE_TOLERANCE * abs(quotients[0]):
                return 0
        if len(quotients) < 3 or quotients[0] == 0:
            return 0
        return 1 if quotients[0].real > 0 else -1


class _ScaledValue:
    """A value, and the largest term of the sums in it, which bounds its rounding error."""

    __slots__ = ("scale", "value")

    def __init__(self, value: mpc, scale: mpf) -> None:
        self.value = value
        self.scale = scale


def _equal_at_points(a: Node, b: Node, approximate: bool) -> bool:
    """Whether two scalars have equal values at the sample points where both are real."""
    names = sorted(symbols(a) | symbols(b))
    if not names:
        return _is_close(_evaluate(a, {}), _evaluate(b, {}), approximate)
    agreed = 0
    complex_valued = contains_operation(a, frozenset("i")) or contains_operation(b, frozenset("i"))
    for point in _sample_points(names):
        left, right = _evaluate_at(a, point), _evaluate_at(b, point)
        if (
            left is None
            or right is None
            or not (complex_valued or (_is_real(left) and _is_real(right)))
        ):
            continue
        if not _is_close(left, right, approximate):
            return False
        agreed += 1
    if agreed >= _MIN_REAL_POINTS:
        return True
    return _equal_at_other_points(a, b, names, approximate)


def _equal_at_other_points(a: Node, b: Node, names: list[str], approximate: bool) -> bool:
    """Whether two scalars agree at integers, or else at complex values.

    For expressions such as (-1)^n, and those without real values. Raises `NoValue` if there are
    too few values.
    """
    for points in (_integer_points(names), _sample_points(names)):
        agreed = 0
        for point in points:
            left, right = _evaluate_at(a, point), _evaluate_at(b, point)
            if left is None or right is None:
                continue
            if not _is_close(left, right, approximate):
                return False
            agreed += 1
        if agreed >= 3:
            return True
    raise NoValue("there are too few points at which both have a value")


def _sample_points(names: list[str]) -> list[dict[str, mpf]]:
    """Fixed sample points: first with positive coordinates, then also with negative ones."""
    points = []
    for k in range(_POINT_COUNT):
        point = {}
        for index, name in enumerate(names):
            fraction = mp.frac(mp.sqrt(2 + 3 * index) * (7 * k + 3) + mp.sqrt(11) * index)
            size = mpf("0.15") + fraction * (mpf("0.8") if k % 2 else mpf("3.1"))
            negative = k >= 6 and (k + index) % 2 == 0
            point[name] = -size if negative else size
        points.append(point)
    return points


def _integer_points(names: list[str]) -> list[dict[str, mpf]]:
    """Fixed sample points with positive integer coordinates."""
    return [
        {name: mpf(2 + (3 * k + 5 * index + k * index) % 11) for index, name in enumerate(names)}
        for k in range(8)
    ]


def _evaluate_at(node: Node, point: Mapping[str, mpf]) -> _ScaledValue | None:
    try:
        return _evaluate(node, point)
    except NoValue:
        return None


def _is_real(result: _ScaledValue) -> bool:
    return bool(
        abs(result.value.imag)
        <= _ROUNDING_TOLERANCE * max(abs(result.value.real), result.scale, mpf(1))
    )


def _is_close(a: _ScaledValue, b: _ScaledValue, approximate: bool) -> bool:
    gap = abs(a.value - b.value)
    size = max(abs(a.value), abs(b.value))
    if mp.isinf(size):
        return bool(a.value == b.value)
    if gap <= _RELATIVE_TOLERANCE * size or gap <= _ROUNDING_TOLERANCE * max(a.scale, b.scale):
        return True
    return bool(approximate and gap <= _DECIMAL_TOLERANCE * size)


def _has_decimal(node: Node) -> bool:
    if isinstance(node, Num):
        return not node.exact
    return isinstance(node, Operation) and any(_has_decimal(arg) for arg in node.args)


def _log_interpretations(a: Node, b: Node) -> tuple[str, ...]:
    """The functions that "log" may mean: it has base e or 10. Agreement in either is enough."""
    names = frozenset(("log",))
    return ("ln", "lg") if contains_operation(a, names) or contains_operation(b, names) else ("ln",)


def _with_log(node: Node, name: str) -> Node:
    """The node with "log" replaced by the natural ("ln") or decimal ("lg") logarithm."""
    if not isinstance(node, Operation):
        return node
    args = tuple(_with_log(arg, name) for arg in node.args)
    if node.name != "log":
        return Operation(node.name, args)
    if name == "ln":
        return Operation("ln", args)
    return Operation("div", (Operation("ln", args), Operation("ln", (Num(Fraction(10)),))))


def _evaluate(node: Node, point: Mapping[str, mpf]) -> _ScaledValue:
    """The value at a point. Raises `NoValue` or `LimitExceeded`."""
    try:
        result = _compute(node, point)
    except (
        ZeroDivisionError,
        ValueError,
        OverflowError,
        KeyError,
        mpmath.libmp.NoConvergence,
    ) as error:
        raise NoValue(str(error)) from error
    if mp.isnan(result.value):
        raise NoValue("not a number")
    return result


def _compute(node: Node, point: Mapping[str, mpf]) -> _ScaledValue:
    if isinstance(node, Num):
        return _ScaledValue(mpc(mpf(node.value.numerator) / node.value.denominator), mpf(0))
    if isinstance(node, Sym):
        return _ScaledValue(mpc(point[node.name]), mpf(0))
    if not isinstance(node, Operation):
        raise NoValue("not a number")
    if not node.args:
        return _ScaledValue(
            mpc({"pi": mp.pi, "e": mp.e, "i": 1j, "inf": mp.inf}[node.name]), mpf(0)
        )
    args = [_compute(arg, point) for arg in node.args]
    scale = max(arg.scale for arg in args)
    values = [arg.value for arg in args]
    if node.name == "add":
        return _ScaledValue(mp.fsum(values), max([scale, *map(abs, values)]))
    if node.name == "mul":
        product = mp.fprod(values)
        return _ScaledValue(mpc(product), _scaled(scale, args, product))
    if node.name == "div":
        quotient = values[0] / values[1]
        return _ScaledValue(quotient, _scaled(scale, args, quotient))
    if node.name in ("pow", "root"):
        return _ScaledValue(_power(node.name, *values), scale)
    if node.name in _FUNCTIONS:
        if mp.isfinite(values[0]) and abs(values[0]) > mpf(10) ** 18 and node.name in _PERIODIC:
            raise LimitExceeded("The argument of a function is too large.")
        return _ScaledValue(mpc(_FUNCTIONS[node.name](values[0])), max(scale, mpf(1)))
    return _ScaledValue(_integer_function(node.name, values), scale)


def _scaled(scale: mpf, args: list[_ScaledValue], result: mpc) -> mpf:
    """The largest term, scaled to the result, of a product or quotient of sums."""
    if scale == 0:
        return scale
    sizes = [arg.scale / abs(arg.value) for arg in args if arg.scale and abs(arg.value)]
    return max([scale if abs(result) == 0 else mpf(0), *[size * abs(result) for size in sizes]])


def _power(name: str, base: mpc, exponent: mpc) -> mpc:
    if name == "root":
        if (
            base.imag == 0
            and base.real < 0
            and exponent.imag == 0
            and mp.isint((exponent.real + 1) / 2)
        ):
            return -(mpc(-base) ** (1 / exponent))
        exponent = 1 / exponent
    if mp.isinf(abs(exponent)) or mp.isinf(abs(base)):
        raise NoValue("a power of infinity")
    if abs(exponent) > MAX_EXPONENT:
        raise LimitExceeded("An exponent is too large.")
    if base == 0:
        if exponent.real <= 0:
            raise NoValue("a power of zero that does not exist")
        return mpc(0)
    if base.imag == 0 and exponent.imag == 0 and (base.real > 0 or mp.isint(exponent.real)):
        if exponent.real == int(exponent.real):
            return mpc(base.real ** int(exponent.real))
        return mpc(mp.exp(exponent.real * mp.log(base.real)))
    if abs(exponent * mp.log(base)) > _MAX_MAGNITUDE:
        raise LimitExceeded("A power is too large.")
    return mpc(mp.exp(exponent * mp.log(base)))


def _integer_function(name: str, values: list[mpc]) -> mpc:
    if any(value.imag != 0 or abs(value.real) > MAX_FACTORIAL for value in values):
        raise NoValue("an argument above the limit")
    reals = [value.real for value in values]
    if name == "fact":
        return mpc(mp.factorial(reals[0]))
    if name == "binom":
        return mpc(mp.binomial(*reals))
    if name in ("max", "min"):
        return mpc(max(reals) if name == "max" else min(reals))
    raise NoValue(name)


_PERIODIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_FUNCTIONS: Mapping[str, Callable[[mpc], mpc]] = {
    "neg": lambda z: -z, "deg": lambda z: z, "abs": abs, "ln": mp.log, "log": mp.log,
    "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": mp.cot, "sec": mp.sec, "csc": mp.csc,
    "asin": mp.asin, "acos": mp.acos, "atan": mp.atan, "acot": mp.acot, "asec": mp.asec,
    "acsc": mp.acsc, "sinh": mp.sinh, "cosh": mp.cosh, "tanh": mp.tanh, "coth": mp.coth,
    "sech": mp.sech, "csch": mp.csch, "asinh": mp.asinh, "acosh": mp.acosh, "atanh": mp.atanh,
    "floor": mp.floor, "ceil": mp.ceil, "sign": mp.sign,
}  # fmt: skip


def grade_with_engine(pred: str, gold: str) -> Grade:
    """The grade of one pair. Time and memory are limited by the process, not here."""
    try:
        return grade_pair(pred, gold, NumericScalars())
    except ParseError:
        return UNREADABLE if _can_parse(extract_core(gold)) else UNREADABLE_REFERENCE
    except LimitExceeded as error:
        return unknown(str(error))
    except NoValue:
        return unknown("The expressions have no values to compare.")


def _can_parse(text: str) -> bool:
    try:
        parse_answer(text)
    except (ParseError, LimitExceeded):
        return False
    return True
