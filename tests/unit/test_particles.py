"""Particle filtering: the resampling by itself, and trees in a world whose values are known."""

import asyncio
from math import ceil, floor, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import SearchConfig
from rstar_math.search import ROOT, SearchComponents, Tree, particle_filter, to_record
from rstar_math.search.particles import (
    MAX_LOG_ODDS,
    Particles,
    effective_size,
    log_odds,
    resample,
    weights_of,
)
from rstar_math.testing import ToyWorld
from tests.unit.toy import DirectExecutor

WORLD = ToyWorld(steps=4, trap=0.0, slip=0.3)
populations = st.lists(
    st.tuples(st.integers(1, 9), st.floats(-MAX_LOG_ODDS, MAX_LOG_ODDS)), min_size=1, max_size=8
).map(lambda pairs: [Particles(node, *pair) for node, pair in enumerate(pairs)])
offsets = st.floats(0, 1, exclude_max=True)


@given(populations, st.integers(1, 64), offsets)
def test_an_entry_gets_its_share_rounded_up_or_down(
    population: list[Particles], size: int, offset: float
) -> None:
    drawn = resample(population, size, offset)
    counts = {each.node: each.count for each in drawn}
    assert sum(counts.values()) == size
    assert all(each.log_weight == 0 for each in drawn)
    for each, weight in zip(population, weights_of(population), strict=True):
        share = size * weight
        assert floor(share - 1e-6) <= counts.get(each.node, 0) <= ceil(share + 1e-6)


@given(populations)
def test_the_effective_size_is_at_most_the_number_of_particles(
    population: list[Particles],
) -> None:
    number = sum(each.count for each in population)
    assert 1 - 1e-9 <= effective_size(population) <= number + 1e-9
    even = [Particles(each.node, each.count, 3.5) for each in population]
    assert effective_size(even) == pytest.approx(number)


def test_resampling_is_unbiased_over_its_offset() -> None:
    population = [Particles(1, 1, log(0.7)), Particles(2, 2, log(0.1)), Particles(3, 1, log(0.1))]
    counts = {1: 0, 2: 0, 3: 0}
    for step in range(1000):
        for each in resample(population, 4, (step + 0.5) / 1000):
            counts[each.node] += each.count
    assert [counts[node] / 4000 for node in (1, 2, 3)] == pytest.approx([0.7, 0.2, 0.1], abs=1e-3)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_the_weight_of_a_step_grows_with_its_score(one: float, other: float) -> None:
    if one < other:
        assert log_odds(one) <= log_odds(other)
    assert log_odds(0.0) == 0.0
    assert log_odds(-1.0) == log_odds(None) == -MAX_LOG_ODDS


def grown(pause_s: float = 0.0, size: int = 6, **options: float) -> Tree:
    tree = Tree(WORLD.problems(1)[0].question)
    executor = DirectExecutor(pause_s) if pause_s else WORLD.executor
    parts = SearchComponents(WORLD.policy, executor, WORLD.scorer())
    asyncio.run(particle_filter(tree, size, parts=parts, config=SearchConfig(**options)))
    return tree


def test_particles_share_the_nodes_of_one_tree() -> None:
    tree = grown(size=12)
    for index, node in enumerate(tree):
        if node.expanded and index != ROOT:
            # One request per node, however many particles are there.
            assert sum(tree.nodes[child].count for child in node.children) <= 12
    layers: dict[int, int] = {}
    for node in tree.nodes[1:]:
        layers[node.depth] = layers.get(node.depth, 0) + node.count
    assert max(layers.values()) <= 12
    assert layers[1] + tree.cost.malformed >= 12
    assert tree.rollouts <= 12


def test_resampling_can_continue_a_path_more_often_than_it_was_sampled() -> None:
    tree = grown(size=8)
    more = [
        node
        for node in tree.nodes[1:]
        if sum(tree.nodes[child].count for child in node.children) > node.count
    ]
    assert more


def test_the_tree_does_not_depend_on_the_order_of_arrival() -> None:
    assert to_record(grown(0.002)) == to_record(grown(0.0001))


def test_a_high_temperature_keeps_more_paths_alive() -> None:
    def alive(temperature: float) -> int:
        tree = grown(size=16, particle_temperature=temperature)
        return sum(node.expanded for node in tree)

    assert alive(50.0) > alive(0.2)


def test_particles_are_replaced_when_some_die() -> None:
    fragile = ToyWorld(steps=4, right=0.5, slip=0.0, trap=0.0, fails=0.5, dead=0.0)
    parts = SearchComponents(fragile.policy, fragile.executor, fragile.scorer())
    tree = Tree(fragile.problems(1)[0].question)
    asyncio.run(particle_filter(tree, 16, parts=parts, config=SearchConfig()))
    assert tree.failures()["code failed"] >= 8
    assert tree.rollouts == 16
