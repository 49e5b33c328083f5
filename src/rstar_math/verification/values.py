"""Python values that cross from the sandbox as text, and their comparison.

A program's process writes its result in a small JSON form (`ENCODER`): only None, truth values,
numbers, texts, bytes, lists, tuples, sets and dictionaries exist in it. This process reads the form
and never builds another object, so no method of a program runs here. Expected values are Python
literals and are read by `parse_literal`.
"""

import ast
import json
import math
from typing import Any

MAX_DEPTH = 60
"""Maximum nesting of a value."""
_MAX_LITERAL_CHARS = 1 << 20
_MAX_REPEATED = 1 << 20
"""Maximum length of a text or list, and of digits, that a product in a literal may have."""

ENCODER = """
def _encode(value, depth=0):
    kind = type(value)
    if depth > 60:
        raise ValueError("the value is nested too deeply")
    if kind is bool or value is None or kind is str:
        return value
    if kind is int:
        return {"i": hex(value)}
    if kind is float:
        return {"f": value.hex()}
    if kind is complex:
        return {"c": [value.real.hex(), value.imag.hex()]}
    if kind is bytes or kind is bytearray:
        return {"b": value.hex()}
    below = depth + 1
    if isinstance(value, dict):
        pairs = [[_encode(k, below), _encode(v, below)] for k, v in dict.items(value)]
        return {"d": pairs}
    for name, base in (("l", list), ("t", tuple), ("s", set), ("s", frozenset)):
        if isinstance(value, base):
            return {name: [_encode(item, below) for item in base.__iter__(value)]}
    for base in (bool, int, float, str):
        if isinstance(value, base):
            return _encode(base.__str__(value) if base is str else base.__add__(value, 0), depth)
    module = kind.__module__.partition(".")[0]
    if module == "numpy" and hasattr(value, "tolist"):
        return _encode(value.tolist(), below)
    if module == "collections" and kind.__name__ == "deque":
        return {"l": [_encode(item, below) for item in value]}
    raise TypeError(f"a value of type {kind.__name__} cannot be compared")
"""
"""Python code of the encoder, which runs in the program's process. It guarantees nothing: a
program can write what it likes, and everything it writes is compared."""


class UnreadableValueError(ValueError):
    """A text is not a value in the restricted form."""


def decode(text: str) -> Any:
    """The value that a program's process wrote. Raises `UnreadableValueError`."""
    try:
        return _decode(json.loads(text), 0)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise UnreadableValueError(f"not a value ({type(error).__name__})") from None


def _decode(node: Any, depth: int) -> Any:
    if depth > MAX_DEPTH + 2:
        raise ValueError("nested too deeply")
    if node is None or isinstance(node, bool | str):
        return node
    if not isinstance(node, dict) or len(node) != 1:
        raise TypeError("not a tagged value")
    [(tag, body)] = node.items()
    below = depth + 1
    match tag:
        case "i":
            return int(_hex(body), 16)
        case "f":
            return float.fromhex(body)
        case "c":
            return complex(float.fromhex(body[0]), float.fromhex(body[1]))
        case "b":
            return bytes.fromhex(body)
        case "l":
            return [_decode(item, below) for item in body]
        case "t":
            return tuple(_decode(item, below) for item in body)
        case "s":
            return frozenset(_decode(item, below) for item in body)
        case "d":
            return {_decode(key, below): _decode(value, below) for key, value in body}
    raise KeyError(tag)


def _hex(body: Any) -> str:
    if not isinstance(body, str) or "0x" not in body[:3]:
        raise ValueError("not a whole number")
    return body


def parse_literal(text: str) -> Any:
    """The value of a Python literal; sums, products and powers of literals are computed.

    Also `set()`, `frozenset(...)`, `float("inf")`, `inf`, `nan` and `range(...)`. Raises
    `UnreadableValueError` for any other expression.
    """
    if len(text) > _MAX_LITERAL_CHARS:
        raise UnreadableValueError(f"{len(text)} characters are too many")
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, ArithmeticError) as e:
        reason = " ".join(str(e).split())[:80]
        raise UnreadableValueError(f"{text[:80]!r} is not a literal ({reason})") from None


