"""The worker's side of grading: numeric comparison, and math-verify for what our reader does not
know."""

import re
from typing import Any

from rstar_math.grading.cleaning import clean
from rstar_math.grading.judgement import Judgement, right, unknown, wrong
from rstar_math.grading.limits import Refused, Unreadable
from rstar_math.grading.nodes import SCALARS
from rstar_math.grading.numeric import NoValue, Numbers
from rstar_math.grading.reading import read
from rstar_math.grading.rules import UNREADABLE, UNREADABLE_REFERENCE, core, judge

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
    raise Unreadable


def _number(_self: object, text: str) -> Any:
    """The sympy number of a numeral. Raises `Unreadable` for any other text."""
    import sympy

    match = re.fullmatch(r"\d{1,30}|\d{0,15}\.\d{1,15}", text.replace(",", ""), re.ASCII)
    if not match:
        raise Unreadable
    return sympy.Integer(match[0]) if match[0].isdigit() else sympy.Float(match[0])


def decide(pred: str, gold: str) -> Judgement:
    """The judgement of one pair. Takes what time and memory it takes; the process has limits."""
    try:
        return judge(pred, gold, Numbers())
    except Unreadable:
        return _second_opinion(core(pred), core(gold))
    except Refused as refusal:
        return unknown(str(refusal))
    except NoValue:
        return unknown("The expressions have no values to compare.")


def _second_opinion(pred: str, gold: str) -> Judgement:
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
    except (Unreadable, Refused):
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
