"""README's Python is run, and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.rstar import rstar

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert code.count("\n") <= 12
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False
    )
    assert run.returncode == 0, run.stderr
    assert re.match(r"(\S.* \{.+\}\n# |None \{\}\n|\S.* \{.+\}\n)", run.stdout), run.stdout


def test_every_verb_of_the_readme_exists() -> None:
    verbs = set(re.findall(r"^    rstar (\w+)", README, re.MULTILINE))
    assert len(verbs) >= 6
    for verb in verbs:
        assert rstar(verb, "--help").returncode == 0


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README)
    local = [target for target in targets if not target.startswith("http")]
    assert local
    assert [t for t in local if not (ROOT / t.partition("#")[0]).exists()] == []
