"""The pool: prefixes, cancelling, dying zygotes, leftovers."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rstar_math.config import SandboxConfig
from rstar_math.errors import SandboxError
from rstar_math.sandbox import Sandbox, executor, processes
from rstar_math.sandbox.processes import Zygote
from rstar_math.types import Execution, ExecutionStatus, Step
from tests.integration.sandbox.runs import QUICK, gather, steps

OK, ERROR, TIMEOUT = ExecutionStatus.OK, ExecutionStatus.ERROR, ExecutionStatus.TIMEOUT


_EARLIER: set[int] = set()


@pytest.fixture(autouse=True)
def earlier() -> None:
    """Remember the processes that other tests left running, such as the pool of `run_snippet`."""
    _EARLIER.clear()
    _EARLIER.update(descendants())


def descendants() -> set[int]:
    """Processes below this one that the test started, by /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
    found = {os.getpid()}
    for _ in parents:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            break
        found |= more
    return found - {os.getpid()} - _EARLIER


def zygote_pids(sandbox: Sandbox) -> list[int]:
    return [zygote.pid for zygote in sandbox._zygotes]


def test_prefix_runs_in_one_namespace_and_prints_nothing() -> None:
    async def main() -> Execution:
        async with Sandbox(QUICK) as sandbox:
            prefix = steps("x = 2\nprint('hidden')", "", "def f(): return x + 1")
            return await sandbox.run(prefix, Step(code="print(f())"))

    assert asyncio.run(main()) == Execution(OK, "3\n")


def test_prefix_steps_are_replayed_by_how_they_ended() -> None:
    failed = Step(code="a = 1\n1 / 0\na = 2", execution=Execution(ERROR))
    timed_out = Step(code="a = 3\nwhile True: pass", execution=Execution(TIMEOUT))
    surprising = Step(code="b = 1\nraise KeyError", execution=Execution(OK))
    exits = Step(code="c = 1\nexit()")

    async def main() -> Execution:
        async with Sandbox(QUICK) as sandbox:
            prefix = [failed, timed_out, surprising, exits]
            return await sandbox.run(prefix, Step(code="print(a, b, c)"))

    assert asyncio.run(main()).stdout == "1 1 1\n"


def test_empty_code_runs_nothing() -> None:
    async def main() -> Execution:
        async with Sandbox(QUICK) as sandbox:
            result = await sandbox.run(steps("x = 1"), Step(prose="so"))
            assert not sandbox._zygotes
            return result

    assert asyncio.run(main()) == Execution(OK)


def test_equal_programs_run_once() -> None:
    async def main() -> list[Execution]:
        code = "import secrets; print(secrets.token_hex(8)); 1 / 0"
        async with Sandbox(QUICK) as sandbox:
            results = await gather(sandbox, (), steps(code) * 3)
            return [*results, await sandbox.run((), Step(code=code))]

    results = asyncio.run(main())
    assert len({result.stdout for result in results}) == 1
    assert results[0].stdout.strip()


def test_cancelling_one_caller_ends_only_its_process() -> None:
    async def main() -> list[str]:
        async with Sandbox(QUICK) as sandbox:
            codes = ["import time; time.sleep(3)", *(f"print({i})" for i in range(5))]
            tasks = [
                asyncio.create_task(sandbox.run(steps("x = 1"), Step(code=code))) for code in codes
            ]
            rest = await asyncio.gather(*tasks[1:])
            tasks[0].cancel()
            await asyncio.gather(tasks[0], return_exceptions=True)
            assert tasks[0].cancelled()
            while sandbox._zygotes[0].busy:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert len(descendants()) == (3 if processes.bwrap_works() else 2)  # zygote, forker
            return [result.stdout for result in rest]

    start = time.monotonic()
    assert asyncio.run(main()) == [f"{i}\n" for i in range(5)]
    assert time.monotonic() - start < 20


def test_a_killed_zygote_is_replaced_unnoticed() -> None:
    async def main() -> Execution:
        async with Sandbox(QUICK) as sandbox:
            await sandbox.run((), Step(code="print(0)"))
            [first] = zygote_pids(sandbox)
            task = asyncio.create_task(
                sandbox.run((), Step(code="import time; time.sleep(0.5); print('done')"))
            )
            await asyncio.sleep(0.2)
            os.kill(first, signal.SIGKILL)
            result = await task
            assert zygote_pids(sandbox) != [first]
            return result

    assert asyncio.run(main()) == Execution(OK, "done\n")


def test_a_program_under_which_zygotes_die_is_killed_not_retried_for_ever() -> None:
    async def main() -> Execution:
        async with Sandbox(QUICK) as sandbox:
            task = asyncio.create_task(sandbox.run((), Step(code="import time; time.sleep(3.5)")))
            while not task.done():
                for zygote in list(sandbox._zygotes):
                    if zygote.busy:
                        os.kill(zygote.pid, signal.SIGKILL)
                await asyncio.sleep(0.05)
            other = await sandbox.run((), Step(code="print(1)"))
            assert other == Execution(OK, "1\n")
            return await task

    assert asyncio.run(main()).status is ExecutionStatus.KILLED


def test_a_stopped_zygote_is_given_up() -> None:
    config = SandboxConfig(workers=1, timeout_s=0.5)

    async def main() -> Execution:
        async with Sandbox(config) as sandbox:
            await sandbox.run((), Step(code="print(0)"))
            os.kill(zygote_pids(sandbox)[0], signal.SIGSTOP)
            return await sandbox.run((), Step(code="print(1)"))

    assert asyncio.run(main()) == Execution(OK, "1\n")


