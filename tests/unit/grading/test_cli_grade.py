"""`rstar grade`: the verdict for a person, for a script, and for a file."""

import io
import json
from pathlib import Path

import pytest

from rstar_math.cli.grade import grade
from rstar_math.errors import InputError


def test_one_pair_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    grade("0.5", "\\frac{1}{2}")
    shown = capsys.readouterr().out
    assert shown.startswith("right: The two are equal as numbers.")
    assert "1/2" in shown


def test_one_pair_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    grade("3", "4", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "verdict": "wrong",
        "reason": "The two differ as numbers.",
        "pred_form": "3",
        "gold_form": "4",
    }


def test_lines_keep_their_order_and_their_other_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"gold": str(k), "pred": f"{k + k % 3}.0", "id": k} for k in range(600)]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    grade(jsonl=str(file))
    graded = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in graded] == list(range(600))
    assert [row["verdict"] for row in graded] == [
        ("wrong", "right")[k % 3 == 0] for k in range(600)
    ]
    assert all(row["reason"] for row in graded)


def test_standard_input_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"gold": "A", "pred": "(A)"}\n'))
    grade(jsonl="-")
    assert json.loads(capsys.readouterr().out)["verdict"] == "right"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Line 2 .* not JSON"),
        ("[1]", "not a JSON object"),
        ('{"gold": "1"}', '"pred"'),
        ('{"gold": 1, "pred": "1"}', '"gold"'),
    ],
)
def test_a_malformed_line_is_named_after_the_lines_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"gold": "1", "pred": "1"}\n' + line + "\n")
    with pytest.raises(InputError, match=said):
        grade(jsonl=str(file))
    assert json.loads(capsys.readouterr().out)["verdict"] == "right"


def test_wrong_use_is_an_input_error() -> None:
    with pytest.raises(InputError):
        grade("1")
    with pytest.raises(InputError):
        grade("1", "1", jsonl="x")
    with pytest.raises(InputError):
        grade(jsonl="/no/such/file")
