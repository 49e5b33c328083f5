"""New problems written and solved by a model: in an evolution and by the command, stopped and
killed, with an evaluation's questions among the drafts."""

import asyncio
import json
import os
import re
import signal
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
from rstar_math.evaluation.recorded import Grading, Terms, read
from rstar_math.evolution.journal import Facts, Journal
from rstar_math.evolution.recipe import Recipe, checked
from rstar_math.evolution.rounds import evolve
from rstar_math.evolution.searching import finished_in, solved_in
from rstar_math.evolution.store import RunStore
from rstar_math.evolution.summary import write_summary
from rstar_math.evolution.synthesis import Order, solving, synthesise
from rstar_math.evolution.watching import Budget, BudgetSpent
from rstar_math.problems import read_problems
from rstar_math.problems.settings import SynthesisConfig
from rstar_math.problems.synthesis import Known
from rstar_math.search.strategy import Strategy
from rstar_math.testing import FakeServer, serving
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

    def recipe(self, **synthesis: Any) -> Recipe:
        """Two rounds of search by the server's model."""
        one = {"model": {"url": self.server.url}, "rollouts": 2, "candidates": 2}
        one |= {"policy": False, "ppm": False, "scorer": False}
        tree = {
            "first": False,
            "problems": {"train": [str(self.train)], "held_out": 3},
            "synthesis": {"requests": 10, "solutions": 6, **synthesis},
            "rounds": [one, one] if synthesis.get("requests", 1) else [{**one, "problems": 3}],
            "sandbox": {"workers": 1},
            "grading": {"workers": 1},
            "evaluation": {"sets": [{"source": str(self.exam)}], "policy": [], "system": []},
        }
        return checked(tree, "test")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    drafter = Drafter((EXAM, EXAM, EXAM, *TRAIN))
    with serving(drafter, model="drafter") as server:
        yield Place(tmp_path_factory.mktemp("place"), server, drafter)


def outcome(run: Path) -> dict[str, Any]:
    """What a run came to, stage by stage, without the clock."""
    return {one["stage"]: (one["inputs"], one["found"]) for one in Journal.read(run).manifests()}


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evolution that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    place.drafter.asked.clear()
    asyncio.run(evolve(place.recipe(), run))
    return run


def facts(run: Path, stage: str) -> Facts:
    """What a stage came to."""
    found = Journal.read(run).facts(stage)
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

    async def judge(answer: str, reference: str) -> Verdict:
        return Verdict.RIGHT if answer == reference else Verdict.WRONG

    rows = written(whole)
    with RunStore.read(whole / "round-0/synthetic.rstar") as store:
        results = {result.problem: result for result in store.results("sc@6")}
        for row in rows:
            tree = store.tree(row["id"], "sc@6")
            judged = replace(results[row["id"]], verdict=Verdict.RIGHT)
            problem = Problem(Question(row["id"], row["problem"]), row["answer"])
            terms = Terms("sc", 6, "majority")
            reading = asyncio.run(read(problem, judged, tree, Grading(group, judge), terms))
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
    searched = [solved_in(whole / f"round-{n}/search.rstar").keys() for n in (1, 2)]
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
    page = write_summary(Journal.read(whole))[0].read_text()
    assert "New problems written by a model" in page
    assert "synthetic, mostly contradicted" in page
    assert f"| a held-out problem | {counts['a held-out problem']} |" in page


def test_stopped_again_and_again_it_comes_to_the_same(
    place: Place, whole: Path, tmp_path: Path
) -> None:
    run, stages = tmp_path / "run", ("0/problems", "0/synthesis")
    for stop, tokens in enumerate((250, 900, 2000)):
        with pytest.raises(BudgetSpent):
            asyncio.run(evolve(place.recipe(), run, budget=Budget(tokens=tokens)))
        assert (run / "round-0/synthetic.rstar").exists() == (stop > 0)
        assert (run / "round-0/synthesis.stage.json").exists() == (stop == 2)
        if stop == 0:  # as a kill in the middle of a line leaves it
            with (run / "round-0/drafts.jsonl").open("ab") as file:
                file.write(b'{"request": 9, "se')
        if stop == 1:  # as a kill before anything is in it leaves it
            left = run / "round-1/search.rstar"
            left.parent.mkdir()
            left.touch()
    before, after = outcome(whole), outcome(run)
    assert {stage: after[stage] for stage in stages} == {stage: before[stage] for stage in stages}
    files = ("drafts.jsonl", "synthetic.jsonl")
    lines = [[(at / "round-0" / f).read_text().splitlines() for f in files] for at in (run, whole)]
    assert sorted(lines[0][0]) == sorted(lines[1][0])
    assert lines[0][1] == lines[1][1]


