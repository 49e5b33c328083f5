"""Numeric comparison and math-verify, in the worker process."""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mp, mpc, mpf

from rstar_math.grading import exact
from rstar_math.grading.nodes import (
    MAX_EXPONENT,
    MAX_FACTORIAL,
    SCALARS,
    LimitExceeded,
    Node,
    Num,
    Operation,
    ParseError,
    Sym,
    symbols,
    uses,
)
from rstar_math.grading.normalize import clean
from rstar_math.grading.rules import (
    UNREADABLE,
    UNREADABLE_REFERENCE,
    Grade,
    extract_core,
    grade_pair,
    read,
    right,
    unknown,
    wrong,
)

DIGITS = 60
_AGREE = mpf(10) ** -30
_NOISE = mpf(10) ** -45
_PRINT = mpf(10) ** -6
_REAL_POINTS = 14
_ENOUGH = 5
_MAX_MAGNITUDE = 10**7
"""Largest logarithm of a value that is computed; also bounds the digits a sine has to reduce."""
mp.dps = DIGITS


class NoValue(Exception):
    """An expression has no value at a point, or none that is computed here."""


class Numbers:
    """Scalars compared by their exact values where they have them, else numerically."""

    def same(self, a: Node, b: Node) -> bool:
        """Whether two scalars are equal, exact ones to 30 digits, decimal prints to 1e-6
        relative."""
        left, right = exact.value(a), exact.value(b)
        if left is not None and right is not None:
            return exact.equal_numbers(left, right)
        if not (symbols(a) or symbols(b)):
            known = exact.same_residues(a, b)
            if known is not None:
                return known
        rough = _has_print(a) or _has_print(b)
        verdicts = [
            _same_under(_with_log(a, name), _with_log(b, name), rough)
            for name in _log_readings(a, b)
        ]
        return any(verdicts)

    def ratio(self, a: Node, b: Node) -> int:
        """The sign of a / b if that is one real constant other than 0, else 0."""
        names = sorted(symbols(a) | symbols(b))
        quotients = []
        for point in _points(names):
            left, right = _at(a, point), _at(b, point)
            if (
                left is None
                or right is None
                or right.value == 0
                or not (_real(left) and _real(right))
            ):
                continue
            quotients.append(left.value / right.value)
            if abs(quotients[-1] - quotients[0]) > _AGREE * abs(quotients[0]):
                return 0
        if len(quotients) < 3 or quotients[0] == 0:
            return 0
        return 1 if quotients[0].real > 0 else -1


class _Valued:
    """A value and the size of the terms it was summed from, which bounds its rounding error."""

    __slots__ = ("scale", "value")

    def __init__(self, value: mpc, scale: mpf) -> None:
        self.value = value
        self.scale = scale


def _same_under(a: Node, b: Node, rough: bool) -> bool:
    names = sorted(symbols(a) | symbols(b))
    if not names:
        return _close(_evaluate(a, {}), _evaluate(b, {}), rough)
    passed = 0
    unreal = uses(a, frozenset("i")) or uses(b, frozenset("i"))
    for point in _points(names):
        left, right = _at(a, point), _at(b, point)
        if left is None or right is None or not (unreal or (_real(left) and _real(right))):
            continue
        if not _close(left, right, rough):
            return False
        passed += 1
    if passed >= _ENOUGH:
        return True
    return _same_elsewhere(a, b, names, rough)


def _same_elsewhere(a: Node, b: Node, names: list[str], rough: bool) -> bool:
    """For expressions of whole numbers, such as (-1)^n, and those with no real value."""
    for points in (_whole_points(names), _points(names)):
        passed = 0
        for point in points:
            left, right = _at(a, point), _at(b, point)
            if left is None or right is None:
                continue
            if not _close(left, right, rough):
                return False
            passed += 1
        if passed >= 3:
            return True
    raise NoValue("no point at which both have a value")


def _points(names: list[str]) -> list[dict[str, mpf]]:
    """Fixed points: first positive coordinates, small and large, then of both signs."""
    points = []
    for k in range(_REAL_POINTS):
        point = {}
        for place, _name in enumerate(names):
            fraction = mp.frac(mp.sqrt(2 + 3 * place) * (7 * k + 3) + mp.sqrt(11) * place)
            size = mpf("0.15") + fraction * (mpf("0.8") if k % 2 else mpf("3.1"))
            negative = k >= 6 and (k + place) % 2 == 0
            point[names[place]] = -size if negative else size
        points.append(point)
    return points


