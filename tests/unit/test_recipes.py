"""The presets: each loads, names a strategy that exists, and has the paper's numbers."""

import pytest

from rstar_math.config import load_config, presets
from rstar_math.search.strategies import Strategy, parse_strategies

ROWS = {
    "zero-shot-cot": Strategy("zero"),
    "few-shot-cot": Strategy("cot"),
    "sc8": Strategy("cot", 8),
    "sc64": Strategy("cot", 64),
    "sc128": Strategy("cot", 128),
    "tot": Strategy("tot", 5),
    "rap": Strategy("rap", 10),
    "rstar-gen": Strategy("gen", 32),
    "rstar": Strategy("rstar", 32),
}


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_whole(name: str) -> None:
    config = load_config(name)
    assert len(parse_strategies(config.search.strategy)) == 1


@pytest.mark.parametrize(("name", "strategy"), ROWS.items())
def test_each_row_of_the_paper_has_a_recipe(name: str, strategy: Strategy) -> None:
    assert parse_strategies(load_config(name).search.strategy) == [strategy]


def test_the_recipe_of_rstar_has_the_papers_numbers() -> None:
    config = load_config("rstar", model="http://a/v1", discriminator="http://b/v1")
    assert (config.model.url, config.discriminator.url) == ("http://a/v1", "http://b/v1")
    assert config.search.exploration == 2
    assert config.actions.candidates == 5
    assert (config.actions.votes, config.actions.sub_votes) == (32, 10)
    assert (config.mutual.splits, config.mutual.min_visible, config.mutual.max_visible) == (
        1,
        0.2,
        0.8,
    )


def test_the_discriminator_is_the_same_model_unless_one_is_named() -> None:
    assert load_config("rstar").discriminator.url == "same"
