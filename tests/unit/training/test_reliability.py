"""Synthetic problems whose solutions contradict their reference."""

import asyncio
from dataclasses import replace

import pytest

from rstar_math.search import Tree
from rstar_math.training.curation import Curated, SearchedProblem, curate
from rstar_math.types import SYNTHETIC
from tests.unit.toy import by_text
from tests.unit.training.trees import Spec, grown, searched

MOSTLY: Spec = {"a": {"a1": "-"}, "b": {"b1": "-"}, "c": {"c1": "+"}}
"""Three first steps, of which one leads to the reference."""


def curated(*trees: Tree, source: str = SYNTHETIC) -> Curated:
    one = searched(*trees)
    problem = replace(one.problem, source=source)
    return asyncio.run(curate([SearchedProblem(problem, one.trees)], by_text))


def copied(spec: Spec, copies: dict[str, int]) -> Tree:
    """A tree in which some steps were sampled several times."""
    tree = grown(spec)
    for node in tree.nodes[1:]:
        assert node.step is not None
        node.count = copies.get(node.step.prose.strip().removeprefix("# "), 1)
    return tree


def test_a_synthetic_problem_that_is_mostly_contradicted_is_left_out_and_named() -> None:
    found = curated(grown(MOSTLY))
    (one,) = found.unreliable
    assert (one.problem, one.ends) == ("p", 3)
    assert one.share == pytest.approx(1 / 3)
    assert found.report.problems == {"synthetic, mostly contradicted": 1}
    assert not found.solutions
    assert not found.pairs
    assert not found.suspects
    other = curated(grown(MOSTLY), source="school")
    assert other.solutions
    assert not other.unreliable, "references of other sources were not made by a model"


def test_a_path_weighs_as_likely_as_it_is_written() -> None:
    assert not curated(copied(MOSTLY, {"c": 2})).unreliable, "half of the samples: at least 50 %"
    assert curated(copied(MOSTLY, {"a": 2, "c": 2})).unreliable
    busy: Spec = {"a": {"a1": "-"}, "b": {"b1": "-"}, "c": {f"c{n}": "+" for n in range(9)}}
    assert curated(grown(busy)).unreliable, "nine ends below one step of three are one third"


def test_what_cannot_be_judged_and_what_gave_up_say_nothing() -> None:
    unsure: Spec = {"a": {"a1": "?"}, "b": "x", "c": {"c1": "+"}, "d": {"d1": "?"}}
    assert not curated(grown(unsure)).unreliable
    assert not curated(grown({"a": {"a1": "?"}, "b": "x"})).unreliable


def test_the_trees_of_a_problem_are_taken_together() -> None:
    right: Spec = {"a": {"a1": "+"}}
    wrong: Spec = {"b": {"b1": "-"}}
    assert not curated(grown(right), grown(wrong)).unreliable
    (one,) = curated(grown(right), grown(wrong), grown(wrong)).unreliable
    assert one.share == pytest.approx(1 / 3)
