"""New problems written and solved by a model: in an evolution and by the command, stopped and
killed, with an evaluation's questions among the drafts."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.config import load_config
from rstar_math.errors import ConfigError
from rstar_math.evaluation.results import AnswerJudge, RunTerms, grade_result
from rstar_math.evolution.manifest import ManifestStore, StageResult
from rstar_math.evolution.pipeline import evolve
from rstar_math.evolution.progress import BudgetSpent, NullListener
from rstar_math.evolution.recipe import Recipe, validate_recipe
from rstar_math.evolution.report import write_summary
from rstar_math.evolution.stages import finished_problems, solved_problems
from rstar_math.evolution.synthesis import (
    DRAFTS,
    Synthesis,
    SynthesisJob,
    majority_config,
    synthesize,
)
from rstar_math.problems import read_problems
from rstar_math.problems.sources import read_sources
from rstar_math.problems.synthesis import KnownProblems, SynthesisConfig
from rstar_math.protocols import AnswerGrouper
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.testing import FakeServer, serving
from rstar_math.training.curation.records import CurationConfig
from rstar_math.types import Problem, Question, Verdict
from tests.e2e.rstar import COMMAND, rstar
from tests.integration.drafter import Drafter

WHAT = ("pears", "stamps", "maps", "tents", "boats", "lamps", "drums", "kites", "forks", "ropes")
TRAIN = [
    (f"Mia has {10 + n} {what} and Leo has {20 + n} {what}. How many {what} have both of them?")
    for n, what in enumerate(WHAT)
]
EXAM = "A hall has 31 wooden chairs and 14 iron chairs in it. How many chairs are in the hall?"


def write(path: Path, texts: list[str]) -> Path:
    """A file of sums."""
    rows = []
    for n, text in enumerate(texts):
        numbers = [int(word) for word in text.split() if word.isdigit()]
        rows.append({"id": f"{path.stem}/{n}", "problem": text, "answer": str(sum(numbers))})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def total(text: str) -> int:
    """What a problem of the drafter comes to."""
    return sum(map(int, re.findall(r"\d+", text)[-2:]))


class Place:
    """A server, files of problems, and a recipe of two rounds that nobody trains in."""

    def __init__(self, folder: Path, server: FakeServer, drafter: Drafter) -> None:
        self.server, self.drafter = server, drafter
        self.train = write(folder / "train.jsonl", TRAIN)
        self.exam = write(folder / "exam.jsonl", [EXAM])

    def recipe(self) -> Recipe:
        """Two rounds of search by the server's model."""
        one = {"model": {"url": self.server.url}, "rollouts": 2, "candidates": 2}
        one |= {"policy": False, "ppm": False, "scorer": False}
        tree = {
            "evaluate_base": False,
            "problems": {"train": [str(self.train)], "held_out": 3},
            "synthesis": {"requests": 10, "solutions": 6},
            "rounds": [one, one],
            "sandbox": {"workers": 1},
            "grading": {"workers": 1},
            "evaluation": {"benchmarks": [{"source": str(self.exam)}], "policy": [], "system": []},
        }
        return validate_recipe(tree, "test")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    drafter = Drafter((EXAM, EXAM, EXAM, *TRAIN))
    with serving(drafter, model="drafter") as server:
        yield Place(tmp_path_factory.mktemp("place"), server, drafter)


def outcome(run: Path) -> dict[str, Any]:
    """What a run came to, stage by stage, without the clock."""
    return {one["stage"]: (one["inputs"], one["found"]) for one in ManifestStore.read(run).all()}


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evolution that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    place.drafter.asked.clear()
    asyncio.run(evolve(place.recipe(), run))
    return run


def facts(run: Path, stage: str) -> StageResult:
    """What a stage came to."""
    found = ManifestStore.read(run).result(stage)
    assert found is not None
    return found


