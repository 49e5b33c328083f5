"""The scratch folder: what it holds, who sees it, its quota, and its end."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rstar_math.config import SandboxConfig
from rstar_math.sandbox import Sandbox, executor
from rstar_math.sandbox.programs import Program
from rstar_math.sandbox.scheduling import WritingPrograms
from rstar_math.types import Execution, ExecutionStatus, Step
from tests.integration.sandbox.runs import QUICK, gather, steps

pytestmark = pytest.mark.usefixtures("scratch_works")
OK = ExecutionStatus.OK
LIST = "import os\nprint(sorted(os.listdir('.')))"


def run(code: str, *prefix: str, config: SandboxConfig = QUICK) -> Execution:
    async def main() -> Execution:
        async with Sandbox(config) as sandbox:
            return await sandbox.run(steps(*prefix), Step(code=code))

    return asyncio.run(main())


def run_together(prefix: str, *codes: str) -> list[Execution]:
    async def main() -> list[Execution]:
        async with Sandbox(QUICK) as sandbox:
            return await gather(sandbox, steps(prefix), steps(*codes))

    return asyncio.run(main())


def run_apart(prefix: str, *codes: str) -> list[Execution]:
    async def main() -> list[Execution]:
        async with Sandbox(QUICK) as sandbox:
            return [await sandbox.run(steps(prefix), step) for step in steps(*codes)]

    return asyncio.run(main())


USES = {
    "temporary folder": (
        "import tempfile, pathlib\nwith tempfile.TemporaryDirectory() as d:\n"
        "    p = pathlib.Path(d, 'a', 'b.txt')\n    p.parent.mkdir()\n    p.write_text('x')\n"
        "    print(p.read_text())\nprint(pathlib.Path(d).exists())",
        "x\nFalse\n",
    ),
    "temporary files": (
        "import tempfile\nfor make in (tempfile.TemporaryFile, tempfile.NamedTemporaryFile):\n"
        "    with make('w+') as f:\n        f.write('y')\n        f.seek(0)\n"
        "        print(f.read())",
        "y\ny\n",
    ),
    "rename and remove": (
        "import os\nopen('a', 'w').close()\nos.mkdir('d')\nos.rename('a', 'd/b')\n"
        "print(os.listdir('d'))\nos.remove('d/b')\nos.rmdir('d')\nprint(os.listdir('.'))",
        "['b']\n[]\n",
    ),
    "copy and tree": (
        "import shutil, os\nos.makedirs('a/b')\nopen('a/b/c', 'w').write('z')\n"
        "shutil.copyfile('a/b/c', 'd')\nshutil.rmtree('a')\nprint(os.listdir('.'))",
        "['d']\n",
    ),
    "database": (
        "import sqlite3\nwith sqlite3.connect('a.db') as c:\n    c.execute('create table t(x)')\n"
        "    c.execute('insert into t values (4)')\n"
        "print(sqlite3.connect('a.db').execute('select x from t').fetchone())",
        "(4,)\n",
    ),
    "arrays": (
        "import numpy as np\nnp.save('a.npy', np.arange(3))\nprint(np.load('a.npy'))", "[0 1 2]\n"
    ),
    "null device": ("import os\nprint(6, file=open(os.devnull, 'w'))\nprint(7)", "7\n"),
    "where": (
        "import os, tempfile\nhere = os.getcwd()\n"
        "print({os.environ[n] == here for n in ('HOME', 'TMPDIR', 'MPLCONFIGDIR')}, "
        "tempfile.gettempdir() == here == os.path.expanduser('~'))",
        "{True} True\n",
    ),
    "nothing written": (
        f"{LIST}\nprint(os.getcwd() != '/', os.path.exists('a'))", "[]\nTrue False\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_programs_that_use_files(name: str) -> None:
    code, printed = USES[name]
    assert run(code) == Execution(OK, printed)


def test_all_kinds_of_runs_have_the_same_folder() -> None:
    where = "import os\nprint(os.getcwd())"
    prefixes = ("x = 1", "open('a', 'w').close()")
    found = {run(where, prefix).stdout for prefix in prefixes}
    found |= {
        result.stdout for result in run_together("x = 1", *(f"{where} #{n}" for n in range(6)))
    }
    assert len(found) == 1


CANDIDATES = [f"open('c{n}', 'w').write('{n}')\n{LIST}\nprint(open('p').read())" for n in range(6)]


def test_candidates_see_the_files_of_their_prefix_and_not_those_of_siblings() -> None:
    prefix = "open('p', 'w').write('from the prefix')"
    results = run_together(prefix, *CANDIDATES)
    assert [r.stdout for r in results] == [f"['c{n}', 'p']\nfrom the prefix\n" for n in range(6)]
    assert results == run_apart(prefix, *CANDIDATES)


def test_candidates_that_write_first_see_only_their_own_files() -> None:
    codes = [f"open('c{n}', 'w').close()\n{LIST}" for n in range(5)]
    codes.append(LIST)
    results = run_together("x = 1", *codes)
    assert [r.stdout for r in results] == [*(f"['c{n}']\n" for n in range(5)), "[]\n"]


def test_a_file_that_the_prefix_left_open_is_not_shared() -> None:
    prefix = "f = open('log', 'w+')\nf.write('p')\nf.flush()"
    codes = [f"f.write('{n}')\nf.seek(0)\nprint(f.read())" for n in range(6)]
    assert [r.stdout for r in run_together(prefix, *codes)] == [f"p{n}\n" for n in range(6)]


def test_a_pipe_that_the_prefix_left_open_is_not_shared() -> None:
    prefix = "import os\nr, w = os.pipe2(os.O_NONBLOCK)"
    codes = [f"os.write(w, b'{n}')\nprint(os.read(r, 99))" for n in range(6)]
    assert [r.stdout for r in run_together(prefix, *codes)] == [f"b'{n}'\n" for n in range(6)]


def test_an_event_loop_of_the_prefix_runs_on() -> None:
    prefix = "import asyncio\nloop = asyncio.new_event_loop()\nasync def f(n): return n"
    codes = [f"print(loop.run_until_complete(f({n})))" for n in range(6)]
    assert [r.stdout for r in run_together(prefix, *codes)] == [f"{n}\n" for n in range(6)]


def test_programs_do_not_see_the_files_of_others_that_run_or_have_run() -> None:
    async def main() -> list[str]:
        async with Sandbox(QUICK) as sandbox:
            writes = Step(code="import time\nopen('secret', 'w').close()\ntime.sleep(1.5)")
            other = asyncio.create_task(sandbox.run((), writes))
            await asyncio.sleep(0.8)
            probe = f"open('mine', 'w').close()\n{LIST}"
            during = await sandbox.run((), Step(code=probe))
            assert not other.done()
            assert (await other).ok
            after = await sandbox.run((), Step(code=f"{probe} # after"))
            return [during.stdout, after.stdout, (await sandbox.run((), Step(code=LIST))).stdout]

    assert asyncio.run(main()) == ["['mine']\n", "['mine']\n", "[]\n"]


def test_the_quota_is_that_of_the_configuration() -> None:
    config = QUICK.model_copy(update={"scratch_mb": 2, "scratch_files": 8})
    size = """
    n = 0
    try:
        for name in "abcd":
            with open(name, "wb", buffering=0) as f:
                while True:
                    n += f.write(bytes(1 << 16))
    except OSError:
        print(n)
    """
    count = """
    n = 0
    try:
        while True:
            open(f"a{n}", "w").close()
            n += 1
    except OSError:
        print(n)
    """
    assert int(run(textwrap.dedent(size), config=config).stdout) == 2 << 20
    assert run(textwrap.dedent(count), config=config).stdout == "8\n"


def test_a_removed_file_gives_its_space_back() -> None:
    write = "open('a', 'wb').write(bytes(12 << 20))"
    code = f"import os\nfor n in range(6):\n    {write}\n    os.remove('a')\nprint(n)"
    assert run(code) == Execution(OK, "5\n")


def folders() -> set[str]:
    """The mount namespaces of running processes in which a writable tmpfs has our quota."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                mounts = (entry / "mountinfo").read_text()
                if "size=40960k,nr_inodes=78" in mounts:
                    found.add(os.readlink(entry / "ns" / "mnt"))
            except OSError:
                continue
    return found


