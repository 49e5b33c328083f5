"""First-error detection, worked by hand."""

import json
from pathlib import Path

import pytest

from rstar_math.errors import InputError
from rstar_math.evaluation.processbench import (
    Solution,
    as_steps,
    best_threshold,
    cross_validate,
    detect,
    read_solutions,
)
from rstar_math.prompts import TAGS

VALUES = [(1, [0.9, -0.5, -0.9]), (0, [0.2, 0.8]), (-1, [0.9, 0.7]), (-1, [0.4, 0.9])]


def test_the_first_step_below_the_threshold_is_named() -> None:
    found = detect(VALUES, 0.0)
    assert (found.wrong, found.located, found.right, found.cleared) == (2, 1, 2, 2)
    assert found.f1 == pytest.approx(2 * 0.5 * 1.0 / 1.5)
    assert detect(VALUES, 0.3).f1 == 1.0
    assert detect(VALUES, 2.0).f1 == 0.0
    assert detect([], 0.0).f1 == 0.0


def test_the_best_threshold_is_found() -> None:
    assert 0.2 < best_threshold(VALUES) <= 0.4
    assert detect(VALUES, best_threshold(VALUES)).f1 == 1.0


def test_halves_are_judged_at_each_others_threshold() -> None:
    solutions = [
        Solution(id=f"s{n}", problem="?", steps=("a", "b"), label=n % 3 - 1) for n in range(60)
    ]
    values = [[-0.5 if s.label == i else 0.5 for i in range(2)] for s in solutions]
    whole, thresholds = cross_validate(solutions, values)
    assert whole.f1 == 1.0
    assert len(thresholds) == 2
    assert (whole.wrong, whole.right) == (40, 20)


def test_prose_becomes_comments_that_the_grammar_reads_back() -> None:
    steps = as_steps(["First:\nadd 2 and 2.", "", "The answer is \\boxed{4}."])
    assert steps[0].prose == "# First:\n# add 2 and 2.\n"
    parsed = TAGS.parse(TAGS.render(steps))
    assert [step.prose for step in parsed] == [step.prose for step in steps]


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"id": "1", "problem": "?", "steps": ["a"], "label": 0}) + "\n[]\n")
    assert len(read_solutions(path, 1)) == 1
    with pytest.raises(InputError, match="line 2"):
        read_solutions(path)
    path.write_text("")
    with pytest.raises(InputError, match="no solutions"):
        read_solutions(path)
