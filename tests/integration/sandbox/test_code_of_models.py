"""Programs as models write them: what runs and how the rest fails, as docs/security.md says."""

import asyncio
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from rstar_math.config.sections import SandboxConfig
from rstar_math.sandbox import Sandbox, run_snippet
from rstar_math.sandbox.programs import python_in
from rstar_math.types import Step

PAGE = Path(__file__).resolve().parents[3] / "docs" / "security.md"
FENCED = "Here is the program:\n```python\nx = 3\nprint(x)\n```\nIt prints 3.\n```output\n3\n```\n"
CASES: dict[str, tuple[str, str, str | None]] = {
    "Markdown fences and prose around a program": (FENCED, "3\n", None),
    "reasoning before a program": ("<think>Let me see.</think>\nprint(4)", "4\n", None),
    '`if __name__ == "__main__"`': (
        'def main():\n    print(5)\nif __name__ == "__main__":\n    main()', "5\n", None
    ),
    "`exit()`, `quit()`, `sys.exit()`": ("import sys\nprint(6)\nsys.exit(1)", "6\n", None),
    "`input()`": ("print(7)\nx = input('n? ')", "7\nn? ", "EOFError"),
    "numpy, sympy, scipy, pandas and other installed packages": (
        "import numpy, sympy\nprint(sympy.Integer(8) + numpy.int64(0))", "8\n", None
    ),
    "deep recursion after `sys.setrecursionlimit`": (
        "import sys\nsys.setrecursionlimit(10**6)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20000))", "20000\n", None
    ),
    "integers of any length": ("print(len(str(2**100000)))", "30103\n", None),
    "alarms and signal handlers": ("import signal\nsignal.alarm(9)\nprint(9)", "9\n", None),
    "a last line that is an expression": ("x = 3\nx * 2", "", None),
    "writing and reading files": (
        "with open('a.txt', 'w') as f:\n    f.write('8')\nprint(open('a.txt').read())", "8\n", None
    ),
    "temporary files and folders": (
        "import os, tempfile\nwith tempfile.TemporaryDirectory() as d:\n"
        "    open(os.path.join(d, 'a'), 'w').close()\n    print(os.listdir(d))", "['a']\n", None
    ),
    "SQLite databases": (
        "import sqlite3\nc = sqlite3.connect('a.db')\n"
        "print(c.execute('select 1 + 2').fetchone())", "(3,)\n", None
    ),
    "links, modes and dates of files (`os.symlink`, `os.chmod`, `shutil.copy`)": (
        "import shutil\nopen('a', 'w').close()\nshutil.copy('a', 'b')", "", "PermissionError"
    ),
    "another working folder (`os.chdir`)": (
        "import os\nos.mkdir('a')\nos.chdir('a')", "", "PermissionError"
    ),
    "plots with matplotlib": (
        "import os\nimport matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4], label='$x^2$')\n"
        "plt.legend()\nplt.savefig('a.png')\nplt.show()\nprint(os.path.getsize('a.png') > 1000)",
        "True\n", None
    ),
    "asyncio": (
        "import asyncio\nasync def f(n):\n    await asyncio.sleep(n / 100)\n    return n\n"
        "async def main():\n    print(await asyncio.gather(f(2), f(1)))\nasyncio.run(main())",
        "[2, 1]\n", None
    ),
    "threads (`threading`)": (
        "import threading\nthreading.Thread(target=print).start()", "", "RuntimeError"
    ),
    "pools of threads (`ThreadPoolExecutor`, `asyncio.to_thread`)": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor() as pool:\n    list(pool.map(abs, [1]))", "", "RuntimeError"
    ),
    "processes (`subprocess`, `multiprocessing.Process`)": (
        "import subprocess\nsubprocess.run(['true'])", "", "PermissionError"
    ),
    "pools of processes (`multiprocessing.Pool`, `ProcessPoolExecutor`)": (
        "import multiprocessing\nwith multiprocessing.Pool(2) as pool:\n    pool.map(abs, [1])",
        "", "PermissionError"
    ),
    "`os.system`": ("import os\nprint(os.system('true') == 0)", "False\n", None),
    "the network": ("import socket\nsocket.socket()", "", "PermissionError"),
}  # fmt: skip
NO_MATPLOTLIB = find_spec("matplotlib") is None


@pytest.mark.parametrize("what", CASES)
def test_a_program_as_models_write_it(what: str) -> None:
    code, printed, error = CASES[what]
    if what.startswith("plots") and NO_MATPLOTLIB:
        printed, error = "", "ModuleNotFoundError"
    result = run_snippet(code)
    assert result.stdout == printed
    assert result.error_type == error
    assert result.ok == (result.error_type is None)


def test_the_page_has_a_row_for_each_case() -> None:
    part = PAGE.read_text(encoding="utf-8").partition("## Code as models write it")[2]
    rows = re.findall(r"^\| (.+?) \| ", part.partition("\n## ")[0], re.MULTILINE)
    assert set(CASES) <= set(rows)
    assert len(rows) == len(CASES) + 1  # the head


def test_a_program_that_only_mentions_fences_is_left_as_it_is() -> None:
    for code in ("print('```python')", "x = 1", "s = 'a ``` b'\nprint(s)"):
        assert python_in(code) == code


def test_several_blocks_are_one_program() -> None:
    text = "First:\n```python\nx = 1\n```\nThen\n```py\nprint(x + 1)\n```\n```text\nnot code\n```"
    assert run_snippet(text).stdout == "2\n"


LEFT = """
import signal
def late(*_): raise TimeoutError("late")
signal.signal(signal.SIGALRM, late)
signal.setitimer(signal.ITIMER_REAL, 0.2)
"""


@pytest.mark.parametrize("candidates", [1, 5])
def test_an_alarm_of_an_earlier_step_does_not_end_a_later_one(candidates: int) -> None:
    async def once() -> list[str]:
        async with Sandbox(SandboxConfig(workers=1)) as sandbox:
            first = Step(prose="", code=LEFT, kind="code")
            codes = [f"import time\ntime.sleep(0.5)\nprint({n})" for n in range(candidates)]
            steps = [Step(prose="", code=code, kind="code") for code in codes]
            results = await asyncio.gather(*(sandbox.run([first], step) for step in steps))
            return [result.stdout for result in results]

    assert asyncio.run(once()) == [f"{n}\n" for n in range(candidates)]
