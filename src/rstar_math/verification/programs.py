"""Runs programs on inputs in the sandbox, one process per input.

The process of a program receives the program and one input: a call or a standard input. Expected
outputs and other inputs never enter it, and what it writes is compared in this process. A program
can therefore gain nothing by reading its own process, by replacing functions, by comparing equal to
everything or by ending early with code 0.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from rstar_math.sandbox.child.protocol import Limits
from rstar_math.sandbox.executor import Sandbox
from rstar_math.sandbox.programs import Program, python_in
from rstar_math.tasks import CallTest, CodeTask, StreamTest, Test
from rstar_math.types import Execution, ExecutionStatus, Step
from rstar_math.verification.values import (
    ENCODER,
    UnreadableValueError,
    canonical,
    decode,
    equal_outputs,
    equal_values,
    output_words,
    parse_literal,
)

OUTPUT_BYTES = 4 << 20
"""Maximum length of what a program may print or return per input."""
_WALL_FACTOR, _WALL_EXTRA_S = 3.0, 5.0
"""Wall time per second of processor time, and in addition: the machine may be busy."""
_MARK = "\x1eRESULT:"
"""Begins the line with the value of a call."""
_PIPE_BYTES = 60_000
"""Longest standard input that is also readable from descriptor 0."""

_CALL = """
{encoder}
def _run(source, setup, call):
    import builtins, io, json, os, sys, types
    write, dumps, output = os.write, json.dumps, os.dup(1)
    module = types.ModuleType("solution")
    module.__dict__["__builtins__"] = builtins
    sys.modules["solution"] = module
    sys.stdout = io.StringIO()
    for code in (setup, source):
        exec(compile(code, "<solution>", "exec"), module.__dict__)
    value = eval(compile(call, "<call>", "eval"), module.__dict__)
    data = ("\\n" + {mark!r} + dumps(_encode(value)) + "\\n").encode()
    while data:
        data = data[write(output, data):]
_run({source!r}, {setup!r}, {call!r})
"""
_STREAM = """
def _run(source, setup, text):
    import builtins, io, os, sys, types
    data = text.encode()
    if len(data) <= {pipe_bytes}:
        source_end, sink_end = os.pipe()
        os.write(sink_end, data)
        os.close(sink_end)
        os.dup2(source_end, 0)
        os.close(source_end)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    else:
        sys.stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    sys.__stdin__ = sys.stdin
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    for code in (setup, source):
        exec(compile(code, "<solution>", "exec"), module.__dict__)
_run({source!r}, {setup!r}, {text!r})
"""
DEFAULT_IMPORTS = (
    "import collections, functools, heapq, itertools, math, re, string, sys\n"
    "from collections import Counter, defaultdict, deque\n"
    "from typing import *\n"
)
"""Imports before every function, as in the harnesses of HumanEval and LiveCodeBench, whose
solutions rely on them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did with one input."""

    output: str | None
    """The printed text, or the value in the form of `values`; None if it failed."""
    failure: str | None = None
    """Why there is no output, in words."""


class ProgramRunner:
    """Runs programs for one task."""

    def __init__(self, sandbox: Sandbox, task: CodeTask) -> None:
        self._sandbox = sandbox
        self._task = task
        self._limits = Limits(
            wall_s=_WALL_FACTOR * task.time_s + _WALL_EXTRA_S,
            cpu_s=task.time_s,
            memory_bytes=task.memory_mb << 20,
            output_bytes=OUTPUT_BYTES,
            scratch_bytes=sandbox.config.scratch_mb << 20,
            scratch_files=sandbox.config.scratch_files,
        )

    async def run(self, program: str, given: str) -> Outcome:
        """What a program does with a call or a standard input. Raises `SandboxError`."""
        code = self._code(program, given)
        execution = await self._sandbox.run_program(Program((), code, self._limits))
        if self._task.function is None:
            return _printed(execution)
        return _returned(execution)

    async def passes(self, program: str, test: Test) -> bool:
        """Whether a program passes a test. The comparison happens in this process."""
        given = test.call if isinstance(test, CallTest) else test.stdin
        outcome = await self.run(program, given)
        if outcome.output is None:
            return False
        if isinstance(test, StreamTest):
            return equal_outputs(outcome.output, test.stdout, test.tolerance)
        try:
            return equal_values(
                decode(outcome.output),
                parse_literal(test.expected),
                tolerance=test.tolerance,
                tuples_are_lists=self._task.tuples_are_lists,
            )
        except (UnreadableValueError, RecursionError):
            return False

    async def behaviour(self, program: str, given: str) -> str | None:
        """A text that is equal for equal outputs; None if the program fails."""
        outcome = await self.run(program, given)
        if outcome.output is None:
            return None
        if self._task.function is None:
            return "\n".join(" ".join(line) for line in output_words(outcome.output))
        try:
            text = canonical(decode(outcome.output), digits=9)
        except (UnreadableValueError, RecursionError):
            return None
        return text.replace(",)", "]").replace("(", "[") if self._task.tuples_are_lists else text

    def _code(self, program: str, given: str) -> str:
        """The code of the process: the program and one input."""
        setup = self._task.setup
        if self._task.function is None:
            return _STREAM.format(source=program, setup=setup, text=given, pipe_bytes=_PIPE_BYTES)
        return _CALL.format(
            encoder=ENCODER,
            mark=_MARK,
            source=program,
            setup=DEFAULT_IMPORTS + setup,
            call=given,
        )


def _printed(execution: Execution) -> Outcome:
    """The outcome of a program that prints."""
    if execution.status is not ExecutionStatus.OK:
        return Outcome(None, _reason(execution))
    return Outcome(execution.stdout)


def _returned(execution: Execution) -> Outcome:
    """The outcome of a call, whose value is on the last line."""
    if execution.status is not ExecutionStatus.OK:
        return Outcome(None, _reason(execution))
    _, mark, value = execution.stdout.rpartition(_MARK)
    return Outcome(value.strip()) if mark else Outcome(None, "ended without a value")


def _reason(execution: Execution) -> str:
    detail = execution.message or execution.status.value
    return f"{execution.error_type}: {detail}" if execution.error_type else detail


def inputs_of(task: CodeTask) -> list[str]:
    """The inputs that a search may run: those of the public tests, then the generated ones."""
    public = [test.call if isinstance(test, CallTest) else test.stdin for test in task.examples]
    return list(dict.fromkeys([*public, *task.inputs]))


def program_of(steps: Sequence[Step], task: CodeTask) -> str | None:
    """The program that the code of a path makes up; None if there is no code.

    For a function it is all code, so the program has the state in which the steps ran. For a
    program that reads standard input it is the last block, after the imports, functions and classes
    of the blocks before.
    """
    blocks: list[list[str]] = [[]]
    for step in steps:
        if step.code.strip():
            blocks[-1].append(python_in(step.code))
        if step.kind == "code":
            blocks.append([])
    codes = ["\n".join(block).rstrip() for block in blocks if block]
    if not codes:
        return None
    if task.function is None:
        codes = [*filter(None, map(_definitions, codes[:-1])), codes[-1]]
    return "\n".join(codes) + "\n"


def _definitions(code: str) -> str:
    """The imports, functions and classes of a block."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return "\n".join(ast.unparse(node) for node in body if isinstance(node, kept))
