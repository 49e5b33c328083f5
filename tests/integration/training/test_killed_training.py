"""`rstar train` killed in the middle: the same command goes on and ends as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rstar_math.checkpoints.folders import is_complete
from rstar_math.cli import app
from rstar_math.errors import InputError, StoreError
from rstar_math.training.trainer import training_folder
from tests.integration.training.test_policy_training import ROWS as SOLUTIONS
from tests.integration.training.test_policy_training import equal
from tests.integration.training.test_preference_training import ROWS as PAIRS
from tests.unit.training.tiny import save_tiny_policy

pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

SETTINGS = (
    "learning_rate=1e-2",
    "batch_size=4",
    "micro_batch_size=2",
    "bf16=false",
    "save_steps=2",
)
ENDED = (*SETTINGS, "max_steps=9", "epochs=12", "progress_s=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy and rows for both trainers."""
    folder = tmp_path_factory.mktemp("data")
    save_tiny_policy(folder / "base")
    for name, rows in (("sft", SOLUTIONS), ("preference", PAIRS[:60])):
        lines = (row.model_dump_json() + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def command(kind: str, data: Path, out: Path) -> list[str]:
    sets = [part for setting in ENDED for part in ("--set", setting)]
    return ["train", kind, str(data), "--base", str(data / "base"), "--out", str(out), *sets]


def losses(kind: str, data: Path, out: Path) -> object:
    """The losses of the command's whole training, step by step."""
    run = CliRunner().invoke(app, [*command(kind, data, out), "--json"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)["losses"]


@pytest.mark.parametrize("kind", ["policy", "ppm"])
def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been(
    data: Path, tmp_path: Path, kind: str
) -> None:
    whole = losses(kind, data, tmp_path / "whole")
    out, work = tmp_path / "killed", tmp_path / "killed.training"
    process = subprocess.Popen(
        [sys.executable, "-m", "rstar_math.cli", *command(kind, data, out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    assert any(line.startswith("step 5 ") for line in process.stderr)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not out.exists()
    assert is_complete(work / "checkpoint-4")
    # What a kill in the middle of saving leaves: a folder without its mark.
    torn = work / "checkpoint-8"
    torn.mkdir(exist_ok=True)
    (torn / "model.safetensors").write_bytes(b"half")
    (torn / "rstar.json").unlink(missing_ok=True)
    assert losses(kind, data, out) == whole
    assert equal(out, tmp_path / "whole")
    assert not work.exists()


def test_one_training_at_a_time_in_one_place(tmp_path: Path) -> None:
    def begin(**inputs: int) -> None:
        with training_folder(tmp_path / "out", inputs) as work:
            (work / "checkpoint-2").mkdir(exist_ok=True)

    with training_folder(tmp_path / "out", {"rows": 1}) as work:
        with pytest.raises(StoreError, match="Another process is training"):
            begin(rows=2)
        assert json.loads((work / "inputs.json").read_text()) == {"rows": 1}
    begin(rows=1)
    with pytest.raises(InputError, match="other data or settings"):
        begin(rows=2)
