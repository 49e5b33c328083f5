"""`--tracker` of the commands: evaluations, searches, trainings and evolutions are recorded."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.errors import ConfigError, MissingDependencyError
from rstar_math.evolution.pipeline import evolve
from rstar_math.evolution.recipe import load_recipe
from rstar_math.testing import FakeServer, serving
from rstar_math.tracking import TrackedRun, track_trainings
from rstar_math.training.rows import solution_row
from rstar_math.training.settings import PolicyTraining
from rstar_math.training.sft import run_launcher
from tests.e2e.adder import answer
from tests.e2e.rstar import write_problems
from tests.integration.tracking.conftest import SECRET
from tests.integration.tracking.readers import files_with, read_mlflow, read_tensorboard
from tests.unit.training.tiny import question, save_tiny_policy, solution

BOTH = ("--tracker", "tensorboard", "--tracker", "mlflow")
FAST = ["--set", "learning_rate=3e-3", "--set", "batch_size=4", "--set", "bf16=false"]


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving(answer) as server:
        yield server


def call(*args: object) -> Any:
    """The JSON that a command prints."""
    result = CliRunner().invoke(app, [*map(str, args), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_evaluation_records_accuracy_tokens_and_solved_share(
    place: Path, fake: FakeServer
) -> None:
    file = write_problems(place, 6)
    args = ("--model", fake.url, "--strategy", "sc@2", "--tracker-run", "first", *BOTH)
    (row,) = call("eval", file, "--run", place / "run.rstar", *args)["strategies"]
    series, texts = read_tensorboard(place / "runs" / "first")
    for name, recorded in read_mlflow("first")[0].items():
        assert np.array(series[name]) == pytest.approx(np.array(recorded))
    assert [step for step, _ in series["sc_2/accuracy"]] == [1, 2, 3, 4, 5, 6]
    assert series["sc_2/accuracy"][-1][1] == pytest.approx(row["accuracy"])
    assert series["sc_2/sampled_tokens"][-1][1] == row["cost"]["sampled_tokens"]
    assert 0 <= series["sc_2/solved_share"][-1][1] <= 1
    assert texts["config/search.seed"] == "0"
    assert files_with(place, SECRET) == []


def test_a_search_that_goes_on_counts_what_is_done(place: Path, fake: FakeServer) -> None:
    file, run = write_problems(place, 4), place / "run.rstar"
    args = ("--model", fake.url, "--strategy", "greedy")
    call("search", file, "--run", run, *args, "--limit", 3)
    call("search", file, "--run", run, *args, "--tracker", "tensorboard", "--tracker-run", "more")
    ((step, _),) = read_tensorboard(place / "runs" / "more")[0]["greedy/sampled_tokens"]
    assert step == 4


def test_no_tracker_writes_nothing(place: Path, fake: FakeServer) -> None:
    file = write_problems(place, 2)
    call("eval", file, "--model", fake.url, "--strategy", "greedy")
    assert [path.name for path in place.iterdir()] == [file.name]


def test_an_unknown_tracker_is_named(place: Path) -> None:
    with pytest.raises(ConfigError, match="tensorboard"):
        call("eval", "x.jsonl", "--tracker", "spreadsheet")


def test_a_missing_tracker_stops_before_any_work(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rstar_math.tracking.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="trackio"):
        call("evolve", "smoke", "--run", place / "run", "--tracker", "trackio")
    assert not (place / "run").exists()


def train(place: Path, *args: object) -> Any:
    """A policy trained on a few solutions."""
    pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")
    base = place.parent / "base"
    if not base.exists():
        save_tiny_policy(base)
    rows = [solution_row(question(n), solution(n)) for n in range(8)]
    data = place.parent / "sft.jsonl"
    data.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    out = place.parent / "policy"
    return call("train", "policy", data, "--base", base, "--out", out, *FAST, *args)


def test_a_training_records_the_losses_that_it_reports(place: Path) -> None:
    losses = train(place, *BOTH, "--tracker-run", "sft")["losses"]
    series, texts = read_tensorboard(place / "runs" / "sft")
    reported = np.array([(entry["step"], entry["loss"]) for entry in losses])
    assert np.array(series["train/loss"]) == pytest.approx(reported, rel=1e-5)
    assert "learning_rate" in texts["args"]
    recorded, params, _ = read_mlflow("sft")
    assert np.array(recorded["loss"]) == pytest.approx(reported, rel=1e-5)
    assert float(params["learning_rate"]) == 3e-3
    assert files_with(place, SECRET) == []


def test_a_tracker_that_fails_does_not_stop_a_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "runs").write_text("not a folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    report = train(place, *BOTH)
    assert len(report["losses"]) == report["steps"] > 1
    assert (place.parent / "policy" / "rstar.json").is_file()


def test_a_training_that_a_launcher_starts_is_recorded(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3] / "src"))
    train(place)  # writes the data and the base
    launcher = (sys.executable, "-m")
    training = ["policy", str(place.parent / "sft.jsonl"), "--base", str(place.parent / "base")]
    settings = PolicyTraining(bf16=False, max_steps=2)
    with track_trainings(TrackedRun(("tensorboard",), "evolution/round-1/policy")):
        run_launcher(launcher, training, place.parent / "launched", settings, log=print)
    series, _ = read_tensorboard(place / "runs" / "evolution" / "round-1" / "policy")
    assert [step for step, _ in series["train/loss"]] == [1, 2]


SMALL = (
    'problems.train=["toy:tasks?size=60&seed=1"]',
    "problems.held_out=4",
    "rounds.1.problems=12",
    "sft.epochs=1",
    "sft.max_steps=3",
    "rounds.2.problems=3",
    "rounds.2.rollouts=2",
    "rounds.2.candidates=2",
    "rounds.3.problems=3",
    "rounds.3.rollouts=2",
    "rounds.3.retry_rollouts=[]",
    "gate.samples=2",
    'evaluation.benchmarks=[{source="toy:tasks?size=2&seed=2"}]',
    "evaluation.system=[]",
)


@pytest.mark.timeout(600)
def test_an_evolution_records_its_rounds_and_nests_its_trainings(place: Path) -> None:
    pytest.importorskip("trl", reason="training needs trl: pip install 'rstar-math[train]'")
    recipe, run = load_recipe("smoke", SMALL), place / "evolution"
    recipe = recipe.model_copy(update={"rounds": recipe.rounds[:1]})
    asyncio.run(evolve(recipe, run, trackers=("tensorboard", "mlflow")))
    name = json.loads((run / "tracker.json").read_text())["run"]
    assert name.startswith("evolution-")
    series, _, parent = read_mlflow(name)
    assert parent is None
    assert [step for step, _ in series["rounds/held_out/accuracy"]] == [1]
    assert series["rounds/solutions"][0] == (1, 12)
    losses, _, parent = read_mlflow(f"{name}/round-1/policy")
    assert parent == name
    assert len(losses["loss"]) > 0
    folder = place / "runs" / name
    assert read_tensorboard(folder)[0]["rounds/solutions"] == [(1, 12)]
    assert read_tensorboard(folder / "round-1" / "policy")[0]["train/loss"]

    asyncio.run(evolve(recipe, run, trackers=("mlflow",)))
    assert read_mlflow(name)[0]["rounds/solutions"] == [(1, 12)]
    assert files_with(place, SECRET) == []
