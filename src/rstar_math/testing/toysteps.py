"""What the toy world's model writes, and what its code does. Nothing is ever executed: the code
has six forms, and both reading a step and running it go by these."""

import re
from collections.abc import Sequence
from enum import StrEnum

from rstar_math.types import Execution, ExecutionStatus, Step

SLIPS = (1, 2, 10)
"""What a slip adds too much. All errors of the toy world are positive, so no two of them cancel:
a sum that is wrong once stays wrong."""
WORDINGS = 3
"""Ways in which each thing can be said."""

_ADDING = (
    "# The next number of the list is {n}, so the running total s has to grow by just that much.",
    "# Now it is the turn of {n}: put it on top of all that we have added up so far.",
    "# Take {n} from the list, add it to the sum s, and then go on with what is left.",
)
_TRAPPED = (
    "# The number {n} stands out, because the list names it for two people: add it twice.",
    "# Note that {n} counts double, a point that is easy to miss here, so add it two times.",
    "# We have to be careful with {n}: it is needed both before and after, so it goes in twice.",
)
_STRANDED = (
    "# After {n} we would have to know how the list goes on, and the problem does not say.",
    "# Whether {n} is part of the list depends on something that we are not told, so wait.",
    "# Before {n} can be added, the rest of the list must be known, and it is nowhere given.",
)
_ANSWERS = (
    "All the numbers of the list are added now, so their sum is \\boxed{{{said}}}.",
    "The program has printed the sum of the whole list, which is \\boxed{{{said}}}.",
    "So the total that the problem asks for comes to \\boxed{{{said}}} in the end.",
)


class Effect(StrEnum):
    """What a step of the toy world does to the solution."""

    RIGHT = "right"
    SLIP = "slip"
    TRAP = "trap"
    FAILS = "fails"
    DEAD = "dead"
    ANSWER = "answer"


def step_text(effect: Effect, variant: int, numbers: Sequence[int], at: int) -> str:
    """Text of the step that adds number `at`, with its mark; variants 0 to `variants` - 1."""
    wording, extra = variant % WORDINGS, SLIPS[variant // WORDINGS]
    n = numbers[at]
    code = {
        Effect.RIGHT: f"s += {n}",
        Effect.SLIP: f"s += {n + extra}",
        Effect.TRAP: f"s += 2 * {n}",
        Effect.FAILS: (f"s += {n} / 0", f"s += total + {n}", f"s += str({n})")[wording],
        Effect.DEAD: "rest = None",
    }[effect]
    said = {Effect.TRAP: _TRAPPED, Effect.DEAD: _STRANDED}.get(effect, _ADDING)[wording]
    start = "" if at else "s = 0\n"
    end = "print(s)\n<code/>" if at == len(numbers) - 1 else "<step/>"
    return f"{said.format(n=n)}\n{start}{code}\n{end}"


def answer_text(wording: int, said: str) -> str:
    """Text of the step that states what the program printed."""
    return _ANSWERS[wording].format(said=said) + "\n<answer/>"


def stray_text(numbers: Sequence[int], at: int) -> str:
    """A sample without a step in it: an answer in the middle of the code."""
    return f"I think that the sum must be about {sum(numbers[: at + 1])} or so.\n<answer/>"


_CHANGE = re.compile(
    r"^(?:s \+= (?:(?P<add>\d+)|2 \* (?P<twice>\d+)|(?P<fails>\d+ / 0|total \+ \d+|str\(\d+\)))"
    r"|(?P<dead>rest = None))$",
    re.MULTILINE,
)
_NUMBER = re.compile(r"\d+")
_ERRORS = {
    "/": ("ZeroDivisionError", "division by zero"),
    "+": ("NameError", "name 'total' is not defined"),
    "(": ("TypeError", "unsupported operand type(s) for +=: 'int' and 'str'"),
}


def effect_of(step: Step) -> Effect | None:
    """What a step does, from its text alone (a slip names one number and adds another); None for
    one that the toy world did not write."""
    if step.kind == "answer":
        return Effect.ANSWER
    change, number = _CHANGE.search(step.code), _NUMBER.search(step.prose)
    if change is None or number is None:
        return None
    if change["add"] is not None:
        return Effect.RIGHT if change["add"] == number[0] else Effect.SLIP
    if change["twice"] is not None:
        return Effect.TRAP
    return Effect.FAILS if change["fails"] is not None else Effect.DEAD


class ToyExecutor:
    """An Executor for the toy world's steps: reads them instead of executing them, so that it is
    safe and takes microseconds. Any other code is a SyntaxError."""

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        total: int | None = None
        for before in prefix:
            total, _ = _run(before.code, total)
        return _run(step.code, total)[1]


def _run(code: str, total: int | None) -> tuple[int | None, Execution]:
    """`s` after some code (None: not defined), and how running it went."""
    printed = ""
    for line in code.splitlines():
        change = _CHANGE.fullmatch(line)
        if line == "s = 0":
            total = 0
        elif change is None and line != "print(s)":
            return total, _error("SyntaxError", "the toy world runs its own steps only", printed)
        elif change is not None and change["dead"] is not None:
            continue
        elif total is None:
            return None, _error("NameError", "name 's' is not defined", printed)
        elif change is None:
            printed += f"{total}\n"
        elif change["fails"] is not None:
            sign = next(sign for sign in _ERRORS if sign in change["fails"])
            return total, _error(*_ERRORS[sign], printed)
        else:
            total += int(change["add"] or 0) + 2 * int(change["twice"] or 0)
    return total, Execution(ExecutionStatus.OK, printed)


def _error(kind: str, message: str, printed: str) -> Execution:
    return Execution(ExecutionStatus.ERROR, printed, kind, message)
