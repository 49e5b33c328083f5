"""Runs the recipe `smoke`: rounds of search, curation, training, gates and measurement, on a random
model of some 100,000 weights and toy problems.

    pip install '.[train]'
    python examples/evolve_smoke.py [FOLDER]

Stopped, it goes on with the same folder. `rstar view FOLDER` shows its trees.
"""

import subprocess
import sys
import tempfile
from pathlib import Path


def main(folder: Path) -> None:
    """Evolve, then print the report's tables of what the rounds came to."""
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
