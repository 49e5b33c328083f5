"""`rstar prepare` as a person uses it."""

import json
from pathlib import Path

from rstar_math.problems import read_problems
from tests.e2e.rstar import rstar

PENS = "A box holds 12 pens and a shop has 5 boxes. How many pens has the shop?"
HENS = "A hen lays 2 eggs a day. How many eggs do 6 hens lay in a week?"
CARS = "How many wheels do 3 cars and 4 bikes have in all?"


def write(path: Path, *rows: tuple[str, str]) -> Path:
    lines = (json.dumps({"problem": text, "answer": answer}) for text, answer in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_problems_are_gathered_and_what_was_left_out_is_told(tmp_path: Path) -> None:
    first = write(
        tmp_path / "first.jsonl", (PENS, "60"), (CARS, "20"), ("What is 1/2 of 1?", "1/2")
    )
    second = write(
        tmp_path / "second.jsonl",
        (PENS.upper(), "60"),
        (HENS, "84"),
        ("what is $\\frac{1}{2}$ of 1", "0.5"),
        ("What is 3 + 4 - 2?", "5"),
        ("What is 3+4-2", "4"),
    )
    exam = write(tmp_path / "exam.jsonl", (f"Question 1: {HENS.lower()}", "84"))
    out = tmp_path / "out.jsonl"
    command = ("prepare", str(first), str(second), "--out", str(out), "--exclude", str(exam))
    run = rstar(*command, "--json")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["counts"] == {
        "read": 8,
        "the same as another": 2,
        "nearly the same as another": 0,
        "the same with other answers": 2,
        "in an evaluation set": 1,
        "beyond the limit": 0,
        "written": 3,
    }
    [removed] = report["removed"]
    assert removed["overlap"].startswith("a hen lays 2 eggs")
    kept = read_problems(out)
    assert [p.reference for p in kept] == ["60", "20", "1/2"]

    shown = rstar(*command, "--limit", "2")
    assert shown.returncode == 0, shown.stderr
    assert "has 2 problems" in shown.stdout
    assert "answers differ" in shown.stdout
    assert "both: a hen lays 2 eggs a day" in shown.stdout
    assert read_problems(out) == kept[:2]

    first_draw, second_draw = (_drawn(command, seed, out) for seed in ("0", "3"))
    assert {len(first_draw), len(second_draw)} == {2}
    assert first_draw != second_draw
    assert _drawn(command, "0", out) == first_draw
    refused = rstar(*command, "--seed", "1")
    assert refused.returncode == 2
    assert "--limit" in refused.stderr

    plain = rstar("prepare", str(first), str(second), "--out", str(out), "--no-dedup")
    assert plain.returncode == 0
    assert len(read_problems(out)) == 8


def _drawn(command: tuple[str, ...], seed: str, out: Path) -> list[str]:
    """Ids of two problems drawn by a seed."""
    run = rstar(*command, "--limit", "2", "--seed", seed)
    assert run.returncode == 0, run.stderr
    return [problem.id for problem in read_problems(out)]


def test_nothing_left_is_an_error_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    first = write(tmp_path / "first.jsonl", (PENS, "60"))
    run = rstar("prepare", str(first), "--out", str(first), "--exclude", str(first))
    assert run.returncode == 2
    assert run.stderr.startswith("rstar: ")
    assert "other sources" in run.stderr
    assert len(read_problems(first)) == 1
