"""Tests for problems that have too few: generated inputs, and the outputs on which programs agree.

The idea is the mutual verification of rStar-Coder (arXiv:2505.21297): independent programs run on
the same inputs; if enough of them give the same outputs on *all* inputs, these outputs are taken as
the right ones, and the programs as right. Agreement on single outputs would let programs with
different mistakes outvote each other.

Departures: rStar-Coder lets a strong model write a generator and a checker of inputs for each
problem. Here inputs are the public ones with changed values, as in the type-aware mutation of
EvalPlus (arXiv:2305.01210), so no model is needed. An input on which the agreeing programs fail is
taken as invalid and left out.
"""

import ast
import random
from collections.abc import Sequence
from typing import Any

from rstar_math.concurrency import gather
from rstar_math.sandbox.executor import Sandbox
from rstar_math.seeding import derive
from rstar_math.tasks import CallTest, CodeTask, StreamTest, Test
from rstar_math.verification.programs import Outcome, ProgramRunner, inputs_of
from rstar_math.verification.values import UnreadableValueError, decode, parse_literal

_MAX_CHARS = 2_000
"""Longer inputs are not changed."""
_WORDS = ("a", "b", "zz", "Q", "x y", "7", "-", "")


def generate_inputs(task: CodeTask, *, seed: int, count: int) -> list[str]:
    """Up to `count` distinct new inputs: known ones of the task with changed values.

    A call is changed only if its arguments are literals. The same seed gives the same inputs.
    """
    known = [given for given in inputs_of(task) if len(given) <= _MAX_CHARS]
    found: dict[str, None] = {}
    for number in range(20 * count):
        if not known or len(found) == count:
            break
        source = known[number % len(known)]
        rng = random.Random(derive(seed, "input", number, source))
        changed = (
            _change_stream(source, rng) if task.function is None else _change_call(source, rng)
        )
        if changed is not None and changed not in known:
            found[changed] = None
    return list(found)


def _change_call(call: str, rng: random.Random) -> str | None:
    """The call with one to three changed values; None if it cannot be changed."""
    try:
        node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call) or node.keywords:
            return None
        values = [parse_literal(ast.unparse(argument)) for argument in node.args]
    except (SyntaxError, UnreadableValueError, RecursionError):
        return None
    if not values:
        return None
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(values))
        values[at] = _change(values[at], rng)
    return f"{ast.unparse(node.func)}({', '.join(map(literal, values))})"


def _change(value: Any, rng: random.Random) -> Any:
    """A value of the same type near a given one."""
    match value:
        case bool():
            return not value
        case int():
            return value + rng.choice((-1, 1, rng.randint(-10, 10), value))
        case float():
            return round(value + rng.choice((-1.0, 0.5, rng.uniform(-10, 10))), 3)
        case str():
            at = rng.randint(0, len(value))
            piece = rng.choice((*_WORDS, value[:2]))
            return value[:at] + piece + value[at + rng.randint(0, 1) :]
        case list() | tuple():
            items = list(value)
            if items and rng.random() < 0.6:
                at = rng.randrange(len(items))
                items[at] = _change(items[at], rng)
            elif items and rng.random() < 0.5:
                items.insert(rng.randint(0, len(items)), _change(rng.choice(items), rng))
            elif items:
                items.pop(rng.randrange(len(items)))
            return tuple(items) if isinstance(value, tuple) else items
        case dict():
            return {key: _change(item, rng) for key, item in value.items()}
        case frozenset():
            return frozenset(_change(item, rng) for item in value)
    return value


def _change_stream(text: str, rng: random.Random) -> str | None:
    """The input with one to three changed numbers or letters; its lines keep their words.

    The first line is kept if more lines follow: it usually says how many.
    """
    lines = [line.split() for line in text.splitlines()]
    places = [
        (row, at)
        for row, line in enumerate(lines)
        for at in range(len(line))
        if row or len(lines) == 1
    ]
    if not places:
        return None
    for _ in range(rng.randint(1, 3)):
        row, at = rng.choice(places)
        lines[row][at] = _change_word(lines[row][at], rng)
    return "\n".join(" ".join(line) for line in lines) + "\n"


def _change_word(word: str, rng: random.Random) -> str:
    if word.lstrip("-").isdecimal():
        number = int(word)
        changed = number + rng.choice((-1, 1, rng.randint(-5, 5), number))
        return str(abs(changed) if number > 0 else changed)
    letters = [at for at, character in enumerate(word) if character.isalpha()]
    if not letters:
        return word
    at = rng.choice(letters)
    return word[:at] + rng.choice(word.replace(word[at], "") or "b") + word[at + 1 :]


def literal(value: Any) -> str:
    """A decoded value as a Python literal."""
    match value:
        case frozenset():
            inner = ", ".join(sorted(map(literal, value)))
            return f"{{{inner}}}" if value else "set()"
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case tuple():
            return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
        case dict():
            return f"{{{', '.join(f'{literal(k)}: {literal(v)}' for k, v in value.items())}}}"
        case float() if value != value or value in (float("inf"), -float("inf")):
            return f'float("{value}")'
    return repr(value)


async def verified_tests(
    sandbox: Sandbox,
    task: CodeTask,
    programs: Sequence[str],
    inputs: Sequence[str],
    *,
    min_agreement: int,
) -> tuple[Test, ...]:
    """Tests of the inputs, with the outputs on which most programs agree.

    Empty unless at least `min_agreement` programs give the same outputs on all inputs, and more
    than any other group. Programs must pass the public tests. Raises `SandboxError`.
    """
    runner = ProgramRunner(sandbox, task)
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for program in programs:
        if all(await gather(runner.passes(program, test) for test in task.examples)):
            outputs = await gather(runner.behaviour(program, given) for given in inputs)
            groups.setdefault(tuple(outputs), []).append(program)
    groups = {key: found for key, found in groups.items() if any(out is not None for out in key)}
    sizes = sorted((len(found) for found in groups.values()), reverse=True)
    if not sizes or sizes[0] < min_agreement or sizes[0] in sizes[1:]:
        return ()
    (leader,) = next(found[:1] for found in groups.values() if len(found) == sizes[0])
    outcomes = await gather(runner.run(leader, given) for given in inputs)
    tests = (_test(task, given, outcome) for given, outcome in zip(inputs, outcomes, strict=True))
    return tuple(test for test in tests if test is not None)


def _test(task: CodeTask, given: str, outcome: Outcome) -> Test | None:
    """The test of one input; None if the program failed on it."""
    if outcome.output is None:
        return None
    tolerance = next((test.tolerance for test in task.examples), None)
    if task.function is None:
        return StreamTest(given, outcome.output, tolerance)
    try:
        return CallTest(given, literal(decode(outcome.output)), tolerance)
    except (UnreadableValueError, RecursionError):
        return None
