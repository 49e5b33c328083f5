"""The commands of the documentation, typed one after the other: those that are quick are run here
with a scripted model; of the others it is said which tests run the like."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from rstar_math.cli import main
from rstar_math.testing import serving
from tests.e2e.adder import answer
from tests.unit.docs.command_lines import command_lines
from tests.unit.docs.pages import ROOT, WRITTEN, blocks, name

SMALL = ("search.rollouts=2", "search.candidates=2", "sandbox.workers=1", "grading.workers=1")
PROBLEMS = "".join(
    f'{{"id": "add/{i}", "problem": "Add {i} and {i + 3}.", "answer": "{2 * i + 3}"}}\n'
    for i in range(3)
)
COPIES = {
    "pilot.rstar": "first.rstar",
    "svamp.rstar": "first.rstar",
    "other.rstar": "run.rstar",
    "guided.rstar": "run.rstar",
}
"""Runs that a page takes for granted, and which of the others stands for them."""

RUN = [
    "search problems.jsonl --run trees.rstar",
    "eval problems.jsonl --strategy greedy,sc@8,mcts --run first.rstar",
    "report first.rstar --out report",
    "report svamp.rstar --out report",
    "search mine.jsonl --run trees.rstar",
    "eval mine.jsonl --strategy sc@8,mcts --run mine.rstar",
    r"grade '0.5' '\frac{1}{2}'",
    "search problems.jsonl --guided --run run.rstar",
    "view run.rstar --export page.html",
    "view run.rstar --svg add/1",
    "show run.rstar",
    "show run.rstar 3 --verbose",
    "curate run.rstar --out data",
    "export trees.rstar --trees --out trees.jsonl",
    "export trees.rstar --results",
    "problems check examples/problems/science.jsonl",
    "export trees.rstar --trajectories --format parquet",
    "export guided.rstar --pairs --out pairs.jsonl",
    "export guided.rstar --problems --layout verl",
    "search problems.jsonl --run part1.rstar --shard 1/2",
    "search problems.jsonl --run part2.rstar --shard 2/2",
    "merge all.rstar part1.rstar part2.rstar",
    "estimate-cluster --problems 747000 --gpus 60xA100-40GB --price 2",
    "estimate-cluster --problems 747000 --gpus 60xA100-40GB --profile-run pilot.rstar "
    "--tokens-per-second 3100 --programs-per-second 90",
    "benchmarks",
    "strategies",
    "report run.rstar other.rstar --out report",
]
"""In the order in which they are typed; `rstar` stands before each."""


ELSEWHERE = {
    r"train (policy|ppm) ": "tests/integration/training/test_training_cli.py",
    r"deploy ": "tests/integration/training/test_deploying.py",
    r"eval-ppm ": "tests/integration/training/test_deploying.py",
    r".* --model policy.gguf |.*model.adapter": "tests/integration/training/test_deploying.py",
    r"serve": "tests/e2e/test_serve.py",
    r"view ": "tests/e2e/test_viewer.py",
    r"doctor": "tests/e2e/test_cli.py",
    r"prepare ": "tests/e2e/test_problems.py",
    r".* --cluster ": "tests/integration/cluster/test_ray.py",
    r".* vllm:": "tests/integration/servers/test_starting.py",
    r".* http://node1": "tests/integration/servers/test_replicas.py",
    r".* --recipe |solve --recipe ": "tests/e2e/test_rstar_recipe.py",
    r"solve ": "tests/e2e/test_cli.py",
    r"search .*--guided|curate ": "tests/integration/test_training_data.py",
    r"eval .*--check": "tests/integration/test_sanity.py",
    r"eval ": "tests/e2e/test_evaluation.py",
    r"evolve ": "tests/integration/test_evolution.py",
    r"synthesize ": "tests/integration/test_synthesis.py",
    r"push ": "tests/integration/models/test_push.py",
    r"models ": "tests/integration/models/test_hub.py",
    r"problems |search few-tests": "tests/integration/kinds/test_problem_sets.py",
}
"""Of the other command lines, what runs the like: the first pattern that fits."""


def documented() -> list[str]:
    """Every command line of the documentation, as its words joined."""
    pages = [name(path) for path in WRITTEN if path.name != "troubleshooting.md"]
    return [
        shlex.join(words)
        for page in pages
        for block in blocks(page)
        for words in command_lines(block.code, "rstar")
    ]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model's address; the folder with the problems is entered."""
    folder = tmp_path_factory.mktemp("walk")
    for file in ("problems.jsonl", "mine.jsonl"):
        (folder / file).write_text(PROBLEMS)
    (folder / "examples").symlink_to(ROOT / "examples")
    with pytest.MonkeyPatch.context() as patch, serving(answer) as fake:
        patch.chdir(folder)
        yield fake.url


@pytest.mark.parametrize("line", RUN)
def test_a_command_of_the_documentation_does_its_work(
    line: str, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)
    if "parquet" in words:
        pytest.importorskip("pyarrow")
    if words[0] == "report":
        pytest.importorskip("matplotlib")
    for copy, run in COPIES.items():
        if copy in words:
            shutil.copy(run, copy)
    if words[0] in ("search", "eval"):
        words += ["--model", address, *(part for key in SMALL for part in ("--set", key))]
    monkeypatch.setattr(sys, "argv", ["rstar", *words])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    assert printed.out
    for option, target in pairwise(words):
        if option in ("--out", "--run", "--export"):
            assert Path(target).exists()


def test_every_command_line_is_run_here_or_elsewhere() -> None:
    here = {shlex.join(shlex.split(line)) for line in RUN}
    lines = documented()
    assert here <= set(lines)
    lost = [
        line
        for line in lines
        if line not in here and not any(re.match(pattern, line) for pattern in ELSEWHERE)
    ]
    assert lost == []
    assert [file for file in ELSEWHERE.values() if not (ROOT / file).exists()] == []
