"""Problem files: what is read, and what is refused and how."""

import gzip
import json
from pathlib import Path

import pytest

from rstar_math.errors import InputError
from rstar_math.problems import question_id, read_problems


def write(folder: Path, *lines: str) -> Path:
    file = folder / "problems.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_reads_both_vocabularies_and_numbers(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        '{"id": "a", "problem": "1+1?", "answer": 2, "level": 3}',
        "",
        '{"question": "2+2?", "reference": "4", "source": "mine"}',
    )
    first, second = read_problems(file)
    assert (first.id, first.question.text, first.reference, first.level) == ("a", "1+1?", "2", "3")
    assert (second.id, second.reference, second.source) == (question_id("2+2?"), "4", "mine")
    assert first.question == type(first.question)("a", "1+1?")


def test_reads_gzip_and_stops_at_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl.gz"
    with gzip.open(file, "wt") as out:
        out.writelines(json.dumps({"problem": f"q{i}"}) + "\n" for i in range(5))
        out.write("not JSON\n")
    assert [p.question.text for p in read_problems(file, 2)] == ["q0", "q1"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([""], "no problems"),
        (['{"problem": "a"}', "{"], "line 2 is not JSON"),
        (["[1, 2]"], "line 1 is not a JSON object"),
        (['{"text": "a"}'], 'no text under "problem" or "question" (it has text)'),
        (['{"problem": "   "}'], 'no text under "problem"'),
        (['{"problem": ["a"]}'], "is list"),
        (['{"problem": "a"}', '{"problem": "a"}'], "repeats the id"),
        (['{"id": 7, "problem": "a"}', '{"id": "7", "problem": "b"}'], "repeats the id"),
        ([json.dumps({"problem": "x" * 1_000_000})], "the question has 1000000 characters"),
        (['{"problem": "\\ud800"}'], "surrogate"),
        (['{"problem": "a", "answer": true}'], '"answer" is bool'),
        (["[" * 100_000], "line 1 is not JSON"),
    ],
)
def test_a_bad_file_names_the_line_and_the_remedy(
    tmp_path: Path, lines: list[str], said: str
) -> None:
    with pytest.raises(InputError) as error:
        read_problems(write(tmp_path, *lines))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_line_too_long_to_hold_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "big.jsonl"
    file.write_bytes(b'{"problem": "' + b"x" * 5_000_000 + b'"}\n')
    with pytest.raises(InputError, match="longer than"):
        read_problems(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        read_problems(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        read_problems(tmp_path)
    broken = tmp_path / "broken.jsonl.gz"
    whole = gzip.compress(b'{"problem": "a"}\n' * 1000)
    for content in (b"no gzip at all", whole[:30], whole[:20] + b"\xff" * 40):
        broken.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_problems(broken)
