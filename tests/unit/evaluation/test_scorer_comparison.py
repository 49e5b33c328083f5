"""Comparisons of scorers on labelled steps: figures, intervals, pairs."""

import asyncio
import json
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.errors import InputError
from rstar_math.evaluation.processbench import Solution, cross_validate
from rstar_math.evaluation.reranking import RerankComparison
from rstar_math.evaluation.scorer_comparison import (
    LabelledSolution,
    choosing_comparisons,
    detection_report,
    figure,
    first_error_statistic,
    ranking_report,
    ranking_statistic,
    read_labelled,
    step_values,
)
from rstar_math.types import Question, Step

import numpy as np  # isort: skip


def solutions(count: int) -> list[Solution]:
    """Solutions of four steps, of which every second has a wrong one."""
    return [
        Solution(
            id=f"s{n}", problem="1 + 1?", steps=("a", "b", "c", "d"), label=-1 if n % 2 else n % 4
        )
        for n in range(count)
    ]


def knowing(solution: Solution, noise: float, seed: int) -> list[float]:
    """Values that are low from the first wrong step on, with noise."""
    rng = random.Random(f"{solution.id} {seed}")
    return [
        max(-1.0, min(1.0, (-0.5 if 0 <= solution.label <= at else 0.5) + rng.gauss(0, noise)))
        for at in range(4)
    ]


def test_a_better_detector_has_a_higher_f1_and_the_interval_of_the_difference_says_so() -> None:
    asked = solutions(120)
    values = {
        "poor": [knowing(each, 1.0, 1) for each in asked],
        "good": [knowing(each, 0.1, 2) for each in asked],
    }
    report = detection_report(asked, values)
    for name, rows in values.items():
        own = report["scorers"][name]
        assert own["f1"] == pytest.approx(cross_validate(asked, rows)[0].f1)
        low, high = own["interval_95"]
        inner = own["interval_90"]
        assert low <= inner[0] <= own["f1"] <= inner[1] <= high
    gap = report["comparisons"]["good - poor"]
    assert gap["f1_difference"]["interval_95"][0] > 0
    assert gap["p"] < 0.01
    assert gap["only_second"] > gap["only_first"]


def test_the_f1_statistic_of_all_solutions_is_the_f1() -> None:
    asked = solutions(40)
    correct = [n % 3 > 0 for n in range(40)]
    wrong = [ok for ok, each in zip(correct, asked, strict=True) if each.label >= 0]
    right = [ok for ok, each in zip(correct, asked, strict=True) if each.label < 0]
    a, b = sum(wrong) / len(wrong), sum(right) / len(right)
    assert first_error_statistic(asked, correct)(np.arange(40)) == pytest.approx(
        2 * a * b / (a + b)
    )
    assert first_error_statistic(asked, correct)(np.array([1, 3])) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=30))
def test_the_ranking_statistic_is_the_share_of_ordered_pairs(
    steps: list[tuple[bool, int]],
) -> None:
    right = [value for label, value in steps if label]
    wrong = [value for label, value in steps if not label]
    found = ranking_statistic([[label for label, _ in steps]], [[v for _, v in steps]])(
        np.arange(1)
    )
    if not right or not wrong:
        assert found is None
        return
    pairs = [(a > b) + 0.5 * (a == b) for a, b in product(right, wrong)]
    assert found == pytest.approx(sum(pairs) / len(pairs))


def test_labelled_steps_are_ranked_and_compared() -> None:
    labels = [(True, n % 3 > 0, n % 2 > 0) for n in range(60)]
    asked = [
        LabelledSolution(problem="1 + 1?", steps=("a", "b", "c"), labels=each) for each in labels
    ]
    rng = random.Random(3)
    values = {
        "blind": [[rng.uniform(-1, 1) for _ in each] for each in labels],
        "seeing": [[0.9 if ok else -0.9 for ok in each] for each in labels],
    }
    report = ranking_report(asked, values)
    assert report["scorers"]["seeing"]["auc"] == 1.0
    assert report["scorers"]["seeing"]["accuracy_at_0"] == 1.0
    low, high = report["scorers"]["blind"]["interval_95"]
    assert low < 0.5 < high
    gap = report["comparisons"]["seeing - blind"]["auc_difference"]
    assert gap["value"] == pytest.approx(1 - report["scorers"]["blind"]["auc"])
    assert gap["interval_90"][0] > 0


def test_answers_of_two_scorers_on_the_same_samples_are_paired() -> None:
    first, second = RerankComparison(), RerankComparison()
    for each, gain in ((first, False), (second, True)):
        each.voted = [True, False, False]
        each.by_value = {"best of N": [True, gain, False], "weighted vote": [True, False, False]}
        each.ranked = [0.5 + gain / 4, 0.5]
    report = choosing_comparisons({"a": first, "b": second})
    rules = report["b - a"]
    assert rules["best of N"]["difference"] == pytest.approx(1 / 3)
    assert (rules["best of N"]["only_first"], rules["best of N"]["only_second"]) == (0, 1)
    assert rules["weighted vote"]["difference"] == 0
    assert rules["right above wrong"]["difference"] == pytest.approx(0.125)
    json.dumps(report)


def test_one_solution_has_no_interval() -> None:
    alone = figure(lambda indices: float(len(indices)), 1)
    assert (alone.value, alone.interval_90, alone.interval_95) == (1.0, None, None)


def test_a_scorer_that_reads_prose_gets_it_and_others_get_comments() -> None:
    class Listens:
        def __init__(self, prose: bool) -> None:
            self.reads_prose = prose
            self.heard: list[Step] = []

        async def score(
            self, question: Question, prefixes: Sequence[Sequence[Step]]
        ) -> list[float]:
            self.heard = list(prefixes[-1])
            return [len(prefix) / 10 for prefix in prefixes]

    asked = [("q", "1 + 1?", ["Add.\n\nIt is 2.", "Done."])]
    for prose, text in ((True, "Add.\n\nIt is 2."), (False, "# Add.\n# It is 2.\n")):
        scorer = Listens(prose)
        assert asyncio.run(step_values(scorer, asked)) == [[0.1, 0.2]]
        assert scorer.heard[0].text == text


def test_a_file_of_labelled_steps_is_read_or_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    ours = {"problem": "1 + 1?", "steps": ["Add.", "2"], "labels": [True, False]}
    trl = {"prompt": "1 + 1?", "completions": ["Add."], "labels": [True]}
    file.write_text("\n".join(map(json.dumps, (ours, trl))))
    assert [each.labels for each in read_labelled(file)] == [(True, False), (True,)]
    assert len(read_labelled(file, 1)) == 1
    for bad in ({**ours, "labels": [True]}, {"problem": "x"}, [1]):
        file.write_text(json.dumps(ours) + "\n" + json.dumps(bad))
        with pytest.raises(InputError, match="line 2"):
            read_labelled(file)
    file.write_text("")
    for path in (file, tmp_path / "missing.jsonl"):
        with pytest.raises(InputError, match=path.name):
            read_labelled(path)
