"""`rstar` as a person uses it: what it prints, what it keeps, what it says to a mistake."""

import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar_math.runs.store import RunStore
from rstar_math.search import to_record
from rstar_math.testing import FakeServer, serving
from tests.e2e.adder import answer
from tests.e2e.rstar import COMMAND, rstar, write_problems

FEW = ("--set", "search.rollouts=3", "--set", "search.candidates=3")


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving(answer) as server:
        yield server


def test_help_names_every_verb_and_loads_nothing_heavy() -> None:
    run = rstar("--help")
    assert run.returncode == 0
    verbs = (
        "solve search eval merge estimate-cluster benchmarks report view serve prepare synthesize "
        "curate export train evolve models deploy eval-ppm grade doctor demo"
    )
    for verb in verbs.split():
        assert verb in run.stdout


def test_help_flows_and_brackets_stay() -> None:
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", rstar("curate", "--help").stdout).split())
    assert "rstar-math[train]" in text
    lines = rstar("evolve", "--help").stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if "can be interrupted" in line)
    assert len(lines[at + 1].split()) > 5, "a paragraph flows to the width of the terminal"


def test_solve_shows_steps_code_output_and_answer(fake: FakeServer) -> None:
    run = rstar("solve", "Add 20 and 22.", "--model", fake.url, *FEW)
    assert run.returncode == 0
    assert "1. Take the first." in run.stdout
    assert re.search(r"print\(a \+ 2[23]\)", run.stdout)
    assert re.search(r"-> 4[234]", run.stdout)
    assert re.search(r"Answer 4[234] .* of the votes", run.stdout)


def test_solve_as_json_is_one_object_and_nothing_else(fake: FakeServer) -> None:
    run = rstar("solve", "Add 20 and 22.", "--model", fake.url, "--json", *FEW)
    report = json.loads(run.stdout)
    assert report["answer"] in report["votes"]
    assert report["cost"]["calls"] == len(fake.requests)
    assert report["tree"]["nodes"][report["node"]]["step"]["answer"] == report["answer"]


def test_solve_in_a_run_asks_once_and_keeps_the_tree(fake: FakeServer, tmp_path: Path) -> None:
    kept = tmp_path / "one.rstar"
    args = ("solve", "Add 20 and 22.", "--model", fake.url, "--run", kept, "--json", *FEW)
    first = json.loads(rstar(*args).stdout)
    asked = len(fake.requests)
    second = json.loads(rstar(*args).stdout)
    assert first == second
    assert first["answer"] in first["votes"]
    assert len(fake.requests) == asked
    plain = json.loads(rstar(*args[:4], "--json", *FEW).stdout)
    assert plain["tree"] == first["tree"]


def test_eval_compares_strategies_and_the_page_shows_their_trees(
    fake: FakeServer, tmp_path: Path
) -> None:
    file, kept = write_problems(tmp_path, 6), tmp_path / "run.rstar"
    verb = (
        "eval",
        file,
        "--strategy",
        "greedy,sc@4,mcts",
        "--model",
        fake.url,
        "--run",
        kept,
        *FEW,
    )
    run = rstar(*verb, "--json")
    report = json.loads(run.stdout)
    by_name = {row["strategy"]: row for row in report["strategies"]}
    assert list(by_name) == ["greedy", "sc@4", "mcts"]
    assert all(row["problems"] == row["graded"] == 6 for row in by_name.values())
    assert by_name["sc@4"]["cost"]["samples"] == 6 * 4 * 3
    assert by_name["greedy"]["interval_95"][0] <= by_name["greedy"]["accuracy"]
    asked = len(fake.requests)
    again = rstar(*verb)
    assert len(fake.requests) == asked
    assert "greedy" in again.stdout
    assert re.search(r"sc@4 +\d/6 +\d+\.\d% +\d+-\d+", again.stdout)
    page = tmp_path / "run.html"
    shown = rstar("view", kept, "--export", page, "--json")
    assert json.loads(shown.stdout) == {"file": str(page), "trees": 18}
    assert page.read_text().count('"seconds":') == 6  # a row for each problem