def written(run: Path) -> list[dict[str, Any]]:
    """The lines of the new problems."""
    lines = (run / "round-0/synthetic.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_drafts_are_kept_where_enough_solutions_agree(place: Place, whole: Path) -> None:
    found = facts(whole, "0/synthesis")
    counts = found["counts"]
    assert counts["asked for"] == 40
    assert sum(n for name, n in counts.items() if name != "asked for") == 40
    for reason in ("unreadable", "without an answer", "without agreement"):
        assert counts[reason] > 0, reason
    rows = written(whole)
    assert len(rows) == counts["kept"] > 10
    for row in rows:
        told = row["provenance"]
        assert told["model"] == "drafter"
        assert len(told["seeds"]) == 3
        assert 3 <= told["agreeing"] <= told["solutions"] == 6
        right = total(row["problem"]) + 10 * ("coins" in row["problem"])
        assert int(row["answer"]) in (right, right + 1)
    assert not any("glass" in row["problem"] or "riddle" in row["problem"] for row in rows)
    assert any("coins" in row["problem"] for row in rows), "wrong, but all agree"


def test_what_is_asked_elsewhere_is_dropped_before_it_is_solved(place: Place, whole: Path) -> None:
    found = facts(whole, "0/synthesis")
    held = {problem.question.text for problem in read_problems(whole / "round-0/held-out.jsonl")}
    with RunStore.read(whole / "round-0/synthetic.rstar") as store:
        solved = {problem.question.text for problem in store.problems()}
    assert not solved & {EXAM, *TRAIN}
    assert EXAM not in place.drafter.asked
    assert not held & set(place.drafter.asked), "nor is it searched later"
    overlaps = {name.rpartition("/")[2]: number for name, number in found["overlaps"].items()}
    assert found["counts"]["in a set that is measured on"] == overlaps["exam"] > 0
    assert found["counts"]["a held-out problem"] == overlaps["held out"] > 0
    assert found["counts"]["a problem to learn from"] > 0
    assert any(one["draft"] == EXAM for one in found["examples"])


def test_agreement_counts_what_the_evaluation_counts(whole: Path) -> None:
    """Every chain is an attempt of its own, also equal ones and those without an answer."""

    async def group(answers: Any) -> list[int]:
        return [sorted(set(answers), key=list(answers).index).index(answer) for answer in answers]

    def grouper(question: Question) -> AnswerGrouper:
        return group

    async def judge(problem: Problem, answer: str) -> Verdict:
        return Verdict.RIGHT if answer == problem.reference else Verdict.WRONG

    rows = written(whole)
    with RunStore.read(whole / "round-0/synthetic.rstar") as store:
        results = {result.problem: result for result in store.results("sc@6")}
        for row in rows:
            tree = store.tree(row["id"], "sc@6")
            judged = replace(results[row["id"]], verdict=Verdict.RIGHT)
            problem = Problem(Question(row["id"], row["problem"]), row["answer"])
            terms = RunTerms(6, "majority")
            reading = asyncio.run(
                grade_result(problem, judged, tree, AnswerJudge(grouper, judge), terms)
            )
            assert len(reading.attempts) == 6
            agreeing = sum(attempt.right for attempt in reading.attempts)
            assert agreeing == row["provenance"]["agreeing"]


def test_they_are_learned_from_until_their_solutions_contradict_them(whole: Path) -> None:
    rows = read_problems(whole / "round-0/synthetic.jsonl")
    wrong = {row.id for row in rows if row.reference != str(total(row.question.text))}
    assert any("coins" in row.question.text for row in rows if row.id in wrong)
    first = facts(whole, "1/curate")
    assert {one["problem"] for one in first["unreliable"]} == wrong
    assert first["report"]["problems"]["synthetic, mostly contradicted"] == len(wrong)
    searched = [solved_problems(whole / f"round-{n}/search.rstar").keys() for n in (1, 2)]
    assert {row.id for row in rows} <= searched[0]
    assert {row.id for row in rows} - searched[1] == wrong
    for number in (1, 2):
        learned = {
            json.loads(line)["problem"]
            for line in (whole / f"round-{number}/sft.jsonl").read_text().splitlines()
        }
        assert learned & {row.id for row in rows}
        assert not learned & wrong
    assert "unreliable" not in facts(whole, "2/curate")
    counts = facts(whole, "0/synthesis")["counts"]
    page = write_summary(ManifestStore.read(whole))[0].read_text()
    assert "New problems written by a model" in page
    assert "synthetic, mostly contradicted" in page
    assert f"| a held-out problem | {counts['a held-out problem']} |" in page


class Stopping(NullListener):
    """Ends the work when a stage has done so much."""

    def __init__(self, stage: str, after: int) -> None:
        self.stage, self.left, self.now = stage, after, ""

    def begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        self.now = stage
        self._look()

    def advance(self, problem: Problem, *, solved: bool, tokens: int) -> None:
        self.left -= self.now == self.stage
        self._look()

    def _look(self) -> None:
        if self.now == self.stage and self.left <= 0:
            raise BudgetSpent("enough")


def test_stopped_again_and_again_it_comes_to_the_same(
    place: Place, whole: Path, tmp_path: Path
) -> None:
    run, stages = tmp_path / "run", ("0/problems", "0/synthesis")
    for stage, after in (("0/synthesis-drafts", 3), ("0/synthesis", 4), ("1/search", 0)):
        with pytest.raises(BudgetSpent):
            asyncio.run(evolve(place.recipe(), run, listener=Stopping(stage, after)))
        if after == 3:  # as a kill in the middle of a line leaves it
            with (run / "round-0/drafts.jsonl").open("ab") as file:
                file.write(b'{"request": 9, "se')
        if after == 4:  # as a kill before anything is in it leaves it
            (run / "round-1").mkdir()
            sqlite3.connect(run / "round-1/search.rstar").execute("PRAGMA journal_mode = WAL")
        assert (run / "round-0/synthesis.stage.json").exists() == (after == 0)
    before, after_all = outcome(whole), outcome(run)
    assert {at: after_all[at] for at in stages} == {at: before[at] for at in stages}
    files = [[at / "round-0" / name for at in (run, whole)] for name in (DRAFTS, "synthetic.jsonl")]
    drafts, kept = ([file.read_text().splitlines() for file in both] for both in files)
    assert sorted(drafts[0]) == sorted(drafts[1])
    assert kept[0] == kept[1]


def test_an_evolution_without_it_has_the_inputs_and_stages_it_had(tmp_path: Path) -> None:
    def recipe(**synthesis: Any) -> Recipe:
        one = {"data": "annotated", "problems": 5, "policy": False, "ppm": False}
        train = {"train": ["toy:tasks?size=20"], "held_out": 3}
        tree = {"evaluate_base": False, "problems": train, "synthesis": synthesis, "rounds": [one]}
        return validate_recipe(tree, "test")

    run = tmp_path / "run"
    asyncio.run(evolve(recipe(), run))
    found = outcome(run)
    assert {stage: set(inputs) for stage, (inputs, _) in found.items()} == {
        "0/problems": {"problems", "sets", "bootstrap"},
        "1/curate": {"curation", "train_on", "runs", "before"},
        "1/round": set(),
    }
    assert set(found["1/curate"][0]["curation"]) == set(CurationConfig.model_fields)
    assert "unreliable" not in found["1/curate"][1]
    asked = recipe(requests=10, model={"url": "http://localhost:1/v1"})
    with pytest.raises(ConfigError, match=r"synthesis\.requests was 0"):
        asyncio.run(evolve(asked, run))


ONE = ("--set", "sandbox.workers=1", "--set", "grading.workers=1", "--set", "model.concurrency=2")
ARGS = ("--requests", "6", "--solutions", "5", "--json", *ONE)


def order(place: Place, **options: Any) -> SynthesisJob:
    """What the command below asks for."""
    config = load_config(None, ONE[1::2], model=place.server.url)
    seeds, exam = read_sources([str(place.train)]), read_problems(place.exam)
    return SynthesisJob(
        SynthesisConfig(**{"requests": 6, "solutions": 5, **options}),
        majority_config(config),
        seeds,
        [
            KnownProblems("in an evaluation set", {"exam": exam}),
            KnownProblems("a seed problem", {"seeds": seeds}),
        ],
    )


@pytest.fixture(scope="module")
def six(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Synthesis]:
    """Six requests without an evolution, and the folder."""
    folder = tmp_path_factory.mktemp("six")
    return folder, asyncio.run(synthesize(order(place), folder))


def test_the_same_folder_goes_on(place: Place, six: tuple[Path, Synthesis]) -> None:
    folder, found = six
    drafts, asked = place.drafter.drafts, len(place.drafter.asked)
    assert asyncio.run(synthesize(order(place), folder)) == found
    fewer = asyncio.run(synthesize(order(place, requests=3), folder))
    assert {one.problem.id for one in fewer.kept} <= {one.problem.id for one in found.kept}
    stricter = asyncio.run(synthesize(order(place, min_agreement=4), folder))
    assert all(one.agreement.agreeing >= 4 for one in stricter.kept)
    with pytest.raises(ConfigError, match="created with shots = 3, not 2"):
        asyncio.run(synthesize(order(place, shots=2), folder))
    assert (place.drafter.drafts, len(place.drafter.asked)) == (drafts, asked)


def test_a_killed_command_goes_on_to_the_same_file(
    place: Place, six: tuple[Path, Synthesis], tmp_path: Path
) -> None:
    out, run = tmp_path / "out.jsonl", tmp_path / "run"
    places = ("--out", str(out), "--run", str(run), "--exclude", str(place.exam))
    command = ("synthesize", str(place.train), *places, "--model", place.server.url, *ARGS)
    for at in ("drafts", "solutions"):
        place.server.delay_s = 0.1
        process = subprocess.Popen(
            [*COMMAND, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(run, at)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        place.server.delay_s = 0.0
        assert not out.exists()
    again = rstar(*command)
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert report["counts"] == six[1].counts
    assert report["counts"]["asked for"] == sum(report["counts"].values()) / 2 == 24
    six[1].write(tmp_path / "undisturbed.jsonl")
    assert out.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def wait_for(run: Path, what: str) -> None:
    """Return when a command under way has some of its drafts, or some of its solutions."""
    for _ in range(1200):
        time.sleep(0.02)
        if what == "drafts":
            file = run / "drafts.jsonl"
            if file.is_file() and file.read_bytes().count(b"\n") > 2:
                return
        elif len(finished_problems(run / "synthetic.rstar", Strategy("sc", 5))) > 1:
            return
    raise AssertionError(f"no {what} in time")


def test_errors_are_one_sentence(place: Place, tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", TRAIN[:2])
    common = ("--out", str(tmp_path / "out.jsonl"), "--run", str(tmp_path / "run"))
    for args, said in (
        ((str(few),), "needs 3 seed problems but there are only 2"),
        ((str(place.train), "--min-agreement", "11"), "min_agreement = 11 is above solutions = 10"),
    ):
        line = ["synthesize", *args, *common, "--requests", "1", "--model", place.server.url]
        with pytest.raises(ConfigError, match=said):
            CliRunner().invoke(app, line, catch_exceptions=False)
