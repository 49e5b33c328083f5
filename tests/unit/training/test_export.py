"""Folders of training data: rows that say what was curated, whole or not there."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rstar_math.errors import InputError, MissingDependencyError, StoreError
from rstar_math.prompts import TAGS
from rstar_math.prompts.templates import segments
from rstar_math.runs.export import require_parquet
from rstar_math.training import rows as training_rows
from rstar_math.training.curation import ALL_DATA, Curated, CurationConfig, Data, curate
from rstar_math.training.dataset import DatasetSource, read_manifest, read_rows, write_folder
from rstar_math.training.rows import (
    ROWS,
    OutcomeRow,
    PreferenceRow,
    SftRow,
    ValueRow,
    rows_of,
)
from rstar_math.types import Execution, ExecutionStatus, Step
from tests.unit.toy import by_text
from tests.unit.training.trees import Spec, grown, searched

SPEC: Spec = {"a": {"a1": "+", "a2": "-"}, "b": {"b1": "-"}, "c": {"c1": "x"}}
ORIGIN = DatasetSource("run.rstar", "0" * 64, {"model.name": "toy_|model"}, ("t0",))


def found() -> Curated:
    """Everything that can be had of a small tree with a program in it."""
    tree = grown(SPEC)
    step = tree.nodes[1].step
    assert step is not None
    printed = Execution(ExecutionStatus.OK, "ünï\n")
    tree.nodes[1].step = replace(step, kind="code", execution=printed)
    return asyncio.run(curate([searched(tree)], by_text, CurationConfig(), ALL_DATA))


def write(target: Path, what: Curated | None = None, **options: Any) -> dict[str, Any]:
    options.setdefault("data", ALL_DATA)
    return write_folder(target, what or found(), ORIGIN, CurationConfig(), **options)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    what = found()
    mark = write(tmp_path / "sub" / "out", what)
    assert {name: entry["rows"] for name, entry in mark["files"].items()} == {
        "sft.jsonl": 1,
        "preference.jsonl": 4,
        "outcome.jsonl": 3,
        "value.jsonl": 5,
    }
    for kind, model in ROWS.items():
        assert read_rows(tmp_path / "sub" / "out", model) == list(rows_of(what, kind))
    assert read_manifest(tmp_path / "sub" / "out") == json.loads(json.dumps(mark))
    assert sorted(os.listdir(tmp_path / "sub")) == ["out"]


def test_the_trainers_read_what_is_written(tmp_path: Path) -> None:
    write(tmp_path / "out")
    folder = tmp_path / "out"
    for kind, layout in (
        ("sft", training_rows.SftRow),
        ("preference", training_rows.PreferenceRow),
        ("outcome", training_rows.OutcomeRow),
        ("value", training_rows.ValueRow),
    ):
        file = folder / f"{kind}.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        read = training_rows.read_rows(file, layout)
        shared = [{key: line[key] for key in layout.model_fields} for line in lines]
        assert [row.model_dump(mode="json") for row in read] == shared


def test_the_rows_hold_the_texts_of_inference_and_where_they_come_from() -> None:
    what = found()
    (sft,) = rows_of(what, "sft", TAGS)
    assert isinstance(sft, SftRow)
    assert sft.prompt == "Question: What of p?\n"
    assert sft.completion == (
        "<code>\n# a\na = 1\n<code/>\n<output>\nünï\n</output>\na1\n<answer/>\n"
    )
    (start, end), *others = sft.outputs
    assert not others
    assert sft.completion[start:end] == "<output>\nünï\n</output>\n"
    (kept,) = what.solutions
    trained = "".join(piece.text for piece in segments(kept.trajectory.steps) if piece.trained)
    assert sft.completion[:start] + sft.completion[end:] == trained
    assert (sft.problem, sft.source, sft.strategy, sft.node) == ("p", "hand", "t0", 2)


def test_pairs_go_on_from_their_prompt() -> None:
    pairs = [row for row in rows_of(found(), "preference", TAGS) if isinstance(row, PreferenceRow)]
    step, deeper, *final = pairs
    assert (step.prompt, step.chosen[:12], step.depth) == (
        "Question: What of p?\n",
        "<code>\n# a\na",
        0,
    )
    assert deeper.prompt.endswith("<output>\nünï\n</output>\n")
    assert (deeper.chosen, deeper.rejected) == ("a1\n<answer/>\n", "a2\n<answer/>\n")
    assert (deeper.depth, deeper.node, deeper.weight) == (1, 1, 1.0)
    assert {row.kind for row in final} == {"final"}
    assert {row.prompt for row in final} == {"Question: What of p?\n"}


def test_other_labels_in_rows() -> None:
    what = found()
    outcomes = [row for row in rows_of(what, "outcome") if isinstance(row, OutcomeRow)]
    assert [row.label for row in outcomes] == [True, False, False]
    values = [row for row in rows_of(what, "value") if isinstance(row, ValueRow)]
    assert [row.value for row in values] == [0.0, 1.0, -1.0, -1.0, -1.0]
    assert [row.depth for row in values] == [1, 2, 2, 1, 2]


def test_equal_data_gives_equal_bytes_and_a_folder_of_ours_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", data=["sft"])
    write(tmp_path / "b")
    for name in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    write(tmp_path / "b", data=["sft"])
    assert sorted(os.listdir(tmp_path / "b")) == ["README.md", "curation.json", "sft.jsonl"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_is_not_ours_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("precious")
    with pytest.raises(InputError, match=r"README.md"):
        write(tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "precious"
    with pytest.raises(InputError, match="is a file; give --out a folder"):
        write(tmp_path / "mine" / "README.md")
    monkeypatch.chdir(tmp_path / "mine")
    with pytest.raises(InputError, match="current working directory"):
        write(Path("."))
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    write(tmp_path / "empty", data=["sft"])
    (tmp_path / "empty" / "policy").mkdir()
    with pytest.raises(InputError, match=r"policy"):
        write(tmp_path / "empty")
    assert (tmp_path / "empty" / "sft.jsonl").is_file()


def test_the_card_names_what_is_there_and_warns(tmp_path: Path) -> None:
    what = found()
    doubted = searched(grown({f"s{i}": {f"e{i}": "-a|b"} for i in range(4)}, problem="odd|id"))
    more = asyncio.run(curate([doubted], by_text, CurationConfig(), ALL_DATA))
    what.suspects = more.suspects
    write(tmp_path / "o", what, data=["sft", "preference"])
    text = (tmp_path / "o" / "README.md").read_text()
    head = text.split("---\n")[1]
    assert "- config_name: sft\n  data_files: sft.jsonl\n" in head
    assert "outcome" not in head
    assert "| `preference` | 4 |" in text
    assert "toy\\_\\|model" in text
    assert "| odd\\|id | 7 | a\\|b (100%) |" in text
    assert "| solutions | wrong | 2 |" in text
    assert "Check them before you publish" in text


def test_kinds_without_rows_have_no_file(tmp_path: Path) -> None:
    mark = write(tmp_path / "o", Curated())
    assert mark["files"] == {}
    assert sorted(os.listdir(tmp_path / "o")) == ["README.md", "curation.json"]
    with pytest.raises(InputError, match="preference"):
        read_rows(tmp_path / "o", PreferenceRow)


def test_what_is_wrong_with_a_folder_is_said_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "o"
    with pytest.raises(InputError, match=r"has no curation"):
        read_rows(folder, SftRow)
    write(folder)
    file = folder / "preference.jsonl"
    whole = file.read_text().splitlines(keepends=True)
    faults = {
        "not json\n": r"Line 3 of .*preference\.jsonl: Invalid JSON",
        '{"prompt": "x"}\n': r"Line 3 .*problem is missing; make the data again",
        whole[2].replace('"weight":', '"wait":'): r"Line 3 .* lacks the column weight",
        whole[2].replace('"kind":"final"', '"kind":"no"'): r"Line 3 .* value for kind",
        "\n": r"Line 3 .*Invalid JSON",
    }
    for line, sentence in faults.items():
        file.write_text("".join([*whole[:2], line, *whole[3:]]))
        with pytest.raises(InputError, match=sentence):
            read_rows(folder, PreferenceRow)
    file.write_text("".join(whole[:-1]))
    with pytest.raises(InputError, match="3 rows instead of 4"):
        read_rows(folder, PreferenceRow)
    file.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(folder, PreferenceRow)


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("{", InputError, "cannot be read"),
        ("[]", InputError, "is damaged"),
        ('{"format": 99, "files": {}}', StoreError, "format 99"),
    ],
)
def test_marks_of_another_kind(
    tmp_path: Path, text: str, error: type[Exception], sentence: str
) -> None:
    write(tmp_path / "o")
    (tmp_path / "o" / "curation.json").write_text(text)
    with pytest.raises(error, match=sentence):
        read_rows(tmp_path / "o", SftRow)


def test_text_that_no_file_can_hold_is_written_as_question_marks(tmp_path: Path) -> None:
    tree = grown({"a": {"a1": "+"}})
    tree.nodes[1].step = Step(prose="# \ud800!\n", code="x = 1\n")
    what = asyncio.run(curate([searched(tree)], by_text))
    write(tmp_path / "o", what)
    (row,) = read_rows(tmp_path / "o", SftRow)
    assert row.completion.startswith("```python\n# ?!\n")


def test_what_a_killed_run_left_beside_is_cleared_away(tmp_path: Path) -> None:
    partial = tmp_path / ".partial-o"
    partial.mkdir()
    (partial / "sft.jsonl").write_text("half")
    with pytest.raises(InputError, match="incomplete"):
        read_rows(partial, SftRow)
    write(tmp_path / "o")
    assert os.listdir(tmp_path) == ["o"]


def has_arrow() -> bool:
    try:
        require_parquet()
    except MissingDependencyError:
        return False
    return True


def test_parquet_comes_back_or_names_the_command_that_installs_it(tmp_path: Path) -> None:
    if not has_arrow():
        with pytest.raises(MissingDependencyError, match=r"pip install 'rstar-math\[train\]'"):
            write(tmp_path / "o", format="parquet")
        assert not os.listdir(tmp_path)
        return
    what = found()
    write(tmp_path / "o", what, format="parquet")
    write(tmp_path / "j", what, format="jsonl")
    for kind, model in ROWS.items():
        assert read_rows(tmp_path / "o", model) == list(rows_of(what, kind))
        for folder in ("o", "j"):
            check_with_datasets(tmp_path / folder, kind, what)
    (tmp_path / "o" / "sft.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="not a Parquet file"):
        read_rows(tmp_path / "o", SftRow)


def check_with_datasets(folder: Path, kind: Data, what: Curated) -> None:
    """What the library of the same extra makes of a folder, by its card."""
    import datasets

    cache = str(folder.parent / "cache")
    loaded = datasets.load_dataset(str(folder), kind, cache_dir=cache)["train"]
    rows = [row.model_dump(mode="json") for row in rows_of(what, kind)]
    assert loaded.to_list() == rows
