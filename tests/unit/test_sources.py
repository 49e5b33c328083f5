"""Sources: one line of text to problems, and problems to a file."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.problems import read_problems
from rstar_math.problems.generated import CHECKED
from rstar_math.problems.jsonl import write_problems
from rstar_math.problems.sources import parse_source, read_source, read_sources
from rstar_math.types import Problem, Question


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "kind", "name", "options", "title"),
    [
        ("a/b/train.jsonl.gz", "file", "a/b/train.jsonl.gz", {}, "b/train"),
        ("p.jsonl?question=q&answer=a", "file", "p.jsonl", {"question": "q", "answer": "a"}, "p"),
        ("what?.jsonl", "file", "what?.jsonl", {}, "what?"),
        ("hf:openai/gsm8k:main@test", "hf", "openai/gsm8k:main@test", {}, "openai/gsm8k:main@test"),
        ("gym:gcd?size=5&seed=3", "gym", "gcd", {"size": "5", "seed": "3"}, "gym/gcd"),
        ("gym:gcd", "gym", "gcd", {}, "gym/gcd"),
        ("C:x.jsonl", "file", "C:x.jsonl", {}, "C:x"),
    ],
)
def test_a_text_names_a_source(
    text: str, kind: str, name: str, options: dict[str, str], title: str
) -> None:
    source = parse_source(text)
    assert (source.kind, source.name, source.options, source.title) == (kind, name, options, title)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "source"),
        ("hf:", "source"),
        ("p.jsonl?columns=a", "'columns'"),
        ("p.jsonl?a=b&c", "key=value"),
        ("gym:countdown", "countdown"),
        ("gym:chain_sun", "did you mean chain_sum?"),
        ("gym:gcd?size=0", "size from 1"),
        ("gym:gcd?seed=abc", "size from 1"),
        ("absent.jsonl", "absent.jsonl not found"),
    ],
)
def test_a_wrong_source_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        read_source(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "module"), [("hf:a/b", "datasets"), ("gym:gcd", "reasoning_gym")])
def test_a_missing_package_is_a_command_to_type(
    text: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rstar-math\["):
        read_source(text)


def test_columns_can_be_named_and_a_solution_gives_its_final_answer(tmp_path: Path) -> None:
    file = write(
        tmp_path / "set" / "p.jsonl",
        {"text": "2+2?", "label": "2+2 is <<2+2=4>>4\n#### 4", "problem": "other", "answer": "9"},
        {"text": "3+3?", "label": "It is $\\boxed{6}$."},
        {"text": "4+4?", "label": 8, "source": "mine"},
    )
    found = read_source(f"{file}?question=text&answer=label")
    assert [(p.question.text, p.reference, p.source) for p in found] == [
        ("2+2?", "4", "set/p"),
        ("3+3?", "6", "set/p"),
        ("4+4?", "8", "mine"),
    ]
    assert len(read_source(f"{file}?question=text&answer=label", limit=2)) == 2
    with pytest.raises(InputError, match='no text under "absent"'):
        read_source(f"{file}?question=absent")


def test_ids_of_several_sources_do_not_meet(tmp_path: Path) -> None:
    row: dict[str, object] = {"id": "0", "problem": "1+1?"}
    first = write(tmp_path / "a" / "p.jsonl", row)
    second = write(tmp_path / "b" / "p.jsonl", row)
    found = read_sources([str(first), str(second), str(second)])
    assert [p.id for p in found] == ["0", "b/p/0", "3/b/p/0"]
    assert [p.source for p in found] == ["a/p", "b/p", "b/p"]


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    problems = [
        Problem(Question("a", "Wie groß ist 1+1?\nSag es."), "2", "mine", "easy"),
        Problem(Question("b", "2+2?")),
    ]
    for name in ("p.jsonl", "p.jsonl.gz"):
        write_problems(tmp_path / name, problems, {"b": {"provenance": {"model": "m"}}})
        assert read_problems(tmp_path / name) == problems
    assert json.loads((tmp_path / "p.jsonl").read_text().splitlines()[1]) == {
        "id": "b",
        "problem": "2+2?",
        "provenance": {"model": "m"},
    }
    before = (tmp_path / "p.jsonl.gz").read_bytes()
    write_problems(tmp_path / "p.jsonl.gz", problems, {"b": {"provenance": {"model": "m"}}})
    assert (tmp_path / "p.jsonl.gz").read_bytes() == before
    assert gzip.decompress(before) == (tmp_path / "p.jsonl").read_bytes()


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "p.jsonl", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot be written"):
            write_problems(target, [Problem(Question("a", "1?"))])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_the_documentation_lists_the_generators() -> None:
    text = (Path(__file__).parents[2] / "docs" / "problems.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `") and " | " in line]
    documented = [row.split("`")[1] for row in rows]
    assert documented[-len(CHECKED) :] == list(CHECKED)