def _whole_points(names: list[str]) -> list[dict[str, mpf]]:
    return [
        {name: mpf(2 + (3 * k + 5 * place + k * place) % 11) for place, name in enumerate(names)}
        for k in range(8)
    ]


def _at(node: Node, point: Mapping[str, mpf]) -> _Valued | None:
    try:
        return _evaluate(node, point)
    except NoValue:
        return None


def _real(valued: _Valued) -> bool:
    return bool(
        abs(valued.value.imag) <= _NOISE * max(abs(valued.value.real), valued.scale, mpf(1))
    )


def _close(a: _Valued, b: _Valued, rough: bool) -> bool:
    gap = abs(a.value - b.value)
    size = max(abs(a.value), abs(b.value))
    if mp.isinf(size):
        return bool(a.value == b.value)
    if gap <= _AGREE * size or gap <= _NOISE * max(a.scale, b.scale):
        return True
    return bool(rough and gap <= _PRINT * size)


def _has_print(node: Node) -> bool:
    if isinstance(node, Num):
        return not node.exact
    return isinstance(node, Operation) and any(_has_print(arg) for arg in node.args)


def _log_readings(a: Node, b: Node) -> tuple[str, ...]:
    """A logarithm without a base is natural or decimal: equal in either reading is equal."""
    return ("ln", "lg") if uses(a, frozenset(("log",))) or uses(b, frozenset(("log",))) else ("ln",)


def _with_log(node: Node, name: str) -> Node:
    if not isinstance(node, Operation):
        return node
    args = tuple(_with_log(arg, name) for arg in node.args)
    if node.name != "log":
        return Operation(node.name, args)
    if name == "ln":
        return Operation("ln", args)
    return Operation("div", (Operation("ln", args), Operation("ln", (Num(Fraction(10)),))))


def _evaluate(node: Node, point: Mapping[str, mpf]) -> _Valued:
    try:
        found = _value(node, point)
    except (
        ZeroDivisionError,
        ValueError,
        OverflowError,
        KeyError,
        mpmath.libmp.NoConvergence,
    ) as error:
        raise NoValue(str(error)) from error
    if mp.isnan(found.value):
        raise NoValue("not a number")
    return found


def _value(node: Node, point: Mapping[str, mpf]) -> _Valued:
    if isinstance(node, Num):
        return _Valued(mpc(mpf(node.value.numerator) / node.value.denominator), mpf(0))
    if isinstance(node, Sym):
        return _Valued(mpc(point[node.name]), mpf(0))
    if not isinstance(node, Operation):
        raise NoValue("not a number")
    if not node.args:
        return _Valued(mpc({"pi": mp.pi, "e": mp.e, "i": 1j, "inf": mp.inf}[node.name]), mpf(0))
    args = [_value(arg, point) for arg in node.args]
    scale = max(arg.scale for arg in args)
    values = [arg.value for arg in args]
    if node.name == "add":
        return _Valued(mp.fsum(values), max([scale, *map(abs, values)]))
    if node.name == "mul":
        product = mp.fprod(values)
        return _Valued(mpc(product), _scaled(scale, args, product))
    if node.name == "div":
        quotient = values[0] / values[1]
        return _Valued(quotient, _scaled(scale, args, quotient))
    if node.name in ("pow", "root"):
        return _Valued(_power(node.name, *values), scale)
    if node.name in _FUNCTIONS:
        if mp.isfinite(values[0]) and abs(values[0]) > mpf(10) ** 18 and node.name in _PERIODIC:
            raise LimitExceeded("The argument of a function is too large.")
        return _Valued(mpc(_FUNCTIONS[node.name](values[0])), max(scale, mpf(1)))
    return _Valued(_of_integers(node.name, values), scale)


def _scaled(scale: mpf, args: list[_Valued], result: mpc) -> mpf:
    """The rounding scale of a product or quotient of sums."""
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
            raise NoValue("no power of zero")
        return mpc(0)
    if base.imag == 0 and exponent.imag == 0 and (base.real > 0 or mp.isint(exponent.real)):
        if exponent.real == int(exponent.real):
            return mpc(base.real ** int(exponent.real))
        return mpc(mp.exp(exponent.real * mp.log(base.real)))
    if abs(exponent * mp.log(base)) > _MAX_MAGNITUDE:
        raise LimitExceeded("A power is too large.")
    return mpc(mp.exp(exponent * mp.log(base)))


