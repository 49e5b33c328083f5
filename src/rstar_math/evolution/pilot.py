"""A short pilot: what a rollout, a solution and a step of training take on this machine."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Self

from rstar_math.config import Config
from rstar_math.evolution import gathering, learning
from rstar_math.evolution.journal import Journal
from rstar_math.evolution.models import Made, Pair, config_of, strong_config
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.recipe_sections import RoundSection
from rstar_math.evolution.watching import Watch
from rstar_math.models.loading import load_tokenizer
from rstar_math.search.strategy import Strategy
from rstar_math.solver import Solver
from rstar_math.steps import FORMATS, trained_prompt
from rstar_math.training.policy import train_policy
from rstar_math.training.rows import SolutionRow, annotated_rows
from rstar_math.types import Cost, Problem

PROBLEMS = 4
"""Problems searched in the pilot."""
ROLLOUTS = 8
"""Rollouts of each, at most; the first of a tree sample more than the later ones."""
_SHOWN, _STEPS = 64, 2
"""Solutions whose length is looked at, and steps of the optimiser that are timed, after a first."""
_GREEDY = Strategy("greedy")


@dataclass(frozen=True, slots=True)
class Habit:
    """What a piece of work takes, in the mean."""

    calls: float
    tokens: float
    """Sampled."""
    seconds: float
    """Of wall time, with as many problems at once as the pilot had."""

    @classmethod
    def total(cls, habits: Iterable["Habit"]) -> Self:
        """All of them."""
        rows = [(one.calls, one.tokens, one.seconds) for one in habits]
        return cls(*map(sum, zip(*rows, strict=True)))

    def times(self, number: float) -> "Habit":
        """That piece of work `number` times."""
        return Habit(self.calls * number, self.tokens * number, self.seconds * number)

    def wider(self, factor: float) -> "Habit":
        """With `factor` times the samples to a call."""
        return Habit(self.calls, self.tokens * factor, self.seconds * factor)


@dataclass(frozen=True, slots=True)
class Pilot:
    """Means of what was tried."""

    rollout: Habit
    """One rollout of a search with `candidates`."""
    candidates: int
    whole: Habit
    """One greedy solution."""
    start_s: float
    """Seconds until a model answers."""
    length: float
    """Tokens of a whole solution with its question."""
    trained: float
    """Tokens a second of a training of the policy."""

    @property
    def rate(self) -> float:
        """Sampled tokens a second of a search."""
        return self.rollout.tokens / max(self.rollout.seconds, 1e-9)

    def sampled(self, number: int) -> Habit:
        """That many sampled solutions of a problem, at the rate of a search."""
        tokens = self.whole.tokens * number
        return Habit(self.whole.calls * number, tokens, tokens / max(self.rate, 1e-9))


async def fly(journal: Journal, recipe: Recipe, watch: Watch) -> Pilot:
    """Search a few of the gathered problems, and train for two steps of the optimiser, of which the
    second is timed; of a tiny base, which cannot be asked by examples, the first round's policy is
    trained for it. Raises `RstarError`."""
    problems = gathering.problems_in(journal, gathering.TRAIN)[:PROBLEMS]
    rows = _rows(journal, recipe, problems)
    base = learning.base_of(journal, recipe)
    watch.begin("0/pilot", "a few steps of training", None, 0)
    length, trained = _training(recipe, base, rows)
    policy = Made(0, base, learning.base_address(journal, recipe), "base")
    if recipe.base == learning.TINY:
        folder = journal.path("pilot")
        train_policy(rows, base, folder, recipe.sft.model_copy(update={"mode": recipe.policy.mode}))
        policy = Made(1, str(folder), learning.deployed(recipe, folder), "pilot")
    one = next((one for one in recipe.rounds if one.data == "search"), recipe.rounds[0])
    config = _config(recipe, one, Pair(policy))
    began = monotonic()
    async with Solver(config) as solver:
        start_s = monotonic() - began
        watch.begin("0/pilot", "a few greedy answers", 2 * len(problems), 0)
        await _timed(solver, problems, _GREEDY, watch)  # the first ones wait for all to be loaded
        whole = await _timed(solver, problems, _GREEDY, watch)
        strategy = Strategy(one.strategy, min(ROLLOUTS, one.rollouts))
        watch.begin("0/pilot", "a short search", len(problems), 0)
        search = await _timed(solver, problems, strategy, watch)
    rollout = search.times(1 / (strategy.n or 1))
    return Pilot(rollout, one.candidates, whole, start_s, length, trained)


def _config(recipe: Recipe, one: RoundSection, pair: Pair) -> Config:
    """The configuration of a round's searches."""
    options: dict[str, Any] = {"candidates": one.candidates, "rollouts": one.rollouts}
    if one.model is not None:
        return strong_config(recipe, one.model, **options)
    return config_of(recipe, pair, scored=False, **options)


async def _timed(
    solver: Solver, problems: Sequence[Problem], strategy: Strategy, watch: Watch
) -> Habit:
    """What a strategy takes on a problem."""
    began, costs = monotonic(), []
    async for problem, solution in solver.map(problems, strategy):
        costs.append(solution.tree.cost)
        watch.advance(problem, solved=False, tokens=costs[-1].sampled_tokens)
    whole, share = Cost.total(costs), 1 / max(len(costs), 1)
    return Habit(whole.calls, whole.sampled_tokens, monotonic() - began).times(share)


def _rows(journal: Journal, recipe: Recipe, problems: Sequence[Problem]) -> list[SolutionRow]:
    """Solutions to train on: the annotated ones, or else something like a solution."""
    if recipe.rounds[0].data == "annotated":
        rows, _ = annotated_rows(
            gathering.solutions_in(journal)[: recipe.rounds[0].problems],
            FORMATS[recipe.curation.format],
        )
        if rows:
            return rows
    text = "# Put the numbers of the question together.\nprint(1 + 2)\n<code/>\n" * 4
    return [
        SolutionRow(prompt=trained_prompt(problem.question), completion=text, problem=problem.id)
        for problem in problems
    ]


def _training(recipe: Recipe, base: str, rows: Sequence[SolutionRow]) -> tuple[float, float]:
    """Tokens of a solution with its question, and tokens a second of a training."""
    tokenizer = load_tokenizer(base)
    shown = rows[:_SHOWN]
    length = sum(len(tokenizer(row.prompt + row.completion).input_ids) for row in shown) / len(
        shown
    )
    batch = min(recipe.sft.batch, 8)
    update: dict[str, Any] = {"mode": recipe.policy.mode, "batch": batch}
    update |= {"max_steps": 1 + _STEPS, "epochs": 1, "save_every": 10**6}
    settings = recipe.sft.model_copy(update=update)
    moments: list[float] = []
    some = (list(rows) * (1 + _STEPS) * batch)[: (1 + _STEPS) * batch]
    with tempfile.TemporaryDirectory(prefix="rstar-pilot-") as folder:
        out = Path(folder) / "policy"
        train_policy(some, base, out, settings, say=lambda line: moments.append(monotonic()))
    seconds = max(moments[-1] - moments[0], 1e-9)
    return length, _STEPS * batch * length / seconds
