"""Tests written as Python assertions or doctests, as calls with expected values.

    assert candidate([1, 2], 3) == 6       {"call": "total([1, 2], 3)", "returns": "6"}
    assert abs(area(2) - 12.57) < 0.01     {"call": "area(2)", "returns": "12.57", ...}
    assert set(f((3, 4))) == set((4, 3))   {"call": "set(f((3, 4)))", "returns": "set((4, 3))"}

An assertion with a computed expected value cannot be split into a call and a literal, and is left
out: test code must not run beside the program.
"""

import ast
import builtins
import doctest
from collections.abc import Iterator, Sequence
from typing import Any

_MAX_SOURCE_CHARS = 2 << 20


def split_asserts(source: str, function: str, *, alias: str | None = None) -> list[dict[str, Any]]:
    """The tests in the assertions of a source that call a function.

    `alias` is the name under which the assertions call it, such as "candidate".
    """
    found = []
    for node in ast.walk(_parse(source)):
        if isinstance(node, ast.Assert):
            if alias is not None:
                node = _Rename(alias, function).visit(node)
            test = _test(node.test, function)
            if test is not None:
                found.append(test)
    return found


def function_in(asserts: Sequence[str]) -> str | None:
    """The name of the function that assertions call; None if there is none."""
    for source in asserts:
        for node in ast.walk(_parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                name = node.func.id
                if not hasattr(builtins, name):
                    return name
    return None


def doctests(prompt: str, function: str) -> list[dict[str, Any]]:
    """The doctests of a prompt that call a function and show a literal."""
    try:
        examples = doctest.DocTestParser().get_examples(prompt)
    except ValueError:
        return []
    found = []
    for example in examples:
        call, value = example.source.strip(), example.want.strip()
        tree = _parse(call)
        is_call = len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr)
        if is_call and _calls(tree, function) and _is_literal(value):
            found.append({"call": call, "returns": value})
    return found


def setup_of(prompt: str, function: str) -> str:
    """The imports and helper functions of a prompt before the function that is asked for."""
    before, found, _ = prompt.partition(f"def {function}(")
    return before if found and _parse(before).body else ""


class _Rename(ast.NodeTransformer):
    """Replaces a name."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """See `ast.NodeTransformer`."""
        return ast.Name(self._new, node.ctx) if node.id == self._old else node


def _parse(source: str) -> ast.Module:
    """The syntax tree; an empty module if the source is not Python or too long."""
    try:
        return ast.parse(source if len(source) <= _MAX_SOURCE_CHARS else "")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _test(node: ast.expr, function: str) -> dict[str, Any] | None:
    """The test of an assertion's condition; None if it cannot be split."""
    match node:
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right]):
            for call, value in ((left, right), (right, left)):
                if _calls(call, function) and _is_literal(ast.unparse(value)):
                    return {"call": ast.unparse(call), "returns": ast.unparse(value)}
        case ast.Compare(left=left, ops=[ast.Lt() | ast.LtE()], comparators=[right]):
            return _close(left, right, function)
        case ast.Call(func=ast.Name(id="isclose") | ast.Attribute(attr="isclose"), args=[a, b]):
            for call, value in ((a, b), (b, a)):
                if _calls(call, function) and _is_literal(ast.unparse(value)):
                    return _tolerant(call, value, _keyword(node))
        case ast.UnaryOp(op=ast.Not(), operand=operand) if _calls(operand, function):
            return {"call": f"bool({ast.unparse(operand)})", "returns": "False"}
        case ast.Call() if _calls(node, function):
            return {"call": f"bool({ast.unparse(node)})", "returns": "True"}
    return None


def _close(left: ast.expr, right: ast.expr, function: str) -> dict[str, Any] | None:
    """The test of `abs(call - value) < tolerance`."""
    match left, right:
        case (
            ast.Call(
                func=ast.Name(id="abs") | ast.Attribute(attr="fabs"),
                args=[ast.BinOp(left=first, op=ast.Sub(), right=second)],
            ),
            ast.Constant(value=float() | int() as tolerance),
        ):
            for call, value in ((first, second), (second, first)):
                if _calls(call, function) and _is_literal(ast.unparse(value)):
                    return _tolerant(call, value, float(tolerance))
    return None


def _tolerant(call: ast.expr, value: ast.expr, tolerance: float) -> dict[str, Any]:
    found = {"call": ast.unparse(call), "returns": ast.unparse(value)}
    return {**found, "tolerance": min(max(tolerance, 0.0), 1.0)}


def _keyword(node: ast.Call) -> float:
    """The tolerance of `math.isclose`; its default is 1e-9."""
    for keyword in node.keywords:
        match keyword.value:
            case ast.Constant(value=float() | int() as value) if "tol" in (keyword.arg or ""):
                return float(value)
    return 1e-9


def _calls(node: ast.AST, function: str) -> bool:
    """Whether an expression calls the function and uses no names that only a test has."""
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return function in names and all(n == function or hasattr(builtins, n) for n in names)


def _is_literal(text: str) -> bool:
    """Whether a text can be an expected value: no name but those of containers and floats."""
    tree = _parse(text)
    allowed = {"set", "frozenset", "tuple", "list", "sorted", "float", "range", "dict"}
    return bool(text) and all(_plain(node, allowed) for node in _walk(tree))


def _walk(tree: ast.Module) -> Iterator[ast.AST]:
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        yield tree
        return
    yield from ast.walk(tree.body[0].value)


def _plain(node: ast.AST, allowed: set[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in allowed
    refused = (ast.Module, ast.Attribute, ast.Lambda, ast.ListComp, ast.GeneratorExp, ast.IfExp)
    return not isinstance(node, (*refused, ast.Subscript, ast.JoinedStr, ast.Compare, ast.BoolOp))
