"""Children that write noise into every descriptor, close them, and end in odd ways: every caller is
answered, and an honest neighbour is answered rightly."""

import asyncio
import random
import time

import pytest

from rstar_math.config import SandboxConfig
from rstar_math.sandbox import Sandbox
from rstar_math.types import Step

PRELUDE = """
import os
def quiet(function):
    def call(*arguments):
        try:
            function(*arguments)
        except OSError:
            pass
    return call
write, close, dup2 = quiet(os.write), quiet(os.close), quiet(os.dup2)
"""
ENDS = ("os._exit(9)", "os._exit(0)", "1 / 0", "raise MemoryError", "exit()", "os.abort()")
STATUSES = ("ok", "error", "memory", "timeout", "refused")
PREFIX_TIMES = ("1e308", "-1", "null", "1.5", "[]")


def line(rng: random.Random) -> str:
    fd = rng.choice([1, 2, 3, 3, 3, 4, 5, 9, 10, 11])
    status, prefix_s = rng.choice(STATUSES), rng.choice(PREFIX_TIMES)
    report = f'{{"id":1,"status":"{status}","prefix_s":{prefix_s}}}'.encode()
    return rng.choice(
        (
            f"write({fd}, {rng.randbytes(rng.randrange(200))!r})",
            f"write({fd}, {report!r})",
            f"write({fd}, b'x' * {rng.randrange(1, 20000)})",
            f"close({fd})",
            f"dup2({fd}, {rng.randrange(4)})",
            rng.choice(ENDS),
        )
    )


def noise(rng: random.Random) -> Step:
    lines = "\n".join(line(rng) for _ in range(rng.randrange(1, 6)))
    return Step(code=f"{PRELUDE}{lines}\n# {rng.random()}")


async def fuzz(seed: int, rounds: int, seconds: float) -> int:
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    done = 0
    async with Sandbox(SandboxConfig(workers=2, timeout_s=2, cpu_s=1)) as sandbox:
        while done < rounds and time.monotonic() < end:
            hostile = [noise(rng)] if rng.random() < 0.5 else []
            runs = [sandbox.run(hostile, noise(rng)) for _ in range(6)]
            mine = [Step(code=f"h = {done}")]
            runs += [sandbox.run(mine, Step(code=f"print(h + {i})")) for i in range(5)]
            async with asyncio.timeout(60):
                results = await asyncio.gather(*runs)
            assert [r.stdout for r in results[6:]] == [f"{done + i}\n" for i in range(5)]
            done += 1
    return done


def test_noise_from_children_desynchronises_nothing() -> None:
    assert asyncio.run(fuzz(seed=1, rounds=25, seconds=60)) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_noise_for_ten_minutes() -> None:
    assert asyncio.run(fuzz(seed=2, rounds=10**9, seconds=600)) > 100