def test_references_change_no_tree(fake: FakeServer, tmp_path: Path) -> None:
    """The firewall, from outside: a run on right and one on wrong references find the same
    trees."""
    file = write_problems(tmp_path, 4)
    false = tmp_path / "false.jsonl"
    false.write_text(re.sub(r'"answer": "\d+"', '"answer": "999"', file.read_text()))
    trees = []
    for source in (file, false):
        kept = tmp_path / f"{source.stem}.rstar"
        args = ("--strategy", "mcts,sc@4", "--run", kept, "--model", fake.url, *FEW)
        assert rstar("eval", source, *args).returncode == 0
        with RunStore.read(kept) as store:
            results = [(r.problem, r.choice) for s in store.strategies() for r in store.results(s)]
            found = [to_record(store.tree(f"add/{i}", "mcts")) for i in range(4)]
        trees.append((results, found))
    assert trees[0] == trees[1]


def contents(path: Path) -> dict[str, object]:
    """Every problem's tree and verdict in a finished run."""
    with RunStore.read(path) as store:
        rows = list(store.results("mcts"))
        assert len(rows) == len({row.problem for row in rows})
        return {
            row.problem: (to_record(store.tree(row.problem, "mcts")), row.verdict, row.choice)
            for row in rows
        }


def test_killed_ten_times_a_search_ends_as_if_it_never_was(tmp_path: Path) -> None:
    file = write_problems(tmp_path, 40)
    rng = random.Random(7)
    with serving(answer, delay_s=0.05) as fake:
        args = [
            str(file),
            "--model",
            fake.url,
            *FEW,
            "--set",
            "search.parallel_problems=4",
            "--guided",
        ]
        whole, killed = tmp_path / "whole.rstar", tmp_path / "killed.rstar"
        assert rstar("search", *args, "--run", whole).returncode == 0
        kills = 0
        while kills < 10:
            process = subprocess.Popen(
                [*COMMAND, "search", *args, "--run", str(killed)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                process.wait(rng.uniform(0.2, 2.5) if kills % 2 else rng.uniform(1.2, 1.8))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            kills += 1
        last = rstar("search", *args, "--run", killed)
        assert last.returncode == 0
    assert len(contents(whole)) == 40
    assert contents(killed) == contents(whole)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    file, kept = write_problems(tmp_path, 200), tmp_path / "run.rstar"
    with serving(answer, delay_s=0.05) as fake:
        command = [*COMMAND, "search", str(file), "--model", fake.url, "--run", str(kept), *FEW]
        command += ["--set", "search.parallel_problems=2"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(fake.requests) < 60:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "kept" in said
    assert "Traceback" not in said
    assert 0 < len(contents(kept)) < 200


def test_a_server_that_dies_ends_the_run_and_a_second_goes_on(tmp_path: Path) -> None:
    file, kept = write_problems(tmp_path, 30), tmp_path / "run.rstar"
    args = (
        file,
        "--run",
        kept,
        *FEW,
        "--set",
        "model.max_retries=1",
        "--set",
        "search.parallel_problems=2",
    )
    with serving(answer) as fake:
        fake.faults.extend([])
        original = fake.answer

        def dying(body: object) -> list[str]:
            if len(fake.requests) > 40:
                fake.faults.extend(["drop"] * 1000)
            return list(original(body))  # type: ignore[arg-type]

        fake.answer = dying
        run = rstar("search", *args, "--model", fake.url)
    assert run.returncode == 1
    assert "run the same command again" in run.stderr
    some = len(contents(kept))
    assert 0 < some < 30
    with serving(answer) as fake:
        assert rstar("search", *args, "--model", fake.url).returncode == 0
    assert len(contents(kept)) == 30


def test_mistakes_are_one_sentence_that_says_what_to_do(tmp_path: Path, fake: FakeServer) -> None:
    """The likelier ones are those of docs/troubleshooting.md."""
    good = write_problems(tmp_path, 1)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    dead = ("--model", "http://127.0.0.1:9/v1")
    live = ("--model", fake.url)
    run_file = ("--run", tmp_path / "r.rstar")
    cases: list[tuple[int, str, tuple[object, ...]]] = [
        (2, "no problems", ("search", empty, *run_file)),
        (2, "takes one strategy", ("solve", "1+1?", "--strategy", "greedy,mcts")),
        (2, "add --check", ("eval", good, "--published", "50", *live)),
        (2, "20000 characters", ("solve", "x" * 100_000)),
        (2, "20000 characters", ("solve", " ")),
        (2, "no model file", ("solve", "1?", "--model", "/absent.gguf")),
        (1, "No model server answers", ("eval", good, *dead)),
        (1, "not a run of rstar-math", ("search", good, "--run", good, *live)),
    ]
    for code, said, args in cases:
        run = rstar(*args)
        flat = " ".join(run.stderr.split())
        assert (run.returncode, said in flat) == (code, True), (args, run.returncode, run.stderr)
        assert flat.count("rstar: ") == 1
        assert run.stdout == ""
    assert rstar("search", good).returncode == 2
    assert rstar("no-such-verb").returncode == 2


def test_a_run_does_not_go_on_with_another_model(tmp_path: Path) -> None:
    file, kept = write_problems(tmp_path, 2), tmp_path / "run.rstar"
    with serving(answer, model="llama-7b") as fake:
        assert rstar("search", file, "--run", kept, "--model", fake.url, *FEW).returncode == 0
    more = write_problems(tmp_path, 3)
    with serving(answer, model="qwen-1b") as fake:
        run = rstar("search", more, "--run", kept, "--model", fake.url, *FEW)
    assert run.returncode == 2
    assert "with the model 'llama-7b', but it is now 'qwen-1b'" in run.stderr
    assert len(contents(kept)) == 2


def test_a_limit_holds_also_when_a_run_goes_on(fake: FakeServer, tmp_path: Path) -> None:
    kept = tmp_path / "run.rstar"
    args = (write_problems(tmp_path, 5), "--run", kept, "--model", fake.url, *FEW)
    assert json.loads(rstar("search", *args, "--limit", 2, "--json").stdout)["problems"] == 2
    assert json.loads(rstar("search", *args, "--limit", 3, "--json").stdout)["problems"] == 3
    assert json.loads(rstar("search", *args, "--limit", 1, "--json").stdout)["problems"] == 1
    assert len(contents(kept)) == 3


def test_a_hostile_server_cannot_steer_the_terminal(tmp_path: Path) -> None:
    def hostile(body: object) -> list[str]:
        return ["# \x1b]0;pwned\x07\x1b[2J [red]x[/red] [/]\nprint('\x1b[31m')\n<code/>"]

    with serving(hostile, model="m\x1b[2J") as fake:
        run = rstar("solve", "1?", "--model", fake.url, *FEW, "--set", "search.max_depth=1")
        assert run.returncode == 0
        assert "\x1b" not in run.stdout
        fake.faults.append(400)
        run = rstar("solve", "1?", "--model", fake.url, "--set", "model.name=x\x1b[2J")
        assert "\x1b" not in run.stderr
    run_file = tmp_path / "a[b] [/] c.rstar"
    with serving(answer) as fake:
        file = write_problems(tmp_path, 1)
        run = rstar("search", file, "--run", run_file, "--model", fake.url, *FEW)
    assert (run.returncode, str(run_file) in run.stdout) == (0, True)


def test_grade_takes_numbers_below_zero() -> None:
    run = rstar("grade", "-1", "-1", "--json")
    assert json.loads(run.stdout)["verdict"] == "right"


def test_doctor_says_what_to_type() -> None:
    report = json.loads(rstar("doctor", "--json").stdout)
    names = {check["name"]: check for check in report["checks"]}
    assert names["SmolLM2-135M weights"]["ok"]
    for extra in ("local", "train", "ray", "serve", "report", "gym"):
        asked = f"pip install 'rstar-math[{extra}]'"
        assert names[extra]["ok"] or names[extra]["fix"] == asked
    assert names["vllm"]["ok"] or "RSTAR_VLLM" in names["vllm"]["fix"]
    assert names["seccomp"]["group"] == "sandbox"
    assert {"machine", "packages", "model"} <= {check["group"] for check in report["checks"]}
    assert rstar("doctor").returncode == 0
