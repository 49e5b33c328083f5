"""Choosing by value against voting, on samples whose true values are known."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from rstar_math.config import SearchConfig
from rstar_math.errors import InputError
from rstar_math.evaluation.reranking import RerankComparison, conclusion, rerank_samples
from rstar_math.evaluation.statistics import compare
from rstar_math.protocols import Scorer, Verifier
from rstar_math.search import SearchComponents, Tree, sample_chains
from rstar_math.testing import ToyWorld
from rstar_math.types import Question, Step
from tests.unit.toy import by_text

WORLD = ToyWorld(steps=3)
PARTS = SearchComponents(WORLD.policy, WORLD.executor)


class Contrary:
    """A scorer that says the opposite of another."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        return [-value for value in await self._scorer.score(question, prefixes)]


async def sampled(problems: int) -> AsyncIterator[tuple[Tree, Verifier]]:
    for problem in WORLD.problems(problems):
        tree = Tree(problem.question)
        await sample_chains(tree, 8, parts=PARTS, config=SearchConfig())
        yield tree, WORLD.verifier(problem)


def chosen(scorer: Scorer, problems: int = 60) -> RerankComparison:
    return asyncio.run(rerank_samples(sampled(problems), scorer, by_text))


def test_true_values_beat_votes_and_their_opposites_lose() -> None:
    good = chosen(WORLD.scorer(noise=0.0, blind_steps=0))
    found = good.comparisons()
    assert good.by_value["best of N"] == good.reachable
    for name, one in found.items():
        assert one.first == sum(good.voted) / 60
        assert one.p < 0.05
        assert "beats majority voting" in conclusion(name, one)
    bad = chosen(Contrary(WORLD.scorer(noise=0.0, blind_steps=0)))
    assert bad.voted == good.voted
    assert "is worse than majority" in conclusion("best of N", bad.comparisons()["best of N"])
    report = good.as_json()
    assert report["single"] < report["majority"] <= report["any_right"]
    # True values tell right from wrong on every problem that has both; their opposites never do.
    assert report["right_above_wrong"] == 1
    assert 0 < report["problems_with_both"] < 60
    assert bad.as_json()["right_above_wrong"] == 0
    assert report["problems"] == 60
    assert report["sampled_tokens"] > report["samples"] > 0


def test_too_few_problems_are_said_to_be_too_few() -> None:
    said = conclusion("best of N", compare([True, False, False, True], [True, True, False, True]))
    assert said.startswith("There is no evidence")
    assert "4 problems" in said
    with pytest.raises(InputError, match="reference"):
        RerankComparison().comparisons()
