"""Benchmarks and data sets by name."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.evaluation.report_sections import published
from rstar_math.problems import read_problems
from rstar_math.problems.benchmarks import (
    DATA_VARIABLE,
    HubDataset,
    all_benchmarks,
    extract_reference,
    find_benchmark,
    load_benchmark,
    problems_from_rows,
)

NAMES = ["svamp", "asdiv", "mawps", "gsm8k", "gsm_hard", "strategyqa", "math500", "math"]
NAMES += ["gaokao2023en", "college_math", "amc23", "aime24", "olympiadbench", "omni_math"]


def test_the_benchmarks_are_complete() -> None:
    assert [b.name for b in all_benchmarks()] == NAMES
    for known in all_benchmarks():
        assert known.size > 0
        assert known.answer
        assert known.licence
        assert known.source
        assert (known.rows is None) == (known.sha256 is None)
        if known.sha256 is not None:
            assert len(bytes.fromhex(known.sha256)) == 32
            assert known.rows is not None
            assert 0 < known.rows <= known.size
        if known.hub is None:
            assert known.name == "mawps"
    assert {f.benchmark for f in published()} <= set(NAMES)
    assert find_benchmark("GSM-Hard").name == "gsm_hard"
    with pytest.raises(InputError, match="benchmark"):
        find_benchmark("gsm9k")


def test_our_own_files_are_the_ones_described(data_dir: Path) -> None:
    for known in all_benchmarks():
        path = known.file(data_dir)
        if path is None:
            assert known.sha256 is None, known.name
            continue
        loaded = load_benchmark(known.name, folder=data_dir)
        assert len(loaded.problems) == known.rows, known.name
        assert loaded.note is None, loaded.note
        assert all(p.source == known.name for p in loaded.problems)


def test_a_local_set_is_found_and_one_that_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "svamp"
    folder.mkdir()
    lines = [
        json.dumps({"id": f"svamp/test/{i}", "problem": f"{i}?", "answer": str(i)}) for i in (1, 2)
    ]
    (folder / "test.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    loaded = load_benchmark("svamp", limit=1)
    assert [p.id for p in loaded.problems] == ["svamp/test/1"]
    digest = sha256("\n".join(lines).encode()).hexdigest()[:12]
    assert loaded.note is not None
    assert digest in loaded.note
    assert load_benchmark("SVAMP", folder=tmp_path).problems[1].source == "svamp"
    assert read_problems(folder / "test.jsonl")[0].source is None


def test_what_is_nowhere_says_where_it_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"not on the hub; put mawps/test.jsonl into a folder"):
        load_benchmark("mawps", folder=tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        load_benchmark("gsm8k", folder=tmp_path)
    with pytest.raises(InputError, match="source"):
        load_benchmark("hf:")


@pytest.mark.parametrize(
    ("value", "read", "answer"),
    [
        ("She has 2 + 3 = 5.\n#### 1,005", "hashes", "1005"),
        ("So it is $\\boxed{\\frac{1}{2}}$.", "boxed", "\\frac{1}{2}"),
        ("no box", "boxed", None),
        (["$1$", "$-2$"], "list", "1, -2"),
        (True, "text", "yes"),
        (False, "yesno", "no"),
        ("9 (apples)", "unit", "9"),
        (145.0, "number", "145"),
        (2.25, "number", "2.25"),
        ("", "text", None),
        (None, "number", None),
    ],
)
def test_references_are_taken_out_of_their_columns(
    value: object, read: str, answer: str | None
) -> None:
    assert extract_reference(value, read) == answer


def test_rows_become_problems() -> None:
    hub = HubDataset("a/svamp", None, "test", "Body+Question", "Answer", "number")
    rows = [{"Body": "Ann has 3 figs", "Question": "How many?", "Answer": 3.0, "level": 2}]
    (problem,) = problems_from_rows(rows, hub, "svamp")
    assert problem.question.text == "Ann has 3 figs. How many?"
    assert (problem.id, problem.reference, problem.level) == ("svamp/test/0", "3", "2")
    with pytest.raises(InputError, match="row 0 has no column Body"):
        problems_from_rows([{"x": 1}], hub, "svamp")
    with pytest.raises(InputError, match="no rows"):
        problems_from_rows([], hub, "svamp")


def test_other_sources_are_read_as_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="needs the package datasets"):
        load_benchmark("hf:me/sums:main@train?question=prompt&answer=target")
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingDependencyError, match="reasoning-gym"):
        load_benchmark("gym:chain_sum?size=3")
