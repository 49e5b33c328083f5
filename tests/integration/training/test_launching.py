"""Trainings that a launcher starts: real processes that train together, and what is said when one
fails."""

import sys
from pathlib import Path

import pytest

from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.runs.export import write_rows
from rstar_math.training.rows import SftRow, solution_row
from rstar_math.training.settings import PolicyTraining
from rstar_math.training.sft import run_launcher
from tests.integration.training.checkpoint import weights
from tests.unit.training.tiny import question, save_tiny_policy, solution

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

SETTINGS = PolicyTraining(
    learning_rate=1e-2,
    epochs=2,
    batch_size=4,
    micro_batch_size=2,
    weight_decay=0,
    save_steps=2,
    bf16=False,
    progress_s=0,
)
ROWS = [solution_row(question(n), solution(n)) for n in range(12)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sft.jsonl"
    write_rows(path, SftRow, ROWS)
    return path


def test_two_processes_train_the_model_that_one_trains(tmp_path: Path, data: Path) -> None:
    from rstar_math.training.sft import train_policy

    base = save_tiny_policy(tmp_path / "base")
    said: list[str] = []
    train_policy(ROWS, str(base), tmp_path / "one", SETTINGS, log=said.append)
    alone = len(said)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m")
    training = ["policy", str(data), "--base", str(base)]
    run_launcher(launcher, training, tmp_path / "two", SETTINGS, log=said.append)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    moved = max(float((one[n] - w).abs().max()) for n, w in weights(base).items())
    assert moved > 0.01
    assert max(float((one[n] - two[n]).abs().max()) for n in one) < moved / 1000
    assert len(said) == 2 * alone == 12, "each step is told once"


def test_a_training_that_fails_says_why(tmp_path: Path, data: Path) -> None:
    training = ["policy", str(data), "--base", str(tmp_path / "nothing")]
    with pytest.raises(InputError, match=r"There is no .*/nothing"):
        run_launcher((sys.executable, "-m"), training, tmp_path / "out", SETTINGS, log=print)
    assert not (tmp_path / "out").exists()


def test_a_launcher_that_is_not_there_is_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(MissingDependencyError, match="accelerated"):
        run_launcher(("accelerated",), ["policy", str(data)], tmp_path / "out", SETTINGS, log=print)
