"""Rounds of self-evolution of a tiny model for real: sampled, run, judged, curated, trained, gated,
measured; stopped and killed at any moment, they come to the same."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="training needs trl: pip install 'rstar-math[train]'")

from rstar_math.errors import ConfigError, MissingDependencyError
from rstar_math.evolution.manifest import ManifestStore
from rstar_math.evolution.pipeline import evolve
from rstar_math.evolution.progress import BudgetSpent, NullListener, RunBudget
from rstar_math.evolution.recipe import Recipe, load_recipe
from rstar_math.evolution.report import evolution_state, write_summary
from tests.integration.outcomes import outcome

SETTINGS = (
    'problems.train=["toy:tasks?size=200&seed=1"]',
    "problems.held_out=6",
    "rounds.1.problems=24",
    "sft.epochs=50",
    "sft.save_steps=40",
    "rounds.2.problems=16",
    "rounds.2.rollouts=4",
    "rounds.2.candidates=8",
    "rounds.3.problems=6",
    "rounds.3.rollouts=4",
    "rounds.3.retry_rollouts=[2]",
    "preference.epochs=1",
    "preference.held_out=0.3",
    "gate.samples=2",
    'evaluation.benchmarks=[{source="toy:tasks?size=4&seed=2"}]',
    'evaluation.system=["mcts@2"]',
)


class Told(NullListener):
    """Remembers which stages were begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        self.begun.append(stage)


