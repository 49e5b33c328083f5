"""Shorthand of the pool's tests."""

import asyncio
from collections.abc import Sequence

from rstar_math.config import SandboxConfig
from rstar_math.sandbox import Sandbox
from rstar_math.types import Execution, Step

QUICK = SandboxConfig(workers=1, timeout_s=4, cpu_s=2)


def steps(*codes: str) -> list[Step]:
    return [Step(code=code) for code in codes]


async def gather(
    sandbox: Sandbox, prefix: Sequence[Step], candidates: Sequence[Step]
) -> list[Execution]:
    return await asyncio.gather(*(sandbox.run(prefix, step) for step in candidates))
