"""Mutual reasoning between two solvers whose errors are set: what comes out is what the closed form
says, and it helps as far as the two err differently."""

import asyncio
from math import sqrt

import pytest

from benchmarks.toy_peers import ToyPeers, toy_units
from rstar_math.config import MutualConfig, SearchConfig
from rstar_math.errors import ConfigError, InputError
from rstar_math.search import (
    SearchComponents,
    Tree,
    check_solutions,
    choose_by_agreement,
    majority,
    sample_chains,
    votes_of,
)
from rstar_math.testing.toy_world import ToyExecutor
from rstar_math.types import Question
from tests.unit.toy import same_text

PAPER = MutualConfig()
CODE = MutualConfig(splits=4, min_visible=0.2, max_visible=0.5, score="code")
SETTINGS = [
    (ToyPeers(0.5, 0.5, 0.0), CODE),
    (ToyPeers(0.5, 0.5, 1.0), CODE),
    (ToyPeers(0.5, 0.7, 0.4, follow=0.5), CODE),
    (ToyPeers(0.3, 0.3, 0.0, follow=0.0), PAPER),
    (ToyPeers(0.7, 0.4, 0.3, steady=0.9), PAPER),
    (ToyPeers(0.6, 0.6, 0.5), MutualConfig(splits=3, min_agreement="all", max_visible=0.7)),
    (ToyPeers(0.6, 0.6, 0.5), MutualConfig(splits=3, min_agreement="one", score="code")),
]


def shares(world: ToyPeers, config: MutualConfig, n: int, problems: int) -> tuple[float, float]:
    """How many problems a majority and mutual reasoning answer right, with n chains each."""

    async def one(tree: Tree) -> tuple[str | None, str | None]:
        parts = SearchComponents(world.generating(), ToyExecutor())
        await sample_chains(tree, n, parts=parts, config=SearchConfig())
        await check_solutions(
            tree,
            discriminator=world.discriminating(),
            segments=toy_units,
            group=same_text,
            config=config,
            seed=0,
        )
        by_vote = await majority(votes_of(tree), same_text)
        return by_vote.answer, (await choose_by_agreement(tree, same_text, config)).answer

    async def every() -> tuple[float, float]:
        hits = [0, 0]
        for problem in world.problems(problems):
            for at, answer in enumerate(await one(Tree(problem.question))):
                hits[at] += answer == problem.reference
        return hits[0] / problems, hits[1] / problems

    return asyncio.run(every())


@pytest.mark.parametrize(("world", "config"), SETTINGS)
@pytest.mark.parametrize("n", [5, 6])
def test_what_comes_out_is_what_is_expected(world: ToyPeers, config: MutualConfig, n: int) -> None:
    """Within 4 standard deviations: by chance off once in 16,000 times."""
    problems = 200
    found, expected = shares(world, config, n, problems), world.expected(n, config)
    for share, exact in zip(found, (expected.majority, expected.mutual), strict=True):
        assert abs(share - exact) <= 4 * sqrt(exact * (1 - exact) / problems)


@pytest.mark.parametrize(("config", "follow"), [(CODE, 0.25), (PAPER, 0.0)], ids=["code", "paper"])
def test_mutual_beats_the_majority_only_where_the_two_err_differently(
    config: MutualConfig, follow: float
) -> None:
    """Expected are 35 and 32 points, and none; over 300 problems a gain has a standard deviation
    of 3 points at most (it is that of at most 300 steps of -1, 0 or +1, a third of them not 0)."""
    apart = ToyPeers(0.5, 0.5, 0.0, follow=follow)
    alike = ToyPeers(0.5, 0.5, 1.0, follow=follow)
    gains = []
    for world in (apart, alike):
        by_vote, mutual = shares(world, config, 7, 300)
        gains.append(mutual - by_vote)
    assert gains[0] > 0.25
    assert abs(gains[1]) < 0.08
    assert apart.expected(7, config).mutual - apart.expected(7, config).majority > 0.3
    expected = alike.expected(7, config)
    assert expected.mutual == pytest.approx(expected.majority)


def test_expectations_by_hand() -> None:
    """One candidate: nobody is asked. Solvers that are sure and independent: a candidate is right
    where the generator knows, and a majority of them all alike."""
    one = ToyPeers(0.5, 0.7, 0.2).expected(1, PAPER)
    assert (one.majority, one.mutual) == pytest.approx((0.5, 0.5))
    assert one.alone == pytest.approx(0.7 * 0.7 + 0.3 * 0.3)
    sure = ToyPeers(0.6, 0.9, 0.0, steady=1.0).expected(8, CODE)
    assert (sure.majority, sure.mutual, sure.alone) == pytest.approx((0.6, 0.6, 0.9))
    # Two candidates; a wrong one is never completed to its answer, a right one with chance 1/2.
    # Both right 1/4; one right (1/2): kept, or else the first of the two, 1/2 + 1/2 x 1/2.
    two = ToyPeers(0.5, 0.5, 0.0, steady=0.5, follow=0.0).expected(2, PAPER)
    assert two.mutual == pytest.approx(1 / 4 + 1 / 2 * (1 / 2 + 1 / 4))
    assert two.majority == pytest.approx(1 / 2)


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_rho_is_the_correlation_of_not_knowing(rho: float) -> None:
    world = ToyPeers(0.5, 0.5, rho, steady=1.0)

    async def known(question: Question, reference: str | None) -> tuple[bool, bool]:
        (step,) = await world.generating().propose(question, (), 1, seed=0)
        (answer,) = await world.discriminating().complete_answers(question, "", 1, seed=0)
        return step.answer == reference, answer == reference

    async def every() -> list[tuple[bool, bool]]:
        return [await known(p.question, p.reference_text) for p in world.problems(1000)]

    both = asyncio.run(every())
    equal = sum(a == b for a, b in both) / len(both)
    assert equal == pytest.approx((1 + rho) / 2, abs=0.05)
    assert sum(a for a, _ in both) / len(both) == pytest.approx(0.5, abs=0.05)


def test_a_peer_that_follows_ends_what_was_begun() -> None:
    world = ToyPeers(1.0, 1.0, steady=1.0, follow=1.0)
    question = world.problems(1)[0].question
    begun = "I follow idea 5, which leads to 123.\nLine 2 follows from line 1."
    answers = asyncio.run(world.discriminating().complete_answers(question, begun, 3, seed=0))
    assert answers == ["123"] * 3
    unmoved = ToyPeers(1.0, 1.0, steady=1.0, follow=0.0).discriminating()
    own = asyncio.run(unmoved.complete_answers(question, begun, 3, seed=0))
    assert own == [world.problems(1)[0].reference] * 3


def test_what_a_world_of_peers_refuses() -> None:
    with pytest.raises(ConfigError, match=r"rho = 1\.5 is no share"):
        ToyPeers(rho=1.5)
    with pytest.raises(InputError, match="not of this toy world"):
        asyncio.run(ToyPeers().discriminating().complete_answers(Question("q", "?"), "", 1, seed=0))
