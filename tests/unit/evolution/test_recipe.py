"""Recipes: those of the package read, and what is wrong with others in a sentence."""

from pathlib import Path

import pytest

from rstar_math.errors import ConfigError
from rstar_math.evolution.problem_sets import unique_titles
from rstar_math.evolution.recipe import BenchmarkSection, load_recipe, recipe_names
from rstar_math.problems.jsonl import sample
from rstar_math.types import Problem, Question


@pytest.mark.parametrize("name", ["laptop", "paper-7b", "single-gpu", "smoke"])
def test_the_recipes_of_the_package_are_read(name: str) -> None:
    assert name in recipe_names()
    assert load_recipe(name).rounds


def test_the_papers_figures() -> None:
    """rStar-Math, arXiv:2501.04519, section 3.4 and appendix A.1."""
    recipe = load_recipe("paper-7b")
    first, second, third, fourth = recipe.rounds
    assert (first.rollouts, first.candidates, first.scorer) == (8, 5, False)
    assert (second.rollouts, second.candidates, second.scorer) == (16, 8, False)
    assert (third.rollouts, third.candidates, third.scorer) == (16, 8, True)
    assert (fourth.rollouts, fourth.candidates, fourth.trees_per_problem) == (16, 16, 2)
    assert fourth.retry_rollouts == (64, 128)
    assert recipe.train_on == "current_round"
    assert (recipe.sft.learning_rate, recipe.sft.batch_size, recipe.sft.epochs) == (7e-6, 128, 2)
    assert recipe.evaluation.candidates == 32
    assert (recipe.synthesis.solutions, recipe.synthesis.min_agreement) == (10, 3)
    assert recipe.synthesis.requests
    assert recipe.synthesis_model == first.model


@pytest.mark.parametrize("name", ["laptop", "single-gpu", "smoke"])
def test_new_problems_are_asked_for_where_a_recipe_says_so(name: str) -> None:
    assert load_recipe(name).synthesis.requests == 0
    with pytest.raises(ConfigError, match=r"synthesis\.model"):
        load_recipe(name, ("synthesis.requests=5",))
    named = load_recipe(name, ("synthesis.requests=5", "synthesis.model.url=http://x/v1"))
    assert named.synthesis_model is not None
    assert named.synthesis_model.url == "http://x/v1"


def test_settings_over_a_recipe() -> None:
    settings = (
        "rounds.2.rollouts=5",
        "sft.epochs=1",
        "train_on=current_round",
        "rounds.3.retry_rollouts=[64, 128]",
    )
    recipe = load_recipe("smoke", settings)
    assert recipe.rounds[1].rollouts == 5
    assert recipe.sft.epochs == 1
    assert recipe.train_on == "current_round"
    assert recipe.rounds[2].retry_rollouts == (64, 128)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("rounds.2.rolouts=5", r"rounds\.2\.rolouts; the nearest is rollouts"),
        ("sft.epoch=1", r"sft\.epoch; the nearest is epochs"),
        ("base_modl=local", r"base_modl; the nearest is base_model"),
        ("rounds.9.rollouts=5", "has rounds 1 to 3 and no 9"),
        ("rounds.0.rollouts=5", "has rounds 1 to 3 and no 0"),
        ("rounds.2.rollouts", "is not section.key=value"),
        ("rounds.2.rollouts=0", r"Invalid value for rounds\.2\.rollouts: 0"),
        ("synthesis.request=1", r"synthesis\.request; the nearest is requests"),
        ("synthesis.min_agreement=11", "min_agreement = 11 is above"),
        ("synthesis.per_request=0", r"synthesis\.per_request: 0"),
        ("search.rollouts=99", r"search\.rollouts = 99 has no effect"),
        ("sft.batch_size=9", "set micro_batch_size = 1"),
        ("gate.min_probability=1", r"gate\.min_probability: 1"),
        ("model.url=http://x/v1", "base_model"),
        ('rounds.2.data="annotated"', "only the first round"),
    ],
)
def test_a_wrong_option_is_named(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe("smoke", (setting,))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a readable file nor a recipe \(laptop"):
        load_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("rounds = [")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_recipe(str(tmp_path / "bad.toml"))
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError, match="problems is missing"):
        load_recipe(str(tmp_path / "empty.toml"))


def test_a_larger_draw_holds_a_smaller_one_in_order() -> None:
    problems = [Problem(Question(f"q{n}", f"What is {n}?"), str(n)) for n in range(50)]
    small, large = sample(problems, 10, 7), sample(problems, 20, 7)
    assert len(small) == 10
    assert set(small) < set(large)
    assert large == [problem for problem in problems if problem in large]
    assert sample(problems, None, 7) == sample(problems, 99, 7) == problems
    assert sample(problems, 10, 8) != small


def test_sets_have_names_of_their_own() -> None:
    sets = [
        BenchmarkSection(source=s)
        for s in ("svamp", "svamp", "data/mine.jsonl", "toy:tasks?size=3")
    ]
    assert unique_titles(sets) == ["svamp", "svamp'", "data/mine", "toy/tasks"]
