"""A fan-out whose prefix is slow: its zygote neither spins nor is closed to other programs."""

import asyncio
import os
from pathlib import Path

from rstar_math.config.sections import SandboxConfig
from rstar_math.sandbox import Sandbox
from rstar_math.types import Step

SLOW = Step(prose="", code="import time\ntime.sleep(2)\nx = 1", kind="code")


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def supervisor_of(pid: int) -> int:
    """The zygote itself, where bubblewrap is around it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return supervisor_of(int(children[0])) if b"bwrap" in command and children else pid


def test_a_slow_prefix_holds_nothing_up() -> None:
    async def once() -> tuple[float, float, list[str]]:
        loop = asyncio.get_running_loop()
        async with Sandbox(SandboxConfig(workers=1)) as sandbox:
            await sandbox.run([], Step(prose="", code="print(0)", kind="code"))
            pid = supervisor_of(sandbox._zygotes[0].pid)
            steps = [Step(prose="", code=f"print(x + {i})", kind="code") for i in range(8)]
            fan = [asyncio.create_task(sandbox.run([SLOW], step)) for step in steps]
            await asyncio.sleep(0.5)
            before, start = cpu_s(pid), loop.time()
            other = await sandbox.run([], Step(prose="", code="print('now')", kind="code"))
            waited = loop.time() - start
            assert other.stdout == "now\n"
            await asyncio.sleep(0.7)
            used = cpu_s(pid) - before
            return waited, used, [execution.stdout for execution in await asyncio.gather(*fan)]

    waited, used, outputs = asyncio.run(once())
    assert outputs == [f"{i + 1}\n" for i in range(8)]
    assert waited < 1.2, "the other program did not wait for the prefix"
    assert used < 0.3, "the supervisor slept"
