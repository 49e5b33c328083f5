"""What a plan reckons from a pilot, and how it is shown."""

import pytest
from rich.console import Console

from rstar_math.cli import progress
from rstar_math.evolution.estimate import CostProfile, Pilot, Plan, estimate_stages
from rstar_math.evolution.recipe import Recipe, load_recipe

PILOT = Pilot(
    rollout=CostProfile(calls=3, tokens=80, seconds=0.1),
    candidates=16,
    greedy=CostProfile(calls=2, tokens=40, seconds=0.2),
    startup_s=2.0,
    solution_tokens=90,
    training_tokens_per_s=9000,
)
COUNTS = {"to learn from": 300, "held out": 40}
SETTINGS = (
    "sft.epochs=10",
    "sft.max_steps=100000",
    "rounds.1.problems=24",
    "rounds.2.problems=50",
    "rounds.2.rollouts=4",
    "rounds.3.retry_rollouts=[6]",
    "evaluation.benchmarks="
    '[{source="toy:tasks?size=60&seed=2", system=false}, {source="toy:tasks"}]',
    'evaluation.system=["sc@4", "mcts@2"]',
    "evaluation.candidates=32",
)


def planned(*settings: str) -> Plan:
    recipe: Recipe = load_recipe("smoke", (*SETTINGS, *settings))
    return Plan(COUNTS, PILOT, estimate_stages(recipe, PILOT, COUNTS, [60, 20]))


def test_a_search_takes_its_rollouts_and_the_start_of_its_model() -> None:
    stages = {stage.stage: stage for stage in planned().stages}
    search = stages["2/search"]
    assert (search.problems, search.calls, search.tokens) == (50, 600, 16_000)
    assert search.hours * 3600 == pytest.approx(2 + 50 * 4 * 0.1)
    assert "1/search" not in stages, "annotated solutions take no search"
    assert stages["2/held-out"].tokens == 40 * 40
    assert stages["3/more-1 (at most)"].calls == stages["3/more-1 (at most)"].problems * 6 * 3


def test_a_search_of_short_problems_has_no_more_than_there_are() -> None:
    recipe = load_recipe("smoke", (*SETTINGS, "rounds.2.max_solution_steps=3"))
    counts = COUNTS | {"solved in at most 3 steps": 30}
    stages = {stage.stage: stage for stage in estimate_stages(recipe, PILOT, counts, [60, 20])}
    assert (stages["2/search"].problems, stages["2/search"].calls) == (30, 360)
    assert stages["3/search"].problems == 200, "the recipe's own"


def test_a_training_ends_with_its_steps_and_sees_the_solutions_that_are_kept() -> None:
    stages = {stage.stage: stage for stage in planned().stages}
    assert stages["1/policy"].tokens == 24 * 10 * 90
    assert stages["2/policy"].problems == 24 + 2 * 50, "train_on is all_rounds"
    alone = {stage.stage: stage for stage in planned('train_on="current_round"').stages}
    assert alone["2/policy"].problems == 2 * 50
    short = {stage.stage: stage for stage in planned("sft.max_steps=5").stages}
    assert short["2/policy"].tokens == 5 * 8 * 90


def test_what_is_measured_is_planned_and_nothing_else() -> None:
    stages = {stage.stage: stage for stage in planned().stages}
    assert "3/system-1" not in stages
    assert "2/system-2" not in stages
    system = stages["3/system-2"]
    assert system.tokens == 20 * (4 * 40 + 2 * 80 * 32 / 16)


def test_the_base_is_planned_where_it_is_measured() -> None:
    stages = {stage.stage: stage for stage in planned("evaluate_base=true").stages}
    assert (stages["0/held-out"].problems, stages["0/held-out"].tokens) == (40, 40 * 40)
    assert stages["0/policy-1"].tokens == 60 * 40
    assert "0/system-2" not in stages


WRITER = ("synthesis.requests=20", "synthesis.model.url=http://localhost:8000/v1")


def test_new_problems_are_planned_as_if_all_were_kept() -> None:
    assert not [stage for stage in planned().stages if stage.stage.startswith("0/")]
    stages = {stage.stage: stage for stage in planned(*WRITER).stages}
    drafts = stages["0/drafts (at most)"]
    assert (drafts.problems, drafts.calls, drafts.tokens) == (80, 20, 80 * 256)
    solved = stages["0/synthesis (at most)"]
    assert (solved.problems, solved.calls, solved.tokens) == (80, 80 * 20, 80 * 10 * 40)
    assert drafts.hours * 3600 == pytest.approx(2 + 80 * 256 / 800)
    assert stages["2/search"].problems == 50, "what a round draws stays as it is"


def test_a_plan_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=80, record=True, force_terminal=False)
    monkeypatch.setattr(progress, "out", console)
    plan = planned(*WRITER)
    progress.print_plan(plan)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for stage in plan.stages:
        assert stage.stage in text
    assert "Drafts are estimated from the recipe" in " ".join(text.split())
    assert "300 training problems" in " ".join(text.split())
    assert f"{sum(stage.calls for stage in plan.stages):,}" in text
