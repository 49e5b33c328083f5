"""From run files to folders of training data: through the command, on real disks and real trees."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.config import SearchConfig
from rstar_math.errors import ConfigError, InputError, RstarError, StoreError
from rstar_math.prompts import TAGS
from rstar_math.runs.store import RunStore
from rstar_math.search import Choice, Tree, grow
from rstar_math.testing import ToyWorld
from rstar_math.training.dataset import read_manifest, read_rows
from rstar_math.training.rows import OutcomeRow, PreferenceRow, SftRow, ValueRow
from rstar_math.types import Problem, Step
from tests.unit.training.test_export import write
from tests.unit.training.trees import grown

NO_CHOICE = Choice(None, None, 0.0, {})
GUIDED = {"guided": True, "model.name": "toy"}


async def toy_trees(world: ToyWorld, problem: Problem, rollouts: int) -> Tree:
    tree = Tree(problem.question)
    await grow(
        tree,
        policy=world.policy,
        executor=world.executor,
        verifier=world.verifier(problem),
        config=SearchConfig(rollouts=rollouts),
    )
    return tree


def toy_run(path: Path, problems: int = 5, rollouts: int = 12) -> Path:
    """A run of real trees of the toy world, two strategies on each problem."""
    world = ToyWorld(steps=3)
    with RunStore.open(path, GUIDED) as store:
        for problem in world.problems(problems):
            store.add_problems([problem])
            for name, size in (("mcts", rollouts), ("mcts@4", 4)):
                tree = asyncio.run(toy_trees(world, problem, size))
                store.save(name, tree, NO_CHOICE)
    return path


def made(
    path: Path,
    trees: Mapping[str, Tree],
    conditions: Mapping[str, Any] = GUIDED,
    reference: str | None = "7",
) -> Path:
    """A run with these trees, by strategy."""
    with RunStore.open(path, conditions) as store:
        for name, tree in trees.items():
            store.add_problems([Problem(tree.question, reference, "hand")])
            store.save(name, tree, NO_CHOICE)
    return path


def rstar(*args: object) -> str:
    """What the command prints; its errors are raised."""
    run = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return run.stdout


def refused(kind: type[RstarError], *args: object) -> str:
    """The sentence that the command ends with."""
    with pytest.raises(kind) as caught:
        rstar(*args)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 300
    return said


def test_a_run_of_real_trees_becomes_rows_that_hold_together(tmp_path: Path) -> None:
    run, out = toy_run(tmp_path / "run.rstar"), tmp_path / "out"
    said = json.loads(
        rstar(
            "curate",
            run,
            "--out",
            out,
            "--data",
            "sft,preference,outcome",
            "--set",
            "curation.format=tags",
            "--json",
        )
    )
    pairs, solutions = read_rows(out, PreferenceRow), read_rows(out, SftRow)
    assert (
        said["rows"]["preference.jsonl"]
        == len(pairs)
        == (said["step_pairs"]["kept"] + said["final_pairs"]["kept"])
    )
    assert said["solutions"]["kept"] == len(solutions) > 0
    assert {row.strategy for row in pairs} == {"mcts", "mcts@4"}
    with RunStore.read(run) as store:
        references = {problem.id: problem.reference for problem in store.problems()}
        for row in solutions:
            assert row.answer == references[row.problem]
            steps = store.tree(row.problem, row.strategy).prefix(row.node)
            assert row.completion == TAGS.render(steps)
        for pair in pairs[:40]:
            tree = store.tree(pair.problem, pair.strategy)
            written = pair.prompt.partition("\n")[2] + pair.chosen
            assert written == TAGS.render(tree.prefix(pair.chosen_node))
    assert {row.label for row in read_rows(out, OutcomeRow)} == {True, False}
    assert sum(said["step_pairs_by_depth"].values()) == said["step_pairs"]["kept"]


def test_a_person_is_shown_counts_depths_and_doubted_references(tmp_path: Path) -> None:
    doubted = grown({f"s{i}": {f"e{i}": "-12"} for i in range(5)}, problem="odd")
    fine = grown({"a": {"a1": "+", "a2": "-"}, "b": "-"}, problem="fine")
    path = tmp_path / "run.rstar"
    with RunStore.open(path, GUIDED) as store:
        for tree in (doubted, fine):
            store.add_problems([Problem(tree.question, "7")])
            store.save("mcts", tree, NO_CHOICE)
    said = rstar("curate", path, "--out", tmp_path / "out")
    shown = [" ".join(line.split()) for line in said.splitlines()]
    assert "problems probably mislabelled 1" in shown
    assert "right and wrong ends 1" in shown
    assert "step pairs kept 2" in shown
    assert "odd 7 12 (100%) 5" in shown
    at = shown.index("steps before a step pair pairs")
    assert shown[at + 2 : at + 4] == ["0 1", "1 1"]
    assert shown[-1].endswith("1 row in sft.jsonl, 4 rows in preference.jsonl")
    assert read_manifest(tmp_path / "out")["suspects"][0]["answer"] == "12"


def test_options_reach_the_rules_and_the_mark(tmp_path: Path) -> None:
    run, out = toy_run(tmp_path / "run.rstar"), tmp_path / "out"
    options = ("--set", "curation.min_q_gap=1.5", "--set", "curation.nodes=most-visited")
    rstar(
        "curate",
        run,
        "--out",
        out,
        *options,
        "--set",
        "curation.final_pairs=0",
        "--strategy",
        "mcts",
    )
    pairs = read_rows(out, PreferenceRow)
    assert pairs
    assert all((row.q_chosen or 0.0) - (row.q_rejected or 0.0) >= 1.5 for row in pairs)
    assert {(row.kind, row.strategy) for row in pairs} == {("step", "mcts")}
    mark = read_manifest(out)
    assert mark["config"]["nodes"] == "most-visited"
    assert mark["origin"]["strategies"] == ["mcts"]
    with RunStore.read(run) as store:
        assert mark["origin"]["digest"] == store.digest()


def test_equal_runs_give_equal_folders(tmp_path: Path) -> None:
    folders = []
    for name in ("one", "two"):
        run = toy_run(tmp_path / name / "run.rstar", problems=2)
        rstar("curate", run, "--out", tmp_path / name / "out")
        folders.append({f.name: f.read_bytes() for f in (tmp_path / name / "out").iterdir()})
    assert folders[0] == folders[1]


def test_a_runs_digest_changes_with_its_trees(tmp_path: Path) -> None:
    run = made(tmp_path / "run.rstar", {"mcts": grown({"a": "+"})})
    shutil.copy(run, tmp_path / "copy.rstar")
    with RunStore.read(run) as one, RunStore.read(tmp_path / "copy.rstar") as two:
        assert one.digest() == two.digest()
    made(run, {"mcts@4": grown({"a": "+"})})
    with RunStore.read(run) as one, RunStore.read(tmp_path / "copy.rstar") as two:
        assert one.digest() != two.digest()


def test_export_writes_trees_paths_and_pairs(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run.rstar", problems=2)
    rstar("export", run, "--trees")
    rstar("export", run, "--trajectories", "--out", tmp_path / "sub" / "paths.jsonl")
    said = json.loads(rstar("export", run, "--pairs", "--json"))
    rows = [json.loads(line) for line in (tmp_path / "run.rstar.trees.jsonl").open()]
    assert [(row["problem"][-1], row["strategy"]) for row in rows] == [
        ("0", "mcts"),
        ("0", "mcts@4"),
        ("1", "mcts"),
        ("1", "mcts@4"),
    ]
    assert len(json.loads(rows[0]["tree"])["nodes"]) == rows[0]["nodes"]
    paths = [json.loads(line) for line in (tmp_path / "sub" / "paths.jsonl").open()]
    assert {row["verdict"] for row in paths} == {"right", "wrong", None}
    assert all((row["verdict"] is None) == (row["failure"] is not None) for row in paths)
    assert all(row["reference"] == row["answer"] for row in paths if row["verdict"] == "right")
    assert Path(said["file"]).read_text().count("\n") == said["rows"] > 0
    assert sorted(os.listdir(tmp_path / "sub")) == ["paths.jsonl"]


def test_trees_of_other_step_formats_are_left_out_and_counted(tmp_path: Path) -> None:
    other = Tree(grown({}).question)
    other.add(0, Step(prose="How many?\nAnswer: The answer is 7.", kind="A3", answer="7"))
    run = made(tmp_path / "run.rstar", {"rap": other, "mcts": grown({"a": "+", "b": "-"})})
    said = json.loads(rstar("curate", run, "--out", tmp_path / "out", "--json"))
    assert said["trees_of_other_grammars"] == 1
    assert said["rows"] == {"sft.jsonl": 1, "preference.jsonl": 2}
    assert "other step format 1" in " ".join(
        rstar("curate", run, "--out", tmp_path / "out").split()
    )
    rstar("export", run, "--trajectories")
    assert '"A3"' in (tmp_path / "run.rstar.trajectories.jsonl").read_text()


def test_runs_that_cannot_be_curated_say_why_in_a_sentence(tmp_path: Path) -> None:
    out, tree = tmp_path / "out", grown({"a": "+", "b": "-"})
    where = ("--out", out)
    assert "There is no run" in refused(InputError, "curate", tmp_path / "no", *where)
    empty = made(tmp_path / "empty.rstar", {})
    assert "has no trees yet; search first" in refused(InputError, "curate", empty, *where)
    plain = made(tmp_path / "plain.rstar", {"mcts": tree}, {"guided": False})
    assert "search again with --guided" in refused(InputError, "curate", plain, *where)
    bare = made(tmp_path / "bare.rstar", {"mcts": tree}, reference=None)
    assert "has a reference answer" in refused(InputError, "curate", bare, *where)
    assert "has a reference answer" in refused(InputError, "export", bare, "--pairs")
    rstar("export", bare, "--trajectories")
    good = made(tmp_path / "good.rstar", {"mcts": tree})
    said = refused(InputError, "curate", good, *where, "--strategy", "sc@8")
    assert "no results of 'sc@8'" in said
    assert not out.exists()


def test_damaged_runs_and_other_versions_say_so(tmp_path: Path) -> None:
    where = ("--out", tmp_path / "out")
    (tmp_path / "text").write_text("no database at all, but long enough to be one" * 30)
    assert "text is not a run of rstar-math" in refused(
        StoreError, "curate", tmp_path / "text", *where
    )
    path = made(tmp_path / "run.rstar", {"mcts": grown({"a": "+", "b": "-"})})
    for blob, sentence in (
        (b"nonsense", "is damaged"),
        (zlib.compress(b"{"), "is damaged"),
        (zlib.compress(b'{"format": 99}'), "format 99"),
    ):
        with sqlite3.connect(path) as db:
            db.execute("UPDATE results SET tree = ?", (blob,))
        for verb in (("curate", path, *where), ("export", path, "--pairs")):
            assert sentence in refused(StoreError, *verb)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    assert "format 9" in refused(StoreError, "curate", path, *where)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.jsonl"))


def test_wrong_options_say_what_to_type(tmp_path: Path) -> None:
    run = made(tmp_path / "run.rstar", {"mcts": grown({"a": "+", "b": "-"})})
    curate = ("curate", run, "--out", tmp_path / "out")
    for setting, sentence in (
        ("search.rollouts=3", "curation.KEY=VALUE"),
        ("margin=1", "curation.KEY=VALUE"),
        ("curation.=1", "curation.KEY=VALUE"),
        (
            "curation.min_q_gaps=1",
            "Unknown option curation.min_q_gaps; the nearest is curation.min_q_gap.",
        ),
        ("curation.min_q_gap=9", "Invalid value for curation.min_q_gap: 9"),
        ("curation.nodes=down", "Invalid value for curation.nodes: 'down'"),
    ):
        assert sentence in refused(ConfigError, *curate, "--set", setting)
    assert "'pairs'" in refused(ConfigError, *curate, "--data", "pairs")
    assert "--trees" in refused(ConfigError, "export", run)
    assert "--trees" in refused(ConfigError, "export", run, "--trees", "--pairs")
    said = refused(ConfigError, "export", run, "--trees", "--out", tmp_path / "x.parquet")
    assert ".jsonl" in said


LIMITED = """
import resource, sys
from pathlib import Path
from rstar_math.cli import main
from tests.unit.training.test_export import write
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
main() if len(sys.argv) > 2 else write(Path(sys.argv[1]))
"""
"""The size of files is limited for a process: the path through the code of a full disk, and no
rights needed for it. SQLite itself needs 32 KiB to read a run."""


@pytest.mark.parametrize("room", [0, 300, 1500])
def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path: Path, room: int) -> None:
    target = tmp_path / "o"
    for before in (False, True):
        if before:
            write(target, data=["sft"])
        code = [sys.executable, "-c", LIMITED, str(room), str(target)]
        ended = subprocess.run(code, capture_output=True, text=True, check=False)
        assert "o cannot be written (File too large)" in ended.stderr
        assert sorted(os.listdir(tmp_path)) == (["o"] if before else [])
    assert len(read_rows(target, SftRow)) == 1


def test_the_command_says_that_the_disk_takes_no_more(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run.rstar", rollouts=24)
    out = tmp_path / "out"
    for verb in (
        ("curate", run, "--out", out / "o"),
        ("export", run, "--pairs", "--out", out / "o.jsonl"),
    ):
        code = [sys.executable, "-c", LIMITED, "40000", *map(str, verb)]
        ended = subprocess.run(code, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert ended.stderr.strip().startswith("rstar: ")
        assert "cannot be written (File too large)" in ended.stderr
        assert ended.stderr.strip().count("\n") == 0
        assert os.listdir(out) == []


def test_killed_at_any_moment_it_leaves_a_whole_folder_or_none(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run.rstar", problems=4, rollouts=24)
    target = tmp_path / "out" / "o"
    command = [sys.executable, "-m", "rstar_math.cli", "curate", str(run), "--out", str(target)]
    command += ["--data", "sft,preference,outcome,value"]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole_s = time.monotonic() - started
    shutil.rmtree(target)
    for share in (0.5, 0.7, 0.8, 0.9, 0.95, 1.0):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * whole_s)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if target.exists():
            assert read_rows(target, SftRow)
            assert read_rows(target, ValueRow)
            shutil.rmtree(target)
    subprocess.run(command, check=True, capture_output=True)
    assert os.listdir(target.parent) == ["o"]
