"""All rules together, and references that are probably wrong."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rstar_math.training.curation import ALL_DATA, Curated, CurationConfig, SearchedProblem, curate
from tests.unit.toy import by_text
from tests.unit.training.trees import Spec, grown, searched, specs


def curated(*problems: SearchedProblem, data: Sequence[Any] = ALL_DATA, **options: Any) -> Curated:
    return asyncio.run(curate(problems, by_text, CurationConfig(**options), data))


def disputed(*answers: str) -> SearchedProblem:
    """A problem that was answered so, by programs that differ."""
    spec: Spec = {f"s{i}": {f"e{i}": f"-{answer}"} for i, answer in enumerate(answers)}
    return searched(grown(spec))


@pytest.mark.parametrize(
    ("answers", "doubted"),
    [
        (["12"] * 4, True),
        (["12"] * 3, False),
        (["12"] * 4 + ["13"], True),
        (["12"] * 7 + ["13"] * 2, False),
        (["12"] * 8 + ["13"] * 2, True),
        (["12", "13", "14", "15"], False),
    ],
)
def test_agreement_against_the_reference_makes_it_doubted(
    answers: list[str], doubted: bool
) -> None:
    found = curated(disputed(*answers))
    assert len(found.suspects) == doubted
    assert found.report.problems == {"probably mislabelled" if doubted else "all ends wrong": 1}
    assert bool(found.outcomes) != doubted
    if doubted:
        (one,) = found.suspects
        assert (one.problem, one.reference, one.answer) == ("p", "7", "12")
        assert one.programs == len(answers)
        assert one.share == answers.count("12") / len(answers)
        assert not (found.values)
        assert not found.sources


def test_how_much_agreement_it_takes_is_an_option() -> None:
    assert curated(disputed("12", "12"), noise_min_programs=2).suspects
    assert curated(disputed("12", "12", "12", "13"), noise_min_share=0.7).suspects


def test_one_right_answer_clears_the_reference() -> None:
    problem = disputed(*["12"] * 9)
    with_right = SearchedProblem(
        problem.problem, (*problem.trees, ("u", grown({"z": {"z1": "+"}})))
    )
    assert not curated(with_right).suspects


def test_one_program_told_in_many_words_is_one_witness() -> None:
    spec: Spec = {"s": {f"e{i}": "-12" for i in range(9)}}
    assert not curated(searched(grown(spec))).suspects


def test_the_report_counts_by_reason_and_depth() -> None:
    mixed = searched(grown({"a": {"a1": "+", "a2": "-"}, "b": "-"}, problem="m"))
    right = searched(grown({"a": "+", "b": "+"}, problem="r"))
    nothing = searched(grown({"a": "x", "b": "?"}, problem="n"))
    found = curated(mixed, right, nothing)
    assert found.report.as_json() == {
        "problems": {"all ends right": 1, "no judged end": 1, "right and wrong ends": 1},
        "solutions": {"kept": 3, "wrong": 2, "no answer": 1, "not judged": 1},
        "step_pairs": {"kept": 2},
        "final_pairs": {"kept": 2},
        "step_pairs_by_depth": {"0": 1, "1": 1},
    }
    assert [pair.kind for pair in found.pairs] == ["step", "step", "final", "final"]
    assert found.sources == {"m": "hand", "r": "hand", "n": "hand"}


def test_only_what_was_asked_for_is_made() -> None:
    problem = searched(grown({"a": {"a1": "+", "a2": "-"}}))
    found = curated(problem, data=["value"])
    assert found.values
    assert not (found.solutions)
    assert not (found.pairs)
    assert not (found.outcomes)


def test_nothing_gives_nothing() -> None:
    found = curated()
    assert not (found.solutions)
    assert not (found.pairs)
    assert not found.report.problems


@given(st.lists(specs, max_size=3))
def test_problems_with_one_kind_of_ends_give_no_pairs(some: list[Spec]) -> None:
    problems = [searched(grown(spec, problem=f"p{i}")) for i, spec in enumerate(some)]
    found = curated(*problems)
    verdicts = {
        one.problem.id: {node.verdict for _, tree in one.trees for node in tree.nodes}
        for one in problems
    }
    for pair in found.pairs:
        assert {"right", "wrong"} <= verdicts[pair.pair.question.id]
    kept = sum(pair.kind == "step" for pair in found.pairs)
    assert found.report.step_pairs.get("kept", 0) == kept == sum(found.report.by_depth.values())


def test_options_are_checked() -> None:
    with pytest.raises(ValidationError):
        CurationConfig(min_q_gap=-1)
    with pytest.raises(ValidationError):
        CurationConfig(noise_min_share=0.5)


def test_every_option_says_where_its_default_comes_from() -> None:
    for name, info in CurationConfig.model_fields.items():
        said = info.description or ""
        assert any(word in said for word in ("paper", "code", "our choice")), name