def newest(folder: Path) -> float:
    """When anything in a folder was last written."""
    times = [0.0]
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("smoke", SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("evolution") / "run"
    asyncio.run(evolve(recipe, run))
    return run


def test_all_rounds_are_done_and_told(undisturbed: Path) -> None:
    found = evolution_state(ManifestStore.read(undisturbed))
    assert found.complete
    _, first, second, third = found.rounds
    assert first.solutions == 24
    assert second.searched == 16
    assert 0 < second.solved <= 16
    assert second.pairs
    assert second.solutions is not None
    assert second.solutions > 24
    assert third.searched == 6
    for one in (second, third):
        assert one.policy_gate is not None
        assert one.ppm_gate is None or 0 <= one.ppm_gate["shares"]["weighted"] <= 1
    assert second.ppm is not None
    measured = [one.system for one in found.rounds if one.system]
    assert len(measured) == 1, "the system is measured after the last round only"
    with ManifestStore.read(undisturbed) as manifests:
        page, _, data = write_summary(manifests)
    text = page.read_text()
    assert f"{100 * second.solved / 16:.1f} % of 16" in text
    assert "paper, Table 3" in text
    assert json.loads(data.read_text())["rounds"][2]["solved"] == second.solved


def test_every_label_is_the_verifiers_and_no_held_out_problem_is_learned(undisturbed: Path) -> None:
    rows = (undisturbed / "round-3" / "sft.jsonl").read_text().splitlines()
    learned = {json.loads(row)["problem"] for row in rows}
    ids = {
        name: {json.loads(line)["id"] for line in path.read_text().splitlines()}
        for name in ("train", "held-out", "set-1")
        for path in [undisturbed / "round-0" / f"{name}.jsonl"]
    }
    assert learned <= ids["train"]
    assert not learned & (ids["held-out"] | ids["set-1"])


def test_pairs_of_earlier_rounds_are_learned_from_again(undisturbed: Path) -> None:
    def pairs(file: str) -> list[tuple[str, str, str]]:
        rows = map(json.loads, (undisturbed / file).read_text().splitlines())
        return [(row["problem"], row["chosen"], row["rejected"]) for row in rows]

    second, third = pairs("round-2/data/preference.jsonl"), pairs("round-3/pairs.jsonl")
    assert pairs("round-2/pairs.jsonl") == second
    assert third[-len(second) :] == second
    assert len(third) > len(second)


def test_a_second_call_does_nothing(recipe: Recipe, undisturbed: Path) -> None:
    watch = Told()
    before = outcome(undisturbed)
    asyncio.run(evolve(recipe, undisturbed, listener=watch))
    assert watch.begun == []
    assert outcome(undisturbed) == before


def test_stopped_again_and_again_it_comes_to_the_same(
    recipe: Recipe, undisturbed: Path, tmp_path: Path
) -> None:
    run, stops = tmp_path / "run", 0
    while stops < 100:
        try:
            asyncio.run(evolve(recipe, run, budget=RunBudget(tokens=1900 + 331 * (stops % 7))))
            break
        except BudgetSpent:
            stops += 1
    assert stops > 2
    assert outcome(run) == outcome(undisturbed)


def test_another_recipe_is_refused(undisturbed: Path) -> None:
    other = load_recipe("smoke", (*SETTINGS, "sft.epochs=3"))
    with pytest.raises(ConfigError, match=r"sft\.epochs was 50"):
        asyncio.run(evolve(other, undisturbed))


def test_a_policy_may_go_on_from_the_one_in_use(tmp_path: Path) -> None:
    few = (
        "rounds.1.problems=24",
        "sft.max_steps=60",
        "rounds.2.problems=12",
        "evaluation.benchmarks=[]",
    )
    short = load_recipe(
        "smoke", (*SETTINGS, *few, 'init_from="current"', 'train_on="current_round"')
    )
    short = short.model_copy(update={"rounds": short.rounds[:2]})
    run = tmp_path / "run"
    asyncio.run(evolve(short, run))
    found = outcome(run)
    assert "from" not in found["1/policy"][0]
    assert found["2/policy"][0]["from"] == found["1/policy"][1]["weights"]
    notes = json.loads((run / "round-2" / "policy" / "rstar.json").read_text())
    assert notes["base"] == str(run / "round-1" / "policy")
    assert found["2/curate"][1]["to_train_on"] == found["2/curate"][1]["solutions"]


@pytest.mark.timeout(900)
def test_the_policy_is_better_after_every_round(tmp_path: Path) -> None:
    """The recipe as it is: what the second and third round are better at, they learned from
    solutions that they found themselves."""
    run = tmp_path / "run"
    example = Path(__file__).parents[2] / "examples" / "evolve_smoke.py"
    done = subprocess.run(
        [sys.executable, str(example), str(run)], capture_output=True, text=True, check=True
    )
    assert "| round 3 |" in done.stdout
    _, first, second, third = evolution_state(ManifestStore.read(run)).rounds
    shares = [next(iter(one.policy.values()))["greedy"]["share"] for one in (first, second, third)]
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] - shares[0] > 0.2
    for one in (second, third):
        assert one.policy_gate is not None
        assert one.policy_gate["promoted"]
        assert one.ppm is not None
    assert third.solved / third.searched > second.solved / second.searched


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_twenty_moments_it_comes_to_the_same(undisturbed: Path, tmp_path: Path) -> None:
    run, rng, kills = tmp_path / "run", random.Random(7), 0
    command = [sys.executable, "-m", "rstar_math.cli", "evolve", "smoke", "--run", str(run)]
    for setting in SETTINGS:
        command += ["--set", setting]
    while True:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        began = newest(run)
        while kills < 20 and process.poll() is None and newest(run) == began:
            time.sleep(0.05)
        wait = rng.uniform(0, 6) if kills < 20 else 1800.0
        try:
            _, said = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(0.2)
            continue
        assert process.returncode == 0, said.decode()
        break
    assert kills == 20, "it was done before it could be killed so often; wait less"
    assert outcome(run) == outcome(undisturbed)


def test_an_evolution_that_cannot_train_says_so_before_it_begins(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("rstar_math.training.trainer.version", none)
    with pytest.raises(MissingDependencyError, match=r"rstar-math\[train\]"):
        asyncio.run(evolve(recipe, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
