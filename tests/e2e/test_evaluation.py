"""Evaluations as a person runs them: killed and gone on with, made larger, reported on."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rstar_math.errors import RstarError
from rstar_math.runs.store import RunStore
from rstar_math.search import to_record
from rstar_math.testing import FakeServer, serving
from tests.e2e.adder import answer
from tests.e2e.rstar import COMMAND, rstar, write_problems

FEW = ("--set", "search.rollouts=2", "--set", "search.candidates=2")


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving(answer) as server:
        yield server


def everything(path: Path) -> list[object]:
    """All results of a run with their trees."""
    with RunStore.read(path) as store:
        return [
            (r.problem, s, r.choice, r.verdict, to_record(store.tree(r.problem, s)))
            for s in store.strategies()
            for r in store.results(s)
        ]


def test_a_killed_evaluation_goes_on_as_if_it_never_was(tmp_path: Path) -> None:
    file = write_problems(tmp_path, 24)
    with serving(answer, delay_s=0.03) as fake:
        args = [str(file), "--strategy", "sc@3,mcts", "--model", fake.url, *FEW]
        args += ["--set", "search.parallel_problems=2"]
        whole, killed = tmp_path / "whole.rstar", tmp_path / "killed.rstar"
        assert rstar("eval", *args, "--run", whole).returncode == 0
        for wait_s in (1.4, 1.9):
            process = subprocess.Popen(
                [*COMMAND, "eval", *args, "--run", str(killed)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                process.wait(wait_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        done = 0
        with suppress(RstarError):
            done = len(everything(killed))
        assert done < 48
        last = rstar("eval", *args, "--run", killed, "--json")
    assert last.returncode == 0
    assert [row["problems"] for row in json.loads(last.stdout)["strategies"]] == [24, 24]
    assert everything(killed) == everything(whole)


def test_more_problems_reuse_what_is_done_and_other_options_are_refused(
    fake: FakeServer, tmp_path: Path
) -> None:
    file, kept = write_problems(tmp_path, 6), tmp_path / "run.rstar"
    args = (file, "--strategy", "sc@2", "--run", kept, "--model", fake.url, *FEW)
    assert rstar("eval", *args, "--limit", 2).returncode == 0
    first = everything(kept)
    asked = len(fake.requests)
    report = json.loads(rstar("eval", *args, "--limit", 5, "--json").stdout)
    assert report["strategies"][0]["problems"] == 5
    texts = {body["prompt"].rpartition("Question: ")[2].partition("\n")[0] for body in
             fake.requests[asked:]}  # fmt: skip
    assert texts == {f"Add {i} and {i + 3}." for i in (2, 3, 4)}
    assert everything(kept)[:2] == first
    refused = rstar("eval", *args, "--set", "search.candidates=3")
    assert refused.returncode == 2
    assert "search.candidates = 2, but it is now 3" in refused.stderr
    assert len(everything(kept)) == 5


def test_a_benchmark_by_name_and_a_report_on_it(fake: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "svamp"
    folder.mkdir(parents=True)
    write_problems(tmp_path, 4).rename(folder / "test.jsonl")
    kept = tmp_path / "run.rstar"
    named = ("--dataset", "svamp", "--data", folder.parent)
    run = rstar("eval", *named, "--strategy", "greedy,sc@3", "--run", kept, "--model", fake.url,
                *FEW, "--json")  # fmt: skip
    assert run.returncode == 0
    assert "SHA-256" in run.stderr
    report = json.loads(run.stdout)
    assert report["file"] == "svamp"
    row = report["strategies"][1]
    assert row["cost_per_problem"]["samples"] == row["cost"]["samples"] / 4
    out = tmp_path / "report"
    run = rstar("report", kept, "--out", out, "--inspect", "--lm-eval", "--json")
    assert [Path(f).name for f in json.loads(run.stdout)["files"]] == [
        "report.md",
        "report.html",
        "trees-1.html",
        "run-greedy.json",
        "run-sc-3.json",
        "results_run.json",
    ]
    text = (out / "report.md").read_text()
    assert f"| greedy | {report['strategies'][0]['right']}/4 |" in text
    assert "Benchmark svamp:" in text
    twice = rstar("eval", folder / "test.jsonl", *named)
    assert (twice.returncode, "one of them" in twice.stderr) == (2, True)
    none = rstar("eval")
    assert (none.returncode, "--dataset" in none.stderr) == (2, True)


def test_the_list_of_benchmarks() -> None:
    report = json.loads(rstar("benchmarks", "--json").stdout)
    assert len(report["benchmarks"]) == 14
    assert "MIT" in rstar("benchmarks", "gsm8k").stdout
    assert rstar("benchmarks", "nonsense").returncode == 2
