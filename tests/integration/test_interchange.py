"""Exports for inspect_ai and lm-eval, and our Solver as a solver of inspect_ai.

Where inspect_ai and lm_eval are installed (pip install inspect-ai lm-eval) their own readers judge.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rstar_math.evaluation.interchange import export_names, write_inspect_logs, write_lm_eval
from rstar_math.runs.store import RunStore
from rstar_math.testing import serving
from rstar_math.types import Problem
from tests.e2e.adder import answer
from tests.e2e.rstar import write_problems
from tests.unit.evaluation.toyruns import problems, write_run


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = [*problems(5), Problem(problems(6)[5].question)]
    path = tmp_path_factory.mktemp("runs") / "toy.rstar"
    return write_run(path, "sc@4,mcts", given, scored=False)


def test_an_inspect_log_says_what_the_run_says(run_file: Path, tmp_path: Path) -> None:
    written = write_inspect_logs(run_file, tmp_path)
    assert [path.name for path in written] == ["toy-sc-4.json", "toy-mcts.json"]
    log = json.loads(written[0].read_text())
    with RunStore.read(run_file) as store:
        results = list(store.results("sc@4"))
    right = sum(result.verdict == "right" for result in results)
    metrics = log["results"]["scores"][0]["metrics"]
    assert metrics["accuracy"]["value"] == right / 5
    assert len(log["samples"]) == 6
    for sample, result in zip(log["samples"], results, strict=True):
        score = (sample["scores"] or {}).get("rstar_grader")
        assert (score is None) == (result.verdict is None)
        if score is not None:
            assert (score["value"] == "C") == (result.verdict == "right")
            assert score["answer"] == result.choice.answer
    said = log["samples"][0]["output"]["choices"][0]["message"]["content"]
    assert "boxed" in said


def test_runs_of_one_name_get_files_of_their_own(tmp_path: Path) -> None:
    one, two, three = (tmp_path / part / "run.rstar" for part in ("a/x", "b/x", "c"))
    assert export_names([one]) == ["run"]
    assert export_names([one, three]) == ["x-run", "c-run"]
    assert export_names([one, two]) == ["1-x-run", "2-x-run"]
    alike = [tmp_path / part for part in ("a-b/c.rstar", "z/c.rstar", "a/b-c.rstar")]
    assert export_names(alike) == ["1-a-b-c", "2-z-c", "3-a-b-c"]
    write_run(three, "sc@4", problems(1), scored=False)
    (log,) = write_inspect_logs(three, tmp_path, "c-run")
    assert (log.name, write_lm_eval(three, tmp_path, "c-run").name) == (
        "c-run-sc-4.json",
        "results_c-run.json",
    )


def test_inspect_reads_our_log(run_file: Path, tmp_path: Path) -> None:
    reader: Any = pytest.importorskip("inspect_ai.log")
    (path, _) = write_inspect_logs(run_file, tmp_path)
    log = reader.read_eval_log(str(path))
    assert log.status == "success"
    assert len(log.samples) == 6
    assert log.samples[0].scores["rstar_grader"].value in ("C", "I")
    assert log.results.scores[0].metrics["accuracy"].value <= 1
    assert log.eval.metadata["conditions"]["search.candidates"] == 4
    reader.write_eval_log(log, str(tmp_path / "again.eval"))
    again = reader.read_eval_log(str(tmp_path / "again.eval"))
    assert [s.id for s in again.samples] == [s.id for s in log.samples]


def test_results_for_lm_eval(run_file: Path, tmp_path: Path) -> None:
    path = write_lm_eval(run_file, tmp_path)
    found = json.loads(path.read_text())
    assert list(found["results"]) == ["svamp_sc_4", "svamp_mcts"]
    row = found["results"]["svamp_mcts"]
    assert 0 <= row["exact_match,rstar"] <= 1
    assert row["exact_match_stderr,rstar"] >= 0
    assert found["n-samples"]["svamp_mcts"] == {"original": 6, "effective": 5}
    tasks = set(found["results"])
    for key in ("configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert set(found[key]) == tasks


def test_lm_eval_makes_its_table_of_them(run_file: Path, tmp_path: Path) -> None:
    their: Any = pytest.importorskip("lm_eval.utils")
    table = their.make_table(json.loads(write_lm_eval(run_file, tmp_path).read_text()))
    (row,) = [line for line in table.splitlines() if "svamp_mcts" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert "exact_match" in cells
    assert "rstar" in cells


def test_our_solver_as_one_of_inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_ai: Any = pytest.importorskip("inspect_ai")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    example: Any = importlib.import_module("inspect_solver")
    file = write_problems(tmp_path, 4)
    with serving(answer) as fake:
        solver = example.rstar("sc@4", fake.url, "search.candidates=4")
        (log,) = inspect_ai.eval(
            example.problems(str(file)),
            solver=solver,
            model=None,
            log_dir=str(tmp_path / "logs"),
            display="none",
        )
        asked = len(fake.requests)
    sys.modules.pop("inspect_solver")
    assert log.status == "success", log.error
    assert asked > 4
    assert len(log.samples) == 4
    values = [s.scores["same_value"].value for s in log.samples]
    assert set(values) <= {"C", "I"}
    answers = [s.output.completion for s in log.samples]
    expected = [str(2 * i + 3) for i in range(4)]
    assert values == ["C" if a == e else "I" for a, e in zip(answers, expected, strict=True)]
    assert log.samples[0].metadata["sampled_tokens"] > 0