def _of_integers(name: str, values: list[mpc]) -> mpc:
    if any(value.imag != 0 or abs(value.real) > MAX_FACTORIAL for value in values):
        raise NoValue("beyond the cap on factorials")
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
MATH_VERIFY_EQUAL = right("math-verify finds the two equal.")
MATH_VERIFY_DIFFERENT = wrong("math-verify finds the two different.")
_MAX_CHARS = 400
"""Longest answer that is handed to math-verify, whose parser takes time beyond linear."""
_DANGEROUS = re.compile(r"\d{30,}|\^\s*\{?\s*-?\d{4,}|\^[^+\-*/=,]{0,40}\^|!")
_KNOWN = re.compile(r"\\(?:int|iint|oint|sum|prod|lim)(?![a-zA-Z])")
"""What math-verify reads and our reader does not."""


def load() -> None:
    """Import the engines, so that no pair's time pays for it, and take `eval` away from them.

    latex2sympy2_extended (1.11) makes numbers by `sympy.Number(text)`, which ends in `parse_expr`
    and so in `eval`. Its method is replaced by one that reads digits and nothing else, and
    `parse_expr` by a refusal wherever it is known by name: a pair that would need it is UNKNOWN.
    """
    import math_verify.parser
    import sympy.parsing.sympy_parser
    from latex2sympy2_extended import latex2sympy2

    latex2sympy2._Latex2Sympy.parse_number = _number
    for module in (
        sympy,
        sympy.parsing,
        sympy.parsing.sympy_parser,
        math_verify.parser,
        latex2sympy2,
    ):
        module.parse_expr = _refuse
    sympy.parsing.sympy_parser.eval_expr = _refuse


def _refuse(*_: object, **__: object) -> None:
    raise ParseError


def _number(_self: object, text: str) -> Any:
    """The sympy number of a numeral. Raises `ParseError` for any other text."""
    import sympy

    match = re.fullmatch(r"\d{1,30}|\d{0,15}\.\d{1,15}", text.replace(",", ""), re.ASCII)
    if not match:
        raise ParseError
    return sympy.Integer(match[0]) if match[0].isdigit() else sympy.Float(match[0])


def decide(pred: str, gold: str) -> Grade:
    """The judgement of one pair. Takes what time and memory it takes; the process has limits."""
    try:
        return grade_pair(pred, gold, Numbers())
    except ParseError:
        return _second_opinion(extract_core(pred), extract_core(gold))
    except LimitExceeded as refusal:
        return unknown(str(refusal))
    except NoValue:
        return unknown("The expressions have no values to compare.")


def _second_opinion(pred: str, gold: str) -> Grade:
    """What math-verify says of a pair of which our reader cannot read one side."""
    if _readable(gold):
        if not isinstance(read(gold), SCALARS):
            return UNREADABLE
    elif not _fit(gold):
        return UNREADABLE_REFERENCE
    if not (_fit(pred) or (_readable(pred) and isinstance(read(pred), SCALARS))):
        return UNREADABLE
    try:
        left, right_ = _parsed(pred), _parsed(gold)
        if left is None or right_ is None:
            return UNREADABLE
        from math_verify import verify

        same = verify(right_, left, timeout_seconds=None, raise_on_error=True)
        same = same and left.free_symbols == right_.free_symbols
    except MemoryError:
        raise
    except Exception:  # an engine of others, on hostile text: whatever it raises, it has no answer
        return UNREADABLE
    return MATH_VERIFY_EQUAL if same else MATH_VERIFY_DIFFERENT


def _readable(text: str) -> bool:
    try:
        read(text)
    except (ParseError, LimitExceeded):
        return False
    return True


def _fit(text: str) -> bool:
    """Whether a text is one whole, tame expression: math-verify reads what it can and drops the
    rest."""
    if len(text) > _MAX_CHARS or _DANGEROUS.search(text) or not _KNOWN.search(text):
        return False
    depth = 0
    for brace in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0 or depth > 8:
            return False
    outside = text
    while (flat := re.sub(r"\{[^{}]*\}", "", outside)) != outside:
        outside = flat
    return depth == 0 and not re.search(r"[=<>,;$&]", outside)


def _parsed(text: str) -> Any:
    """The sympy expression of a text, or None."""
    from math_verify import LatexExtractionConfig, parse

    found = parse(
        f"${clean(text)}$",
        extraction_config=[LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
        raise_on_error=True,
    )
    return found[0] if found and hasattr(found[0], "free_symbols") else None
