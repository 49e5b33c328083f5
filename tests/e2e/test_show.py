"""`rstar show`: the list, one problem, and a run from somebody else."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.rstar import COMMAND
from tests.integration.viewer.runs import write_harm, write_pair


def shown(run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """What `rstar show` prints."""
    command = [*COMMAND, "show", str(run), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_list_and_one_problem(tmp_path: Path) -> None:
    run, _ = write_pair(tmp_path)
    assert "sc@4" in shown(run).stdout
    one = shown(run, "2", "--strategy", "mcts", "--verbose").stdout
    assert "Answer" in one
    assert "sc@4" not in one
    assert shown(run, "99").returncode == 2
    assert shown(run, "--strategy", "beam@4").returncode == 2


@pytest.mark.parametrize("more", [[], ["1"], ["1", "--verbose"]])
def test_a_run_from_somebody_else_cannot_steer_the_terminal(
    tmp_path: Path, more: list[str]
) -> None:
    printed = shown(write_harm(tmp_path / "harm.rstar"), *more)
    assert printed.returncode == 0, printed.stderr
    assert "window.harmed" in printed.stdout
    assert not set(printed.stdout) & set("\x1b\x00\u202e\u2066\ud800")