def test_an_evolution_without_it_has_the_stages_it_had(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    asyncio.run(evolve(place.recipe(requests=0), run))
    assert set(outcome(run)) == {"0/problems", "1/search", "1/curate"}
    assert not list((run / "round-0").glob("*synthetic*"))
    assert "unreliable" not in facts(run, "1/curate")
    told = run / "recipe.json"
    older = json.loads(told.read_text())
    del older["recipe"]["synthesis"]
    told.write_text(json.dumps(older))
    asyncio.run(evolve(place.recipe(requests=0), run))
    told.write_text(json.dumps(older))
    with pytest.raises(ConfigError, match=r"synthesis\.requests was 0 and now is 10"):
        asyncio.run(evolve(place.recipe(), run))


def order(place: Place, **options: Any) -> Order:
    """What is asked for without an evolution."""
    settings = ["sandbox.workers=1", "grading.workers=1"]
    config = load_config(None, settings, model=place.server.url)
    return Order(
        SynthesisConfig(**{"requests": 2, "solutions": 4, **options}),
        solving(config),
        read_problems(place.train),
        [Known("in a set", {"exam": read_problems(place.exam)})],
    )


def test_more_requests_go_on_with_what_is_there(place: Place, tmp_path: Path) -> None:
    few = asyncio.run(synthesise(order(place), tmp_path))
    drafts, asked = place.drafter.drafts, len(place.drafter.asked)
    again = asyncio.run(synthesise(order(place), tmp_path))
    assert again == few
    assert (place.drafter.drafts, len(place.drafter.asked)) == (drafts, asked)
    more = asyncio.run(synthesise(order(place, requests=4), tmp_path))
    assert place.drafter.drafts == drafts + 2
    assert {one.problem.id for one in few.kept} <= {one.problem.id for one in more.kept}
    stricter = asyncio.run(synthesise(order(place, agreeing=4), tmp_path))
    assert all(one.agreement.agreeing == 4 for one in stricter.kept)
    with pytest.raises(ConfigError, match="made with shots = 3 and now it is 2"):
        asyncio.run(synthesise(order(place, shots=2), tmp_path))


ONE = ("--set", "sandbox.workers=1", "--set", "grading.workers=1")
ARGS = ("--requests", "8", "--solutions", "5", "--json", *ONE)


def test_a_killed_command_goes_on_to_the_same_file(place: Place, tmp_path: Path) -> None:
    def command(name: str) -> tuple[str, ...]:
        out, run = tmp_path / f"{name}.jsonl", tmp_path / name
        places = ("--out", str(out), "--run", str(run), "--without", str(place.exam))
        model = ("--model", place.server.url)
        return ("synthesise", str(place.train), *places, *model, *ARGS)

    undisturbed = rstar(*command("whole"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    report = json.loads(undisturbed.stdout)
    assert report["counts"]["kept"] == len(read_problems(tmp_path / "whole.jsonl"))
    assert report["counts"]["asked for"] == sum(report["counts"].values()) / 2 == 32

    slow = 0.15
    for at in ("drafts", "solutions"):
        place.server.delay_s = slow
        process = subprocess.Popen(
            [*COMMAND, *command("killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(tmp_path / "killed", at)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        place.server.delay_s = 0.0
        assert not (tmp_path / "killed.jsonl").exists()
    again = rstar(*command("killed"))
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert json.loads(again.stdout)["counts"] == report["counts"]


def wait_for(run: Path, what: str) -> None:
    """Return when a command under way has some of its drafts, or some of its solutions."""
    for _ in range(1200):
        time.sleep(0.02)
        if what == "drafts":
            file = run / "drafts.jsonl"
            if file.is_file() and file.read_bytes().count(b"\n") > 2:
                return
        elif len(finished_in(run / "synthetic.rstar", Strategy("sc", 5))) > 1:
            return
    raise AssertionError(f"no {what} in time")


def test_errors_are_one_sentence(place: Place, tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", TRAIN[:2])
    common = ("--out", str(tmp_path / "out.jsonl"), "--run", str(tmp_path / "run"))
    for args, said in (
        ((str(few),), "Each request shows 3 seed problems and there are 2"),
        ((str(place.train), "--agreeing", "11"), "agreeing = 11 is above solutions = 10"),
    ):
        line = ["synthesise", *args, *common, "--requests", "1", "--model", place.server.url]
        with pytest.raises(ConfigError, match=said):
            CliRunner().invoke(app, line, catch_exceptions=False)
