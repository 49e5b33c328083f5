"""Fan-outs: the same results as alone, sooner, and nobody held up."""

import asyncio
import time

import pytest

from rstar_math.config import SandboxConfig
from rstar_math.sandbox import Sandbox
from rstar_math.types import Execution, Step
from tests.integration.sandbox.runs import QUICK, gather, steps

PREFIXES = {
    "numbers": "import random, numpy as np\nx = random.random()\ny = np.random.rand()",
    "partial line": "print('a', end='')",
    "replaced stream": "import io, sys\nsys.stdout = io.StringIO()",
    "fails": "z = 1\n1 / 0",
    "never ends": "while True: pass",
    "leaves": "import os; os._exit(3)",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "eats": "l = []\nwhile True: l.append(bytearray(10**6))",
    "forks": "import os\ntry:\n    os.fork()\nexcept OSError as e: z = e.errno",
    "floods": "for _ in range(10**4): print('x' * 100)",
}
CANDIDATES = steps(
    "print(1)",
    "print(x, y, random.random(), np.random.rand())",
    "1 / 0",
    "import os; os._exit(4)",
    "print('x' * 10**6)",
    "x = 'a' * 10**10",
    "import os; os.fork()",
    "import resource; print(resource.getrlimit(7), resource.getrlimit(6))",
    "import ctypes; ctypes.string_at(0)",
    "print(z)",
    "def f(",
    "import threading; threading.Thread(target=print).start()",
    "import os; print(sorted(os.environ)); os.kill(os.getppid(), 9)",
)


Results = dict[str, list[Execution]]


@pytest.fixture(scope="module")
def fanned_and_alone() -> tuple[Results, Results]:
    """Every candidate after every prefix, in fan-outs and one at a time."""
    # Much wall time: on a busy machine the processor's must still end what never ends.
    config = SandboxConfig(workers=1, timeout_s=20, cpu_s=1, memory_mb=128)
    prefixes = {name: steps("w = 0", code) for name, code in PREFIXES.items()}

    async def together() -> Results:
        async with Sandbox(config) as sandbox:
            return {n: await gather(sandbox, p, CANDIDATES) for n, p in prefixes.items()}

    async def apart() -> Results:
        async with Sandbox(config) as sandbox:
            found: Results = {}
            for name, prefix in prefixes.items():
                chosen = CANDIDATES[:2] if name == "never ends" else CANDIDATES
                found[name] = [await sandbox.run(prefix, step) for step in chosen]
            return found

    return asyncio.run(together()), asyncio.run(apart())


@pytest.mark.parametrize("name", PREFIXES)
def test_fan_out_changes_no_result(name: str, fanned_and_alone: tuple[Results, Results]) -> None:
    fanned, alone = fanned_and_alone
    assert fanned[name][: len(alone[name])] == alone[name]


def test_a_slow_sibling_holds_up_nobody() -> None:
    async def main() -> list[str]:
        order: list[str] = []

        async def one(code: str) -> None:
            result = await sandbox.run(steps("q = 1"), Step(code=code))
            order.append(result.stdout)

        async with Sandbox(QUICK) as sandbox:
            slow = "import time; time.sleep(1.5); print('slow', {})"
            codes = [slow.format(i) for i in range(2)] + [f"print({i})" for i in range(8)]
            await asyncio.gather(*(one(code) for code in codes))
        return order

    order = asyncio.run(main())
    assert set(order[-2:]) == {"slow 0\n", "slow 1\n"}


def test_fan_outs_in_a_row_never_stall() -> None:
    async def main() -> float:
        async with Sandbox(SandboxConfig(workers=2)) as sandbox:
            await gather(sandbox, (), steps("1", "2", "3"))
            start = time.monotonic()
            for turn in range(20):
                codes = [f"print(x + {i})" for i in range(16)]
                results = await gather(sandbox, steps(f"x = {turn}"), steps(*codes))
                assert [r.stdout for r in results] == [f"{turn + i}\n" for i in range(16)]
            return time.monotonic() - start

    assert asyncio.run(main()) < 40


def test_a_slow_prefix_is_fanned_out_from_two_candidates_on() -> None:
    prefix = steps("import time; time.sleep(0.3)")

    async def main() -> tuple[float, float]:
        async with Sandbox(QUICK) as sandbox:
            await sandbox.run(prefix, Step(code="print(0)"))
            start = time.monotonic()
            await gather(sandbox, prefix, steps("print(1)", "print(2)", "print(3)"))
            return time.monotonic() - start, max(sandbox._times._times.values())

    took, measured = asyncio.run(main())
    assert measured > 0.25
    assert took < 0.85  # three replays would take 0.9 s of sleep alone
