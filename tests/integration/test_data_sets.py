"""Data sets through Hugging Face's `datasets`, from a folder of this machine."""

import json
from pathlib import Path

import pytest

from rstar_math.errors import InputError
from rstar_math.problems.sources import read_source

pytest.importorskip("datasets", reason="needs datasets: pip install 'rstar-math[train]'")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "sums"
    place.mkdir()
    for split, count in (("train", 3), ("test", 2)):
        rows = [{"question": f"{n}+{n}?", "answer": f"so\n#### {2 * n}"} for n in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (place / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return place


def test_a_split_is_read_with_stable_ids(folder: Path) -> None:
    found = read_source(f"hf:{folder}@test")
    assert [(p.id, p.question.text, p.reference) for p in found] == [
        (f"{folder}/test/0", "0+0?", "0"),
        (f"{folder}/test/1", "1+1?", "2"),
    ]
    assert len(read_source(f"hf:{folder}@train", limit=2)) == 2


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        ("", "splits train, test"),
        ("@dev", "cannot be loaded"),
        ("@test?question=text", 'row 0 has no text under "text"'),
        ("-absent@test", "cannot be loaded"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(folder: Path, suffix: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        read_source(f"hf:{folder}{suffix}")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
