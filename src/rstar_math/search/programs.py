"""Whether two steps, or two solutions, compute the same."""

import ast
import warnings
from collections.abc import Sequence
from functools import lru_cache

from rstar_math.types import Step

_LONGEST = 4000
"""Longest code of a step that is parsed, in characters; a bound on what hostile code can cost."""


def normalized_program(steps: Sequence[Step]) -> str:
    """What a solution computes, in a normal form: its statements as syntax trees, in order.

    Comments, blank space, kinds of quotes and brackets without effect make no difference, nor does
    where the steps are cut or what is said before and after the code; names and the order of
    statements do. Code that does not parse counts with its blank space made even; a solution
    without code counts by its words.
    """
    forms = [form for step in steps if step.code and (form := _statements(step.code))]
    return "\n".join(forms) if forms else _even("".join(step.text for step in steps))


@lru_cache(maxsize=65536)
def _statements(code: str) -> str:
    """A step's statements; "" if it has none."""
    if len(code) > _LONGEST:
        return _even(code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = ast.parse(code)
        return "\n".join(map(ast.dump, parsed.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _even(code)


def _even(text: str) -> str:
    return " ".join(text.split())


def step_key(step: Step) -> tuple[str, str, str | None]:
    """What a step computes and states: two steps after one prefix with equal keys differ only in
    comments, blank space and wording, and lead to the same state.

    A step without code that states an answer counts by the answer; any other by its words.
    """
    if step.answer is not None and not step.code.strip():
        return ("", step.kind, step.answer)
    return (normalized_program([step]), step.kind, step.answer)
