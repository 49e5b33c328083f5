"""Running a step's code, and counting it."""

from collections.abc import Sequence
from dataclasses import replace

from rstar_math.meter import charge
from rstar_math.protocols import Executor
from rstar_math.types import Cost, Step


async def executed(executor: Executor, prefix: Sequence[Step], step: Step) -> Step:
    """The step with what running it after its prefix did; a step without code as it is.

    Counts one program run, also where the executor answers from its memory: what a search costs
    does not depend on what ran before it.
    """
    if not step.code:
        return step
    execution = await executor.run(prefix, step)
    charge(Cost(code_runs=1, code_failures=0 if execution.ok else 1))
    return replace(step, execution=execution)