def test_a_full_process_table_is_an_error_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async def main() -> Execution:
        async with Sandbox(QUICK) as sandbox:
            with monkeypatch.context() as patch:
                patch.setattr(subprocess, "Popen", refuse)
                with pytest.raises(SandboxError, match="process table"):
                    await sandbox.run((), Step(code="print(1)"))
            return await sandbox.run((), Step(code="print(1)"))

    assert asyncio.run(main()) == Execution(OK, "1\n")


def test_refused_forks_are_tried_again_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "MAX_FAILED_FORKS", 2)

    async def main() -> Execution:
        async with Sandbox(QUICK) as sandbox:
            await sandbox.run((), Step(code="print(0)"))
            task = asyncio.create_task(sandbox.run((), Step(code="print(1)")))
            await asyncio.sleep(0)
            job = next(iter(sandbox._jobs.values()))
            sandbox._on_failed_fork(job, "Resource temporarily unavailable")
            first = await task
            task = asyncio.create_task(sandbox.run((), Step(code="print(2)")))
            await asyncio.sleep(0)
            job = next(iter(sandbox._jobs.values()))
            for _ in range(2):
                sandbox._on_failed_fork(job, "Resource temporarily unavailable")
            with pytest.raises(SandboxError, match="process table"):
                await task
            return first

    assert asyncio.run(main()) == Execution(OK, "1\n")


def test_many_at_once_from_several_loops_leave_nothing_behind() -> None:
    async def main(sandbox: Sandbox) -> None:
        async with sandbox:
            codes = [f"print({i} ** 2)" for i in range(150)]
            results = await gather(sandbox, (), steps(*codes))
            assert [r.stdout for r in results] == [f"{i**2}\n" for i in range(150)]

    before = set(os.listdir("/proc/self/fd"))
    for _ in range(2):
        asyncio.run(main(Sandbox(SandboxConfig(workers=2))))
    assert descendants() == set()
    assert len(set(os.listdir("/proc/self/fd"))) <= len(before)


def test_nothing_outlives_a_parent_that_is_killed() -> None:
    program = """
    import asyncio, sys
    from rstar_math.sandbox import Sandbox
    from rstar_math.config import SandboxConfig
    from rstar_math.types import Step
    async def main():
        async with Sandbox(SandboxConfig(workers=1)) as sandbox:
            await sandbox.run((), Step(code="1"))
            tasks = [asyncio.create_task(sandbox.run([Step(code="a=1")], Step(code=f"import time; time.sleep({i})")))
                     for i in range(50, 56)]
            await asyncio.sleep(1)
            print("busy", flush=True)
            await asyncio.gather(*tasks)
    asyncio.run(main())
    """  # noqa: E501
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "busy\n"
        below = {pid for pid in descendants() if pid != parent.pid}
        assert len(below) >= 3
        parent.kill()
    end = time.monotonic() + 10
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in below):
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)


def test_an_error_message_can_be_written_to_a_file() -> None:
    async def main() -> Execution:
        async with Sandbox(QUICK) as sandbox:
            code = r"raise ValueError('not a digit: \ud835')"
            return await sandbox.run([], Step(code=code))

    result = asyncio.run(main())
    assert result.status is ERROR
    assert (result.message or "").startswith("not a digit: ")
    assert (result.message or "").encode()


def test_whoever_needs_no_scipy_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Zygote.start

    async def without_scipy(self: Zygote) -> None:
        if self.setup.preload:
            raise SandboxError("no scipy today")
        await start(self)

    monkeypatch.setattr(Zygote, "start", without_scipy)

    async def main() -> list[Execution | BaseException]:
        async with Sandbox(QUICK) as sandbox:
            await sandbox.run([], Step(code="print(0)"))
            prefix = steps("x = 1")
            texts = ["import scipy", *(f"print(x + {n})" for n in range(4))]
            runs = (sandbox.run(prefix, Step(code=text)) for text in texts)
            async with asyncio.timeout(30):
                return await asyncio.gather(*runs, return_exceptions=True)

    first, *others = asyncio.run(main())
    assert isinstance(first, SandboxError)
    assert [one.stdout for one in others if isinstance(one, Execution)] == [
        f"{n}\n" for n in range(1, 5)
    ]


def test_the_out_of_memory_killer_prefers_programs_and_zygotes() -> None:
    def score(pid: int) -> str:
        return Path(f"/proc/{pid}/oom_score_adj").read_text()

    async def main() -> set[str]:
        async with Sandbox(QUICK) as sandbox:
            await sandbox.run((), Step(code="print(0)"))
            return {score(pid) for pid in zygote_pids(sandbox)}

    if not processes.bwrap_works():  # it hides /proc
        assert asyncio.run(main()) == {"800\n"}


def test_a_killed_forker_is_replaced_with_its_zygote() -> None:
    async def main() -> list[str]:
        async with Sandbox(QUICK) as sandbox:
            await sandbox.run((), Step(code="print(0)"))
            before = zygote_pids(sandbox)
            # The newest descendant of an idle zygote is its forker.
            os.kill(max(descendants()), signal.SIGKILL)
            await asyncio.sleep(0.2)
            found = [(await sandbox.run((), Step(code=f"print({n})"))).stdout for n in (1, 2)]
            assert zygote_pids(sandbox) != before
            return found

    assert asyncio.run(main()) == ["1\n", "2\n"]
