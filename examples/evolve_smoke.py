"""Runs the recipe `smoke`: rounds of search, curation, training, gates and evaluation.

It uses a random model of about 100,000 weights and toy problems.

    pip install '.[train]'
    python examples/evolve_smoke.py [FOLDER]

If it is interrupted, run it again with the same folder and it continues. `rstar view FOLDER` shows
its trees.
"""

import subprocess
import sys
import tempfile
from pathlib import Path


def main(folder: Path) -> None:
    """Run the evolution, then print the tables of the report."""
    command = [sys.executable, "-m", "rstar_math.cli", "evolve", "smoke", "--run", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = (folder / "report.md").read_text(encoding="utf-8")
    tables = [part for part in report.split("\n\n") if part.startswith(("| ours", "| kept"))]
    print("\n\n".join(tables))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made) / "smoke")
