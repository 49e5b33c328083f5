"""Where the scratch folder is, and what makes a program ask for one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rstar_math.sandbox.child import scratch

ASKS = """
import os, sys
from rstar_math.sandbox.child import scratch
def ask():
    print("asked")
    os._exit(0)
os.chdir("{folder}")
scratch.ask_when_needed("{folder}", ask)
try:
    {code}
except Exception:
    pass
print("not asked", flush=True)
os._exit(0)
"""
WRITES = [
    "open('a', 'w')", "open('a', 'ab')", "open('a', 'x')", "open('{folder}/a', 'r+')",
    "os.open(b'a', os.O_RDWR)", "os.mkdir('a')", "os.makedirs('{folder}/a/b')",
    "open('/dev/null', 'w')", "__import__('sqlite3').connect('a.db')",
    "__import__('tempfile').TemporaryFile(dir='{folder}')", "__import__('numpy').save('a', [1])",
]  # fmt: skip
OTHERS = [
    "open('a')", "open('/etc/passwd', 'r')", "open('/var/none', 'w')", "open('../a', 'w')",
    "os.mkdir('/none/a')", "__import__('sqlite3').connect(':memory:')", "open(1, 'w', closefd=0)",
    "open('{folder}x', 'w')", "os.listdir('.')", "open(None, 'w')", "open('a\\0', 'w')",
]  # fmt: skip


def asked(code: str, folder: Path) -> bool:
    program = ASKS.format(folder=folder, code=code.format(folder=folder))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout in ("asked\n", "not asked\n"), done.stderr
    return done.stdout == "asked\n"


@pytest.mark.parametrize("code", WRITES)
def test_who_writes_asks(code: str, tmp_path: Path) -> None:
    assert asked(code, tmp_path)


@pytest.mark.parametrize("code", OTHERS)
def test_who_does_not_write_there_does_not_ask(code: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert not asked(code, folder)


def test_the_folder_hides_no_library() -> None:
    first, second = [point for point in scratch.MOUNT_POINTS if os.path.isdir(point)][:2]
    assert scratch.choose_mount_point(["/usr/lib"]) == first
    assert scratch.choose_mount_point([f"{first}/python/lib"]) == second
    assert scratch.choose_mount_point([first]) == second
    assert scratch.choose_mount_point(["/"]) is None
