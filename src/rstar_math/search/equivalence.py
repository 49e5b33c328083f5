"""Normal forms that tell whether two steps, or two solutions, compute the same."""

import ast
import warnings
from collections.abc import Sequence
from functools import lru_cache

from rstar_math.types import Step

_MAX_PARSED_CHARS = 4000
"""Maximum length of code that is parsed; it bounds the cost of hostile code."""


def normalized_program(steps: Sequence[Step]) -> str:
    """Return a solution's code in a normal form: the syntax trees of its statements, in order.

    The normal form ignores comments, whitespace, quote styles, redundant brackets, step boundaries
    and the prose around the code. It keeps names and the order of statements. Code that does not
    parse, or is too long, is compared with whitespace collapsed. A solution without code is
    compared by its text.
    """
    forms = [form for step in steps if step.code and (form := _statements(step.code))]
    return "\n".join(forms) if forms else _collapse("".join(step.text for step in steps))


@lru_cache(maxsize=65536)
def _statements(code: str) -> str:
    """Return the normal form of a step's code; "" if it has no statements."""
    if len(code) > _MAX_PARSED_CHARS:
        return _collapse(code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = ast.parse(code)
        return "\n".join(map(ast.dump, parsed.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _collapse(code)


def _collapse(text: str) -> str:
    """Return the text with each run of whitespace as one blank."""
    return " ".join(text.split())


def step_key(step: Step) -> tuple[str, str, str | None]:
    """Return a key that is equal for steps that compute and state the same.

    After the same prefix, steps with equal keys lead to the same state. They differ only in
    comments, whitespace and wording. A step without code is compared by its answer if it states
    one, else by its text.
    """
    if step.answer is not None and not step.code.strip():
        return ("", step.kind, step.answer)
    return (normalized_program([step]), step.kind, step.answer)