QUOTA = QUICK.model_copy(update={"scratch_mb": 40, "scratch_files": 77, "timeout_s": 60.0})
FILLS = "import time\nopen('a', 'wb').write(bytes(30 << 20))\ntime.sleep({})"


def wait_until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 15
    while time.monotonic() < end and not condition():
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("how", ["ends", "crashes", "is cancelled", "killed zygote"])
def test_the_folder_ends_with_the_program(how: str) -> None:
    async def main() -> None:
        async with Sandbox(QUOTA) as sandbox:
            code = FILLS.format(1 if how != "is cancelled" else 50)
            code += "\nimport ctypes; ctypes.string_at(0)" if how == "crashes" else ""
            task = asyncio.create_task(sandbox.run((), Step(code=code)))
            assert await asyncio.to_thread(wait_until, lambda: bool(folders()))
            if how == "is cancelled":
                task.cancel()
            if how == "killed zygote":
                before = folders()
                os.kill(sandbox._zygotes[0].pid, signal.SIGKILL)
                assert await asyncio.to_thread(wait_until, lambda: not before & folders())
            await asyncio.gather(task, return_exceptions=True)
            assert await asyncio.to_thread(wait_until, lambda: not folders())

    asyncio.run(main())


def test_the_folder_ends_with_a_parent_that_is_killed() -> None:
    program = f"""
    import asyncio
    from rstar_math.config import SandboxConfig
    from rstar_math.sandbox import Sandbox
    from rstar_math.types import Step
    async def main():
        config = SandboxConfig(workers=1, timeout_s=60, scratch_mb=40, scratch_files=77)
        async with Sandbox(config) as sandbox:
            await sandbox.run((), Step(code={FILLS.format(50)!r}))
    asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)]) as parent:
        assert wait_until(lambda: bool(folders()))
        parent.kill()
    assert wait_until(lambda: not folders())


def test_many_fillings_leave_no_memory_behind() -> None:
    def shared() -> int:
        """Memory of tmpfs files on this machine, in KiB."""
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Shmem:"))

    async def main() -> None:
        async with Sandbox(QUOTA) as sandbox:
            code = "open('a', 'wb').write(bytes(30 << 20))"
            results = await gather(sandbox, (), steps(*(f"{code} # {n}" for n in range(20))))
            assert all(result.ok for result in results)

    before = shared()
    asyncio.run(main())
    assert wait_until(lambda: shared() < before + (100 << 10))


TEMPORARY = "import tempfile\ntempfile.mkdtemp()"


def test_without_the_namespaces_nothing_can_be_written() -> None:
    async def main() -> list[Execution]:
        async with Sandbox(QUICK, _skip={"scratch"}) as sandbox:
            codes = ("open('a', 'w')", "import os\nos.mkdir('a')", "print(1)", TEMPORARY)
            return [await sandbox.run((), step) for step in steps(*codes)]

    first, second, third, fourth = asyncio.run(main())
    assert first.error_type == second.error_type == "PermissionError"
    assert third == Execution(OK, "1\n")
    assert not fourth.ok


def test_locks_of_a_program_reach_no_file_outside() -> None:
    code = """
    import fcntl, os, time
    open("a", "w").close()
    for name in ("a", os.__file__):
        with open(name) as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            fcntl.lockf(f, fcntl.LOCK_SH)
            if name == os.__file__:
                time.sleep(1.5)
                print("held")
    """

    def lock_and_unlock() -> None:
        """Raises BlockingIOError if somebody else has the lock."""
        with open(os.__file__) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    async def main() -> Execution:
        async with Sandbox(QUICK) as sandbox:
            task = asyncio.create_task(sandbox.run((), Step(code=textwrap.dedent(code))))
            while not task.done():
                lock_and_unlock()
                await asyncio.sleep(0.1)
            return await task

    assert asyncio.run(main()) == Execution(OK, "held\n")


FORGES = 'import os\nos.write(3, b\'{"status": "needs_scratch"}\')\nos._exit(0)'


def test_who_asks_for_ever_is_run_twice() -> None:
    assert run(FORGES).status is ExecutionStatus.EXITED
    assert run(FORGES, "open('a', 'w').close()").status is ExecutionStatus.EXITED
    assert {r.status for r in run_together(FORGES, *CANDIDATES)} == {ExecutionStatus.EXITED}


def test_what_runs_twice_prints_once_and_draws_the_same_numbers() -> None:
    code = "import random\nprint(random.random())\nopen('a', 'w').close()\nprint(random.random())"
    without = "import random\nprint(random.random())\nprint(random.random())"
    assert run(code) == run(without)


def test_a_program_that_writes_is_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Counting(WritingPrograms):
        def add(self, program: Program) -> None:
            asked.append(program)
            super().add(program)

    monkeypatch.setattr(executor, "WritingPrograms", Counting)

    async def main() -> list[str]:
        async with Sandbox(QUICK) as sandbox:
            first = await sandbox.run((), Step(code="open('a', 'w').write('7')"))
            assert first.ok
            prefix = steps("open('a', 'w').write('7')")
            codes = [f"print(open('a').read(), {n})" for n in range(5)]
            results = await gather(sandbox, prefix, steps(*codes))
            return [result.stdout for result in results]

    assert asyncio.run(main()) == [f"7 {n}\n" for n in range(5)]
    assert len(asked) == 1
