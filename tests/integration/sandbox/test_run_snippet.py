"""`run_snippet`, and the layers that `probe` tests."""

import asyncio
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from rstar_math.config import SandboxConfig
from rstar_math.errors import SandboxError
from rstar_math.sandbox import UNPROTECTED, Sandbox, probe, processes, run_snippet, versions
from rstar_math.types import Execution, ExecutionStatus, Step

OK = ExecutionStatus.OK


def test_runs_a_snippet() -> None:
    assert run_snippet("print(6 * 7)") == Execution(OK, "42\n")
    failed = run_snippet("1 / 0")
    assert (failed.ok, failed.error_type) == (False, "ZeroDivisionError")


def test_limits_are_the_callers() -> None:
    assert run_snippet("while True: pass", wall_s=0.5).status is ExecutionStatus.TIMEOUT
    assert run_snippet("bytearray(100 << 20)", memory_mb=64).status is ExecutionStatus.MEMORY
    capped = run_snippet("print('x' * 100)", output_bytes=10)
    assert (capped.status, capped.stdout) == (ExecutionStatus.OUTPUT_CAP, "x" * 10)


def test_any_thread_and_a_running_loop_may_call() -> None:
    async def inside() -> str:
        return run_snippet("print('loop')").stdout

    with ThreadPoolExecutor(8) as threads:
        codes = [f"print({i} + 100)" for i in range(24)]
        found = [result.stdout for result in threads.map(run_snippet, codes)]
    assert found == [f"{i + 100}\n" for i in range(24)]
    assert asyncio.run(inside()) == "loop\n"


def test_a_forked_copy_starts_its_own_and_exit_is_clean() -> None:
    program = """
    import os, warnings
    warnings.simplefilter("ignore")
    from rstar_math.sandbox import run_snippet
    print(run_snippet("print('parent')").stdout, end="", flush=True)
    pid = os.fork()
    if pid == 0:
        print(run_snippet("print('child')").stdout, end="", flush=True)
        raise SystemExit
    os.waitpid(pid, 0)
    print(run_snippet("print('parent again')").stdout, end="", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("parent\nchild\nparent again\n", "")
    assert done.returncode == 0


def test_all_needed_layers_hold_here() -> None:
    layers = {layer.name: layer for layer in probe()}
    assert all(layer.holds for name, layer in layers.items() if name != "bwrap"), layers
    assert all(layer.stops and layer.detail for layer in layers.values())
    assert UNPROTECTED


def test_versions_name_python_and_the_libraries() -> None:
    assert {"python", "sympy", "numpy"} <= versions().keys()


def test_strict_mode_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "readable", lambda: ["/"])
    monkeypatch.setattr(processes, "bwrap_works", lambda: False)

    async def main() -> None:
        async with Sandbox(SandboxConfig(workers=1)) as sandbox:
            await sandbox.run((), Step(code="print(1)"))

    with pytest.raises(SandboxError, match=r"read a file.*mode=external"):
        asyncio.run(main())


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="needs Linux"):
        processes.start_process(processes.ZygoteSetup())


def test_zygotes_start_whatever_the_number_of_their_socket() -> None:
    async def one() -> Execution:
        async with Sandbox(SandboxConfig(workers=1)) as sandbox:
            return await sandbox.run((), Step(code="print(1)"))

    async def main() -> list[Execution]:
        return await asyncio.gather(*(one() for _ in range(5)))

    # Odd numbers first, then even ones: one of the ten is the number that a zygote moves it to.
    assert asyncio.run(main()) == [Execution(OK, "1\n")] * 5
    held = os.open(os.devnull, os.O_RDONLY)
    try:
        assert asyncio.run(main()) == [Execution(OK, "1\n")] * 5
    finally:
        os.close(held)


def test_no_environment_of_the_caller_reaches_a_snippet() -> None:
    names = run_snippet("import os; print(sorted(os.environ))").stdout
    assert "PYTHONHASHSEED" in names
    assert "USER" not in names
    assert set(processes.environment()) - {"LD_LIBRARY_PATH"} <= set(eval(names))
    assert os.environ.keys() - processes.environment().keys()


def test_external_mode_still_limits_time_and_memory() -> None:
    async def main() -> list[Execution]:
        config = SandboxConfig(mode="external", workers=1, timeout_s=2, cpu_s=0.5)
        async with Sandbox(config) as sandbox:
            codes = ("while True: pass", "bytearray(10**10)", "print(open('/etc/hostname'))")
            return [await sandbox.run((), Step(code=code)) for code in codes]

    slow, large, reads = asyncio.run(main())
    assert slow.status is ExecutionStatus.TIMEOUT
    assert large.status is ExecutionStatus.MEMORY
    assert "hostname" in reads.stdout
