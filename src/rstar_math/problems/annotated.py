"""Annotated solutions as verified code-augmented steps: the first round's data without any search.

A solution annotated as in GSM8K (Cobbe et al. 2021, arXiv:2110.14168) marks each calculation,
`48/2 = <<48/2=24>>24`, and ends in a line `#### 72`. Each line that calculates becomes a step: its
words as a comment, its calculations as assignments; the last one prints, and an answer step
follows. Every mark is calculated anew, as Python does; a solution in which one does not hold, or
whose last value is not the answer, is refused with a reason. A solution that is one expression, as
in SVAMP (Patel et al. 2021, arXiv:2103.07191), `( 290.0 / 2.0 )`, is one step.
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
class Annotated:
    """The steps of an annotated solution, or the reason why it has none."""

    steps: tuple[Step, ...]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Calculation:
    """One mark: what is calculated, and what it says it gives."""

    expression: str
    value: float


def annotated_steps(question: str, solution: str, answer: str) -> Annotated:
    """The steps of a solution, with the executions that Python would give, checked against the
    reference answer.

    A number in a calculation that an earlier one gave, and the question does not state, becomes a
    reference to that one; where the values then no longer meet the answer (the solution rounded on
    its way), the numbers stay as they are.
    """
    wanted = _value(answer)
    if wanted is None:
        return Annotated((), "the answer is not a number")
    body = _FINAL.split(solution)[0]
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    try:
        parsed = [(_words(line), [_calculation(m) for m in _MARK.findall(line)]) for line in lines]
    except ValueError as error:
        return Annotated((), str(error))
    if not any(calculations for _, calculations in parsed):
        bare = _bare(lines)
        if bare is None:
            return Annotated((), "no calculation is marked")
        parsed = [("Calculate the answer.", [bare])]
    given = {_plain(number) for number in _NUMBER.findall(question.replace(",", ""))}
    for refer in (True, False):
        steps = _steps(parsed, given, wanted, refer=refer)
        if steps is not None:
            return Annotated((*steps, _answer_step(answer)))
    return Annotated((), "the last value is not the answer")


def _words(line: str) -> str:
    """A line for a reader: without its marks."""
    return _MARK.sub("", line).replace("</", "< /").strip()


def _calculation(mark: str) -> _Calculation:
    """A mark read and checked. Raises `ValueError` with the reason why it is not used."""
    sides = mark.split("=")
    if len(sides) < 2:
        raise ValueError("a mark has no equals sign")
    stated = _value(sides[-1])
    if stated is None:
        raise ValueError("a mark does not end in a number")
    expression = _expression(sides[0])
    value = _evaluate(expression, {})
    if value is None:
        raise ValueError("a mark is not arithmetic")
    decimals = len(sides[-1].strip().partition(".")[2])
    if abs(value - stated) > 0.5000001 * 10.0**-decimals and not isclose(value, stated):
        raise ValueError("a mark does not hold")
    if decimals == 0 and not isclose(value, stated):
        raise ValueError("a mark rounds to a whole number")
    return _Calculation(expression, stated)


def _bare(lines: Sequence[str]) -> _Calculation | None:
    """The calculation of a solution that is one expression and nothing else."""
    if len(lines) != 1 or not re.fullmatch(r"[\d\s.()+*/-]+", lines[0]):
        return None
    text = _expression(re.sub(r"(?<=\d)\.0+(?!\d)", "", lines[0]))
    while text.startswith("(") and text.endswith(")") and _evaluate(text[1:-1], {}) is not None:
        text = text[1:-1]
    value = _evaluate(text, {})
    return None if value is None else _Calculation(text, float(value))


def _expression(text: str) -> str:
    """A calculation as Python writes it: no units of money, no thousands commas, percent as
    hundredths, products written out."""
    text = text.replace(",", "").replace("$", "").replace("×", "*").replace("÷", "/")
    text = re.sub(r"(?<=[\d)])\s*[xX]\s*(?=[\d(.])", "*", text)
    text = text.replace("[", "(").replace("]", ")").replace("^", "**")
    text = re.sub(r"(\d+\.?\d*|\.\d+)\s*%(?!\s*[\d(.])", r"(\1/100)", text)
    text = re.sub(r"(?<=[\d)])\s*\(", "*(", text)
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)
    return _tidy(text.strip())


def _tidy(text: str) -> str:
    """Spaces around the operators, as code has them."""
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"(?<=[\w).])(\*\*|//|[-+*/])(?=[\w(.-])", r" \1 ", text)
    return re.sub(r"(?<![\d])\.(?=\d)", "0.", text)


def _evaluate(expression: str, names: dict[str, Number]) -> Number | None:
    """What Python makes of plain arithmetic; None for anything else, and for what is too large."""
    if len(expression) > _MAX_CHARS:
        return None
    try:
        value = _node(ast.parse(expression, mode="eval").body, names)
    except (SyntaxError, ValueError, ArithmeticError, KeyError, RecursionError, MemoryError):
        return None
    return value if isfinite(value) and abs(value) < _MAX_VALUE else None


def _node(node: ast.AST, names: dict[str, Number]) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _node(node.operand, names)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _node(node.left, names), _node(node.right, names)
        if isinstance(node.op, ast.Pow) and (abs(right) > 64 or abs(left) > 1e6):
            raise ValueError("a power too large")
        value = _OPERATIONS[type(node.op)](left, right)
        if isinstance(value, int | float):
            return value
    raise ValueError("not arithmetic")


def _value(text: str) -> float | None:
    """A number as solutions write it; None for other text."""
    text = text.replace(",", "").replace("$", "").replace("%", "").strip()
    if not re.fullmatch(r"-?(?:\d+\.?\d*|\.\d+)", text) or len(text) > 16:
        return None
    return float(text)


def _plain(number: str) -> str:
    """One way of writing a number, to compare by."""
    return f"{float(number):g}"


def _steps(
    parsed: Sequence[tuple[str, list[_Calculation]]],
    given: set[str],
    wanted: float,
    *,
    refer: bool,
) -> list[Step] | None:
    """The code steps, the last of which prints; None where the value is not the answer."""
    names: dict[str, Number] = {}
    by_number: dict[str, str] = {}
    steps: list[tuple[str, str]] = []
    pending: list[str] = []
    for words, calculations in parsed:
        pending.append(f"# {words}\n")
        if not calculations:
            continue
        code = ""
        for calculation in calculations:
            expression = calculation.expression
            if refer:
                expression = _NUMBER.sub(
                    lambda match: by_number.get(_plain(match[0]), match[0]), expression
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
    last = next((name for name in reversed(names) if isclose(names[name], wanted)), None)
    if last is None or last != f"v{len(names)}":
        return None
    ran = Execution(ExecutionStatus.OK)
    found = [Step(prose, code, execution=ran) for prose, code in steps[:-1]]
    prose, code = steps[-1]
    printed = Execution(ExecutionStatus.OK, f"{names[last]}\n")
    ending = "".join(pending)
    found.append(Step(prose, f"{code}{ending}print({last})\n", kind="code", execution=printed))
    return found


def _answer_step(answer: str) -> Step:
    """The step that states the answer."""
    number = answer.replace(",", "").replace("$", "").strip()
    return Step(f"The answer is \\boxed{{{number}}}.", kind="answer", answer=number)
