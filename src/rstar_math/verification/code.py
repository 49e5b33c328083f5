"""Verifier, grouping, execution and scores of programs."""

from collections.abc import Sequence
from dataclasses import dataclass

from rstar_math.concurrency import gather
from rstar_math.protocols import Executor
from rstar_math.sandbox.executor import Sandbox
from rstar_math.search.equivalence import normalized_program
from rstar_math.tasks import CodeTask, HiddenTests, StreamTest
from rstar_math.types import Execution, Question, Step, Verdict
from rstar_math.verification.agreement import generate_inputs
from rstar_math.verification.programs import ProgramRunner, inputs_of, program_of

MAX_PROGRAM_CHARS = 100_000
"""Longer programs are wrong without being run."""
MAX_INPUTS = 24
"""Maximum number of inputs on which programs are compared."""
GENERATED_INPUTS = 8
"""Number of generated inputs for a task that brings none. Right programs may differ on an input
that the problem excludes; then they vote apart."""
_TESTS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class ProgramVerifier:
    """Judges programs by the public and the hidden tests of a problem."""

    sandbox: Sandbox
    task: CodeTask
    reference: HiddenTests

    async def judge(self, answer: str) -> Verdict:
        """Whether the program passes all tests. It ends at the first that fails.

        UNKNOWN if there are no tests. Raises `SandboxError`.
        """
        tests = list(dict.fromkeys([*self.task.examples, *self.reference.tests]))
        if not tests:
            return Verdict.UNKNOWN
        if len(answer) > MAX_PROGRAM_CHARS:
            return Verdict.WRONG
        runner = ProgramRunner(self.sandbox, self.task)
        for start in range(0, len(tests), _TESTS_AT_ONCE):
            batch = tests[start : start + _TESTS_AT_ONCE]
            if not all(await gather(runner.passes(answer, test) for test in batch)):
                return Verdict.WRONG
        return Verdict.RIGHT


async def group_programs(sandbox: Sandbox, task: CodeTask, programs: Sequence[str]) -> list[int]:
    """The class of each program: programs with equal outputs on all inputs are equal.

    The inputs are those of the public tests and generated ones: those of the task, else changed
    public inputs. A program that fails on all of them, and any program of a task without inputs, is
    only equal to the same program in other words (`search.equivalence`).
    """
    inputs = inputs_of(task)
    if not task.inputs:
        inputs += generate_inputs(task, seed=0, count=GENERATED_INPUTS)
    runner, inputs = ProgramRunner(sandbox, task), inputs[:MAX_INPUTS]
    unique = list(dict.fromkeys(programs))

    async def key_of(program: str) -> object:
        outputs: tuple[str | None, ...] = ()
        if len(program) <= MAX_PROGRAM_CHARS:
            outputs = tuple(await gather(runner.behaviour(program, given) for given in inputs))
        if any(output is not None for output in outputs):
            return outputs
        return normalized_program([Step(code=program)])

    keys = dict(zip(unique, await gather(map(key_of, unique)), strict=True))
    numbers: dict[object, int] = {}
    return [numbers.setdefault(keys[program], len(numbers)) for program in programs]


class ExampleScorer:
    """Values programs by the share of the public tests that they pass. A `protocols.Scorer`.

    A prefix whose last code block is open, and any prefix without public tests, has the value 0.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`: 2 * share - 1."""
        task = question.task
        if not isinstance(task, CodeTask) or not task.examples:
            return [0.0] * len(prefixes)
        return list(await gather(self._value(task, prefix) for prefix in prefixes))

    async def _value(self, task: CodeTask, prefix: Sequence[Step]) -> float:
        if not prefix or prefix[-1].kind == "step":
            return 0.0
        program = prefix[-1].answer or program_of(prefix, task)
        if program is None or len(program) > MAX_PROGRAM_CHARS:
            return -1.0
        runner = ProgramRunner(self._sandbox, task)
        passed = await gather(runner.passes(program, test) for test in task.examples)
        return 2 * sum(passed) / len(passed) - 1


class ExampleExecutor:
    """Runs the steps of programs that read standard input: it holds the first public input.

    A `protocols.Executor` around another one. Each step runs with the whole input, as a program
    does that is run anew.
    """

    def __init__(self, inner: Executor, text: str) -> None:
        self._inner = inner
        self._setup = Step(
            code="import io as _io, sys as _sys\n"
            f"_sys.stdin = _io.TextIOWrapper(_io.BytesIO({text.encode()!r}), encoding='utf-8')\n"
        )

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        return await self._inner.run((self._setup, *prefix), step)


class SetupExecutor:
    """Runs the steps of a function after the setup of its task. A `protocols.Executor`."""

    def __init__(self, inner: Executor, setup: str) -> None:
        self._inner = inner
        self._setup = Step(code=setup)

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        return await self._inner.run((self._setup, *prefix), step)


def executor_for(question: Question, executor: Executor) -> Executor:
    """The executor of a question's steps. Hidden tests have no part in it."""
    task = question.task
    if not isinstance(task, CodeTask):
        return executor
    if task.setup:
        executor = SetupExecutor(executor, task.setup)
    if task.function is not None:
        return executor
    streams = [test.stdin for test in task.examples if isinstance(test, StreamTest)]
    text = next(iter([*streams, *task.inputs]), "")
    return ExampleExecutor(executor, text)
