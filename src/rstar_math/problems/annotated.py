"""Converts annotated solutions into code-augmented steps: training data without a search.

A solution annotated as in GSM8K (Cobbe et al. 2021, arXiv:2110.14168) marks each calculation,
`48/2 = <<48/2=24>>24`, and ends with a line `#### 72`. Each line with a calculation becomes one
step: its text is a comment and its calculations are assignments. The last step prints the result,
and an answer step follows. Every calculation is evaluated again as Python does. A solution is
rejected with a reason if a calculation is wrong or the last value is not the answer. A solution
that is a single expression, `( 290.0 / 2.0 )`, becomes one step (SVAMP, Patel et al. 2021,
arXiv:2103.07191).
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isclose, isfinite

from rstar_math.types import Execution, ExecutionStatus, Step

_MARK = re.compile(r"<<([^<>]*)>>")
_NUMBER = re.compile(r"(?<![\w.])(?:\d+\.?\d*|\.\d+)(?![\w.])")
_FINAL = re.compile(r"^\s*####\s*(.+?)\s*$", re.MULTILINE)
_MAX_CHARS = 200
_MAX_VALUE = 1e15
Number = int | float
_OPERATIONS: dict[type[ast.AST], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True, slots=True)
class ParsedSolution:
    """The steps of an annotated solution, or the reason for its rejection."""

    steps: tuple[Step, ...]
    """Empty if the solution is rejected."""
    reason: str | None = None
    """None if the solution is accepted."""


@dataclass(frozen=True, slots=True)
class _Calculation:
    """One marked calculation."""

    expression: str
    value: float
    """The result as the solution states it."""


def parse_solution(question: str, solution: str, answer: str) -> ParsedSolution:
    """The steps of an annotated solution, checked against the reference answer.

    Each step holds the execution that Python would produce. If a number is the result of an earlier
    calculation and does not occur in the question, it becomes a reference to that variable. If the
    answer is then missed because the solution rounds, all numbers stay literal.
    """
    expected = _parse_number(answer)
    if expected is None:
        return ParsedSolution((), "the answer is not a number")
    body = _FINAL.split(solution)[0]
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    try:
        parsed = [
            (_strip_marks(line), [_parse_mark(mark) for mark in _MARK.findall(line)])
            for line in lines
        ]
    except ValueError as error:
        return ParsedSolution((), str(error))
    if not any(calculations for _, calculations in parsed):
        expression = _single_expression(lines)
        if expression is None:
            return ParsedSolution((), "no calculation is marked")
        parsed = [("Calculate the answer.", [expression])]
    given = {_canonical(number) for number in _NUMBER.findall(question.replace(",", ""))}
    for use_variables in (True, False):
        steps = _code_steps(parsed, given, expected, use_variables=use_variables)
        if steps is not None:
            return ParsedSolution((*steps, _answer_step(answer)))
    return ParsedSolution((), "the last value is not the answer")


def _strip_marks(line: str) -> str:
    """A line without its calculation marks."""
    return _MARK.sub("", line).replace("</", "< /").strip()


def _parse_mark(mark: str) -> _Calculation:
    """The calculation of a mark. Raises `ValueError` with the reason if it is invalid or wrong."""
    sides = mark.split("=")
    if len(sides) < 2:
        raise ValueError("a mark has no equals sign")
    stated = _parse_number(sides[-1])
    if stated is None:
        raise ValueError("a mark does not end in a number")
    expression = _to_python(sides[0])
    value = _evaluate(expression, {})
    if value is None:
        raise ValueError("a mark is not arithmetic")
    decimals = len(sides[-1].strip().partition(".")[2])
    if abs(value - stated) > 0.5000001 * 10.0**-decimals and not isclose(value, stated):
        raise ValueError("a mark does not hold")
    if decimals == 0 and not isclose(value, stated):
        raise ValueError("a mark rounds to a whole number")
    return _Calculation(expression, stated)


def _single_expression(lines: Sequence[str]) -> _Calculation | None:
    """The calculation of a solution that consists of one expression; None for any other."""
    if len(lines) != 1 or not re.fullmatch(r"[\d\s.()+*/-]+", lines[0]):
        return None
    text = _to_python(re.sub(r"(?<=\d)\.0+(?!\d)", "", lines[0]))
    while text.startswith("(") and text.endswith(")") and _evaluate(text[1:-1], {}) is not None:
        text = text[1:-1]
    value = _evaluate(text, {})
    return None if value is None else _Calculation(text, float(value))


def _to_python(text: str) -> str:
    """A calculation in Python syntax: no currency signs or thousands separators, explicit products,
    and percentages as hundredths."""
    text = text.replace(",", "").replace("$", "").replace("×", "*").replace("÷", "/")
    text = re.sub(r"(?<=[\d)])\s*[xX]\s*(?=[\d(.])", "*", text)
    text = text.replace("[", "(").replace("]", ")").replace("^", "**")
    text = re.sub(r"(\d+\.?\d*|\.\d+)\s*%(?!\s*[\d(.])", r"(\1/100)", text)
    text = re.sub(r"(?<=[\d)])\s*\(", "*(", text)
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"(?<=[\w).])(\*\*|//|[-+*/])(?=[\w(.-])", r" \1 ", text)
    return re.sub(r"(?<![\d])\.(?=\d)", "0.", text)


def _evaluate(expression: str, names: dict[str, Number]) -> Number | None:
    """The value of an arithmetic expression, as Python computes it.

    None if the text is not plain arithmetic, or if the text or the value is too large.
    """
    if len(expression) > _MAX_CHARS:
        return None
    try:
        value = _evaluate_node(ast.parse(expression, mode="eval").body, names)
    except (SyntaxError, ValueError, ArithmeticError, KeyError, RecursionError, MemoryError):
        return None
    return value if isfinite(value) and abs(value) < _MAX_VALUE else None


def _evaluate_node(node: ast.AST, names: dict[str, Number]) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluate_node(node.operand, names)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _evaluate_node(node.left, names), _evaluate_node(node.right, names)
        if isinstance(node.op, ast.Pow) and (abs(right) > 64 or abs(left) > 1e6):
            raise ValueError("the power is too large")
        value = _OPERATIONS[type(node.op)](left, right)
        if isinstance(value, int | float):
            return value
    raise ValueError("not arithmetic")


def _parse_number(text: str) -> float | None:
    """The number in a text, without $, % and thousands separators; None for any other text."""
    text = text.replace(",", "").replace("$", "").replace("%", "").strip()
    if not re.fullmatch(r"-?(?:\d+\.?\d*|\.\d+)", text) or len(text) > 16:
        return None
    return float(text)


def _canonical(number: str) -> str:
    """The canonical notation of a number."""
    return f"{float(number):g}"


def _code_steps(
    parsed: Sequence[tuple[str, list[_Calculation]]],
    given: set[str],
    expected: float,
    *,
    use_variables: bool,
) -> list[Step] | None:
    """The code steps, of which the last prints the result; None if the result is not `expected`.

    With `use_variables`, results of earlier calculations are referred to by name, except for the
    numbers in `given`.
    """
    names: dict[str, Number] = {}
    by_number: dict[str, str] = {}
    steps: list[tuple[str, str]] = []
    pending: list[str] = []
    for text, calculations in parsed:
        pending.append(f"# {text}\n")
        if not calculations:
            continue
        code = ""
        for calculation in calculations:
            expression = calculation.expression
            if use_variables:
                expression = _NUMBER.sub(
                    lambda match: by_number.get(_canonical(match[0]), match[0]), expression
                )
            value = _evaluate(expression, names)
            if value is None:
                return None
            name = f"v{len(names) + 1}"
            names[name] = value
            code += f"{name} = {expression}\n"
            number = f"{calculation.value:g}"
            if number not in given:
                by_number[number] = name
        steps.append(("".join(pending), code))
        pending = []
    last = f"v{len(names)}"
    if not names or not isclose(names[last], expected):
        return None
    silent = Execution(ExecutionStatus.OK)
    found = [Step(prose, code, execution=silent) for prose, code in steps[:-1]]
    prose, code = steps[-1]
    printed = Execution(ExecutionStatus.OK, f"{names[last]}\n")
    comments = "".join(pending)
    found.append(Step(prose, f"{code}{comments}print({last})\n", kind="code", execution=printed))
    return found


def _answer_step(answer: str) -> Step:
    number = answer.replace(",", "").replace("$", "").strip()
    return Step(f"The answer is \\boxed{{{number}}}.", kind="answer", answer=number)
