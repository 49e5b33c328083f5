"""Duplicates and contamination of published sets; RSTAR_DATA names the folder that holds them."""

import os
from pathlib import Path

import pytest

from rstar_math.problems import read_problems
from rstar_math.problems.filtering import (
    Decontaminated,
    EvaluationIndex,
    decontaminate,
    deduplicate,
)
from rstar_math.types import Problem

DATA = os.environ.get("RSTAR_DATA")
pytestmark = pytest.mark.skipif(
    DATA is None, reason="needs the published sets; name their folder in RSTAR_DATA"
)


def read(name: str) -> list[Problem]:
    path = Path(DATA or "", f"{name}.jsonl")
    return read_problems(path if path.exists() else path.with_suffix(".jsonl.gz"))


def held(problems: str, *evaluations: str) -> Decontaminated:
    return decontaminate(
        read(problems), EvaluationIndex({name: read(name) for name in evaluations})
    )


def flat(problem: Problem) -> str:
    """Letters and digits alone: the rule by which the sets' known repeats were counted."""
    return "".join(sign for sign in problem.question.text.lower() if sign.isalnum())


def test_math500_is_found_whole_in_the_test_set_of_math() -> None:
    found = held("math/test", "math500/test")
    assert found.counts()["math500/test"]["same"] == 500


def test_known_repeats_of_the_training_set_of_math_are_found() -> None:
    """10 training problems are in the test set by letters and digits, 1 in math500, 2 in
    olympiadbench. All are found but two that are others: tan 225 is not tan 22.5, and cos 150 is
    of an angle that is not negative."""
    others = {"math/train/2803", "math/train/2869"}
    found = held("math/train", "math/test", "math500/test", "olympiadbench/test")
    gone = {(match.problem.id, match.evaluation) for match in found.removed}
    for name, known in (("math/test", 10), ("math500/test", 1), ("olympiadbench/test", 2)):
        asked = {flat(problem) for problem in read(name)}
        repeats = [problem for problem in read("math/train") if flat(problem) in asked]
        assert len(repeats) == known
        missed = {problem.id for problem in repeats if (problem.id, name) not in gone}
        assert missed == (others if name == "math/test" else set())


def test_gsm8k_is_clean_of_its_own_test_set_but_for_two() -> None:
    found = held("gsm8k/train", "gsm8k/test", "gsm_plus/testmini")
    assert len(found.kept) >= 7465
    assert found.counts()["gsm8k/test"]["same"] == 0
    assert {match.kind for match in found.removed} == {"overlap"}


def test_gsm_hard_and_gsm_plus_are_found_in_the_test_set_they_were_made_from() -> None:
    found = held("gsm8k/test", "gsm_hard/test", "gsm_plus/testmini")
    asked = {problem.question.text for problem in read("gsm_hard/test")}
    unchanged = sum(problem.question.text in asked for problem in read("gsm8k/test"))
    assert found.counts()["gsm_hard/test"]["same"] >= unchanged > 150
    assert found.counts()["gsm_plus/testmini"]["overlap"] > 250


def test_svamp_asks_half_of_its_training_questions_again() -> None:
    """The set was made by varying questions, before it was split."""
    found = held("svamp/train", "svamp/test")
    counts = found.counts()["svamp/test"]
    assert counts["same"] == 0
    assert counts["overlap"] > 80
    assert counts["template"] > 80


def test_strategyqa_is_found_behind_the_words_that_were_put_before_it() -> None:
    for name, known in (("strategyqa/train", 611), ("strategyqa/dev", 76)):
        found = held(name, "strategyqa/rstar_test")
        assert 0.98 * known <= len({match.problem.id for match in found.removed}) <= known


def test_repeats_of_mawps_are_found_and_contradictions_listed() -> None:
    found = deduplicate(read("mawps/test"))
    assert len(found.removed) > 200
    assert len(found.conflicts) == 2
    again = deduplicate(found.kept)
    assert again.kept == found.kept


def test_problems_that_differ_by_a_sign_are_no_repeats() -> None:
    """By letters and digits math/train repeats 9 problems; 4 of them have another answer."""
    problems = read("math/train")
    assert len(problems) - len({flat(problem) for problem in problems}) == 9
    found = deduplicate(problems)
    assert [d.kind for d in found.removed].count("same") == 5
    assert found.conflicts == []