def _evaluate(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items):
            return [_evaluate(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_evaluate(item) for item in items)
        case ast.Set(elts=items):
            return frozenset(_evaluate(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            if None in keys:
                raise ValueError("a dictionary is unpacked")
            pairs = [(k, v) for k, v in zip(keys, values, strict=True) if k is not None]
            return {_evaluate(k): _evaluate(v) for k, v in pairs}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return +_evaluate(operand)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return _operate(op, _evaluate(left), _evaluate(right))
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _CALLS:
            return _CALLS[name](*map(_evaluate, arguments))
    raise ValueError(f"{ast.unparse(node)[:40]} is computed")


def _range(*bounds: Any) -> list[int]:
    numbers = range(*bounds)
    if len(numbers) > _MAX_REPEATED:
        raise ValueError("a range is too long")
    return list(numbers)


_NAMES = {"inf": math.inf, "nan": math.nan, "pi": math.pi, "e": math.e}
_CALLS: dict[str, Any] = {
    "set": frozenset,
    "frozenset": frozenset,
    "tuple": tuple,
    "list": list,
    "sorted": sorted,
    "float": float,
    "range": _range,
    "dict": lambda *pairs: dict(*pairs),
}


def _operate(op: ast.operator, left: Any, right: Any) -> Any:
    """The value of an operation, if it is small."""
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            size = max(_size(left) * _count(right), _size(right) * _count(left))
            if size > _MAX_REPEATED:
                raise ValueError("a product is too long")
            return left * right
        case ast.Div():
            return left / right
        case ast.FloorDiv():
            return left // right
        case ast.Mod() if not isinstance(left, str | bytes):
            return left % right
        case ast.Pow() if isinstance(right, int) and abs(right) <= 4096:
            if isinstance(left, int) and left.bit_length() * abs(right) > _MAX_REPEATED:
                raise ValueError("a power is too long")
            return left**right
    raise ValueError("an operation is not allowed")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def _count(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 0


def equal_values(
    found: Any, expected: Any, *, tolerance: float | None = None, tuples_are_lists: bool = False
) -> bool:
    """Whether two decoded values are equal as in Python: 1 equals 1.0 and True, NaN equals NaN.

    With a tolerance, floats may differ by that much, absolutely or relatively.
    """

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, float | complex) or isinstance(b, float | complex):
            return _equal_numbers(a, b, tolerance)
        if isinstance(a, list | tuple) and isinstance(b, list | tuple):
            if not tuples_are_lists and isinstance(a, tuple) != isinstance(b, tuple):
                return False
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        return bool(a == b)

    return same(found, expected)


def _equal_numbers(a: Any, b: Any, tolerance: float | None) -> bool:
    if not isinstance(a, int | float | complex) or not isinstance(b, int | float | complex):
        return False
    if a == b or (a != a and b != b):
        return True
    if tolerance is None:
        return False
    try:
        difference, size = abs(complex(a) - complex(b)), abs(complex(b))
    except OverflowError:
        return False
    return difference <= tolerance * max(1.0, size) and math.isfinite(size)


def canonical(value: Any, *, digits: int | None = None) -> str:
    """A text that is equal for equal values; `digits` rounds floats to significant digits."""
    match value:
        case bool() | int():
            return repr(int(value)) if -(10**4000) < value < 10**4000 else hex(value)
        case float():
            if value.is_integer() and abs(value) < 2**53:
                return repr(int(value))
            return repr(value) if digits is None else f"{value:.{digits}g}"
        case list():
            return f"[{', '.join(canonical(item, digits=digits) for item in value)}]"
        case tuple():
            return f"({', '.join(canonical(item, digits=digits) for item in value)},)"
        case frozenset():
            return f"{{{', '.join(sorted(canonical(item, digits=digits) for item in value))}}}"
        case dict():
            pairs = (f"{canonical(k)}: {canonical(v, digits=digits)}" for k, v in value.items())
            return f"{{{', '.join(sorted(pairs))}:}}"
    return repr(value)


def equal_outputs(found: str, expected: str, tolerance: float | None = None) -> bool:
    """Whether two printed outputs are equal: the same lines of the same words.

    Blanks at the ends of lines and empty lines at the end do not count. With a tolerance, words
    that are numbers with a decimal point or an exponent may differ by that much.
    """
    a, b = output_words(found), output_words(expected)
    if a == b:
        return True
    if tolerance is None or [len(line) for line in a] != [len(line) for line in b]:
        return False
    lines = zip(a, b, strict=True)
    pairs = (pair for first, second in lines for pair in zip(first, second, strict=True))
    return all(x == y or _equal_numbers(_float(x), _float(y), tolerance) for x, y in pairs)


def output_words(text: str) -> list[list[str]]:
    """The words of each line of an output, without the empty lines at its end."""
    lines = [line.split() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _float(word: str) -> float | None:
    try:
        return float(word) if word[:1].isdigit() or word[:1] in "+-." else None
    except ValueError:
        return None
