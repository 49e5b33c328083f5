"""The command as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "rstar_math.cli"]


def rstar(*args: object, timeout_s: float = 180) -> "subprocess.CompletedProcess[str]":
    """Run `rstar ...` to its end; an unexpected traceback fails the test."""
    run = subprocess.run(
        [*COMMAND, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in run.stderr, run.stderr
    return run


def write_problems(folder: Path, count: int) -> Path:
    """A file of `count` additions."""
    file = folder / "additions.jsonl"
    lines = (
        json.dumps({"id": f"add/{i}", "problem": f"Add {i} and {i + 3}.", "answer": str(2 * i + 3)})
        for i in range(count)
    )
    file.write_text("\n".join(lines))
    return file
