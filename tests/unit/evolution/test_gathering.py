"""The problems of an evolution, and which of them a round may search."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rstar_math.errors import ConfigError, InputError
from rstar_math.evolution.manifest import ManifestStore, StageResult
from rstar_math.evolution.problem_sets import prepare_problems, training_pool
from rstar_math.evolution.recipe import Recipe, RoundSection, load_recipe

LONG = "Tom has 3 pens and buys 4, so <<3+4=7>>7 pens.\nHe loses 2, so <<7-2=5>>5.\n#### 5"
SOLUTIONS = {
    "one": ("Ann has 8 cows and sells 3. How many are left?", "She has <<8-3=5>>5.\n#### 5", "5"),
    "two": ("Tom has 3 pens, buys 4 and loses 2. How many has he?", LONG, "5"),
    "none": ("Kim reads 6 pages a day. How many in 9 days?", None, "54"),
    "kept": ("Sue eats 2 of 6 figs. How many are left?", "<<6-2=4>>4\n#### 4", "4"),
    "wrong": ("Lee bakes 7 pies and eats 1. How many are left?", "<<7-1=5>>5\n#### 5", "6"),
}


def recipe_of(folder: Path, *settings: str) -> Recipe:
    source = folder / "problems.jsonl"
    with source.open("w") as file:
        for name, (problem, solution, answer) in SOLUTIONS.items():
            row: dict[str, Any] = {"id": name, "problem": problem, "answer": answer}
            file.write(json.dumps(row | ({"solution": solution} if solution else {})) + "\n")
    train = f"problems.train={json.dumps([str(source)])}"
    return load_recipe("smoke", (train, "problems.held_out=1", "problems.limit=9", *settings))


async def gathered(folder: Path, recipe: Recipe) -> tuple[StageResult, dict[int | None, list[str]]]:
    with ManifestStore.open(folder / "run", recipe.model_dump(mode="json")) as manifests:

        async def work() -> StageResult:
            return prepare_problems(manifests, recipe)

        facts = await manifests.run_stage("0/problems", {}, work)
        steps: tuple[int | None, ...] = (None, 2, 3)
        return facts, {
            at: [p.id for p in training_pool(manifests, 2, RoundSection(max_solution_steps=at))]
            for at in steps
        }


def test_a_round_may_keep_to_problems_with_short_solutions(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "rounds.2.max_solution_steps=2")
    facts, chosen = asyncio.run(gathered(tmp_path, recipe))
    assert facts["counts"]["to learn from"] == 4
    assert facts["counts"]["solved in at most 2 steps"] == 1
    everything = ["one", "two", "none", "wrong"]  # "kept" is held out
    assert chosen == {None: everything, 2: ["one"], 3: ["one", "two"]}


def test_solutions_are_kept_for_choosing_where_no_round_learns_from_them(
    tmp_path: Path,
) -> None:
    settings = ("rounds.1.data=search", "rounds.1.max_solution_steps=3", "rounds.1.model.url=local")
    _, chosen = asyncio.run(gathered(tmp_path, recipe_of(tmp_path, *settings)))
    assert chosen[3] == ["one", "two"]


def test_no_problem_of_so_few_steps_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"at most 1 steps"):
        asyncio.run(gathered(tmp_path, recipe_of(tmp_path, "rounds.2.max_solution_steps=1")))


def test_a_round_added_later_says_that_no_solutions_were_kept(tmp_path: Path) -> None:
    settings = ("rounds.1.data=search", "rounds.1.model.url=local")
    with pytest.raises(InputError, match="max_solution_steps"):
        asyncio.run(gathered(tmp_path, recipe_of(tmp_path, *settings)))


def test_a_round_of_annotated_solutions_searches_none_and_takes_no_steps(tmp_path: Path) -> None:
    for searching in ("rounds.1.max_solution_steps=2", 'rounds.1.sources=["toy"]'):
        with pytest.raises(ConfigError, match="annotated"):
            recipe_of(tmp_path, searching)


def test_a_round_may_keep_to_some_sources(tmp_path: Path) -> None:
    train = f'["{tmp_path}/problems.jsonl", "stories:words?size=30"]'
    settings = (f"problems.train={train}", "problems.limit=90", "rounds.2.max_solution_steps=3")
    recipe = recipe_of(tmp_path, *settings, 'rounds.2.sources=["stor", "gsm8k"]')

    async def sources() -> tuple[StageResult, set[str | None]]:
        with ManifestStore.open(tmp_path / "run", recipe.model_dump(mode="json")) as manifests:

            async def work() -> StageResult:
                return prepare_problems(manifests, recipe)

            facts = await manifests.run_stage("0/problems", {}, work)
            found = training_pool(manifests, 2, recipe.rounds[1])
            return facts["counts"], {problem.source for problem in found}

    counts, found = asyncio.run(sources())
    assert found == {"stories"}
    assert 15 <= counts["of stor, gsm8k solved in at most 3 steps"] <= 30
    unknown = recipe_of(tmp_path, *settings, 'rounds.2.sources=["story", "gym"]')
    with pytest.raises(InputError, match=r"story or gym .*stories"):
        asyncio.run(gathered(tmp_path / "other", unknown))
