"""Estimates an evolution from a short pilot: problems, calls, tokens and hours.

The pilot searches a few problems with the base and reckons with its rates; a trained policy writes
shorter steps, so the figure is an upper one for later rounds. A training is reckoned from the time
that a step of the optimiser takes.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Self

from rstar_math.config.sections import Config
from rstar_math.evolution import problem_sets, stages
from rstar_math.evolution.manifest import ManifestStore
from rstar_math.evolution.progress import NullListener, ProgressListener
from rstar_math.evolution.recipe import Recipe, RoundSection
from rstar_math.evolution.stages import Models, ModelVersion, config_for, teacher_config
from rstar_math.models.loading import load_tokenizer
from rstar_math.prompts.grammar import FORMATS
from rstar_math.prompts.templates import trained_prompt
from rstar_math.search.strategies import Strategy, parse_strategies
from rstar_math.solver.solver import Solver
from rstar_math.training.rows import SftRow, annotated_rows
from rstar_math.training.sft import train_policy
from rstar_math.types import Cost, Problem

PROBLEMS = 4
"""Problems searched in the pilot."""
ROLLOUTS = 8
"""Rollouts of each, at most; the first of a tree sample more than the later ones."""
_SHOWN, _STEPS = 64, 2
"""Solutions whose length is looked at, and steps of the optimiser that are timed, after a first."""
_GREEDY = Strategy("greedy")


@dataclass(frozen=True, slots=True)
class CostProfile:
    """What a piece of work takes, in the mean."""

    calls: float
    tokens: float
    """Sampled."""
    seconds: float
    """Of wall time, with as many problems at once as the pilot had."""

    @classmethod
    def total(cls, profile: Iterable["CostProfile"]) -> Self:
        """All of them."""
        rows = [(one.calls, one.tokens, one.seconds) for one in profile]
        return cls(*map(sum, zip(*rows, strict=True)))

    def times(self, number: float) -> "CostProfile":
        """That piece of work `number` times."""
        return CostProfile(self.calls * number, self.tokens * number, self.seconds * number)

    def wider(self, factor: float) -> "CostProfile":
        """With `factor` times the samples to a call."""
        return CostProfile(self.calls, self.tokens * factor, self.seconds * factor)


@dataclass(frozen=True, slots=True)
class Pilot:
    """Means of what was tried."""

    rollout: CostProfile
    """One rollout of a search with `candidates`."""
    candidates: int
    whole: CostProfile
    """One greedy solution."""
    start_s: float
    """Seconds until a model answers."""
    length: float
    """Tokens of a whole solution with its question."""
    trained: float
    """Tokens a second of a training of the policy."""

    @property
    def tokens_per_s(self) -> float:
        """Sampled tokens a second of a search."""
        return self.rollout.tokens / max(self.rollout.seconds, 1e-9)

    def sampled(self, number: int) -> CostProfile:
        """That many sampled solutions of a problem, at the rate of a search."""
        tokens = self.whole.tokens * number
        return CostProfile(self.whole.calls * number, tokens, tokens / max(self.tokens_per_s, 1e-9))


async def run_pilot(journal: ManifestStore, recipe: Recipe, watch: ProgressListener) -> Pilot:
    """Search a few of the gathered problems, and train for two steps of the optimiser, of which the
    second is timed; of a tiny base, which cannot be asked by examples, the first round's policy is
    trained for it. Raises `RstarError`."""
    problems = problem_sets.problems_in(journal, problem_sets.TRAIN)[:PROBLEMS]
    rows = _rows(journal, recipe, problems)
    base = stages.base_of(journal, recipe)
    watch.begin("0/pilot", "a few steps of training", None, 0)
    length, trained = _training(recipe, base, rows)
    policy = ModelVersion(0, base, stages.base_address(journal, recipe), "base")
    if recipe.base_model == stages.TINY:
        folder = journal.path("pilot")
        train_policy(rows, base, folder, recipe.sft.model_copy(update={"mode": recipe.policy.mode}))
        policy = ModelVersion(1, str(folder), stages.deploy_policy(recipe, folder), "pilot")
    one = next((one for one in recipe.rounds if one.data == "search"), recipe.rounds[0])
    config = _config(recipe, one, Models(policy))
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


def _config(recipe: Recipe, one: RoundSection, pair: Models) -> Config:
    """The configuration of a round's searches."""
    options: dict[str, Any] = {"candidates": one.candidates, "rollouts": one.rollouts}
    if one.model is not None:
        return teacher_config(recipe, one.model, **options)
    return config_for(recipe, pair, scored=False, **options)


async def _timed(
    solver: Solver, problems: Sequence[Problem], strategy: Strategy, watch: ProgressListener
) -> CostProfile:
    """What a strategy takes on a problem."""
    began, costs = monotonic(), []
    async for problem, solution in solver.map(problems, strategy):
        costs.append(solution.tree.cost)
        watch.advance(problem, solved=False, tokens=costs[-1].sampled_tokens)
    whole, share = Cost.total(costs), 1 / max(len(costs), 1)
    return CostProfile(whole.calls, whole.sampled_tokens, monotonic() - began).times(share)


def _rows(journal: ManifestStore, recipe: Recipe, problems: Sequence[Problem]) -> list[SftRow]:
    """Solutions to train on: the annotated ones, or else something like a solution."""
    if recipe.rounds[0].data == "annotated":
        rows, _ = annotated_rows(
            problem_sets.solutions_in(journal)[: recipe.rounds[0].problems],
            FORMATS[recipe.curation.format],
        )
        if rows:
            return rows
    text = "# Put the numbers of the question together.\nprint(1 + 2)\n<code/>\n" * 4
    return [
        SftRow(prompt=trained_prompt(problem.question), completion=text, problem=problem.id)
        for problem in problems
    ]


def _training(recipe: Recipe, base: str, rows: Sequence[SftRow]) -> tuple[float, float]:
    """Tokens of a solution with its question, and tokens a second of a training."""
    tokenizer = load_tokenizer(base)
    shown = rows[:_SHOWN]
    length = sum(len(tokenizer(row.prompt + row.completion).input_ids) for row in shown) / len(
        shown
    )
    batch = min(recipe.sft.batch_size, 8)
    update: dict[str, Any] = {"mode": recipe.policy.mode, "batch_size": batch}
    update |= {"max_steps": 1 + _STEPS, "epochs": 1, "save_steps": 10**6}
    settings = recipe.sft.model_copy(update=update)
    moments: list[float] = []
    some = (list(rows) * (1 + _STEPS) * batch)[: (1 + _STEPS) * batch]
    with tempfile.TemporaryDirectory(prefix="rstar-pilot-") as folder:
        out = Path(folder) / "policy"
        train_policy(some, base, out, settings, log=lambda line: moments.append(monotonic()))
    seconds = max(moments[-1] - moments[0], 1e-9)
    return length, _STEPS * batch * length / seconds


KEPT = 2
"""Solutions reckoned to be kept of a problem."""
SIDES = 3
"""Sides of pairs reckoned to be run of a searched problem in the training of a preference model, as
were seen of 300 problems that a small model mostly missed; fewer where most are solved."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the work."""

    stage: str
    """Its name, with "(at most)" where it may be less."""
    problems: int
    calls: int
    """Requests to a model; 0 in a training."""
    tokens: int
    """Sampled in a search; run through the model, forward and back, in a training."""
    hours: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What an evolution would take."""

    counts: dict[str, int]
    """Problems read, left out by reason, to learn from, held out."""
    pilot: Pilot
    """What is reckoned with."""
    parts: list[Part]

    @property
    def hours(self) -> float:
        """Of all parts."""
        return sum(part.hours for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """All of it under plain names."""
        return {**asdict(self), "hours": self.hours}


async def estimate(recipe: Recipe, *, watch: ProgressListener | None = None) -> Plan:
    """The plan of a recipe; takes a minute or so with a small model. Raises `RstarError`."""
    watch = watch or NullListener()
    with (
        tempfile.TemporaryDirectory(prefix="rstar-plan-") as folder,
        ManifestStore.open(Path(folder) / "run", recipe.model_dump(mode="json")) as journal,
    ):
        watch.begin("0/problems", "gather problems", None, 0)
        counts = problem_sets.prepare_problems(journal, recipe)["counts"]
        pilot = await run_pilot(journal, recipe, watch)
        sizes = [
            len(problem_sets.problems_in(journal, problem_sets.evaluation_file(at)))
            for at in range(1, len(recipe.evaluation.benchmarks) + 1)
        ]
    return Plan(counts, pilot, estimate_parts(recipe, pilot, counts, sizes))


def estimate_parts(
    recipe: Recipe, pilot: Pilot, counts: dict[str, int], sizes: Sequence[int]
) -> list[Part]:
    """The parts of all rounds; `counts` are those of the problems "to learn from" and "held out",
    `sizes` those of the sets to measure on."""
    return _Estimator(recipe, pilot).parts(counts, sizes)


class _Estimator:
    """The parts of a plan from the pilot's rates."""

    def __init__(self, recipe: Recipe, pilot: Pilot) -> None:
        self.recipe, self.pilot = recipe, pilot
        self._parts: list[Part] = []

    def parts(self, counts: dict[str, int], sizes: Sequence[int]) -> list[Part]:
        """See `estimate_parts`."""
        train, held = counts["to learn from"], counts["held out"]
        train += self._synthesis()
        kept = 0.0
        if self.recipe.evaluate_base:
            self._sampled("0/held-out", held, self.pilot.whole)
            self._measure(0, sizes)
        for number, one in enumerate(self.recipe.rounds, 1):
            pool = counts.get(problem_sets.filter_name(one), train)
            size = min(pool, one.problems or pool)
            if one.data == "search":
                self._search(number, one, size)
            found = size * (1 if one.data == "annotated" else KEPT)
            kept = found + (kept if self.recipe.train_on == "all_rounds" else 0)
            if one.policy:
                self._policy(number, kept, held)
            if one.ppm and one.data == "search":
                self._ppm(number, size, held)
            self._measure(number, sizes)
        return self._parts

    def _synthesis(self) -> int:
        """New problems, reckoned as if all drafts were as long as they may be, new and kept: how
        many. Their solutions are reckoned to be as long as the pilot's."""
        wanted = self.recipe.synthesis
        if wanted.requests:
            tokens = wanted.most * wanted.max_tokens
            profile = CostProfile(
                wanted.requests, tokens, tokens / max(self.pilot.tokens_per_s, 1e-9)
            )
            self._sampled("0/drafts (at most)", 1, profile, shown=wanted.most)
            solutions = self.pilot.sampled(wanted.solutions)
            self._sampled("0/synthesis (at most)", wanted.most, solutions)
        return wanted.most

    def _search(self, number: int, one: RoundSection, size: int) -> None:
        self._sampled(
            f"{number}/search", size, self.pilot.rollout.times(one.rollouts * one.trees_per_problem)
        )
        for turn, more in enumerate(one.retry_rollouts, 1):
            self._sampled(f"{number}/more-{turn} (at most)", size, self.pilot.rollout.times(more))

    def _policy(self, number: int, solutions: float, held: int) -> None:
        settings = self.recipe.sft
        texts = solutions * settings.epochs
        if settings.max_steps is not None:
            texts = min(texts, settings.max_steps * settings.batch_size)
        self._trained(f"{number}/policy", solutions, texts)
        self._sampled(f"{number}/held-out", held, self.pilot.whole)

    def _ppm(self, number: int, size: int, held: int) -> None:
        settings = self.recipe.preference
        sides = size * SIDES * settings.epochs
        if settings.max_steps is not None:
            sides = min(sides, settings.max_steps * settings.batch_size * SIDES)
        self._trained(f"{number}/ppm", size, sides)
        self._sampled(f"{number}/samples", held, self.pilot.sampled(self.recipe.gate.samples))

    def _measure(self, number: int, sizes: Sequence[int]) -> None:
        section = self.recipe.evaluation
        last = number == len(self.recipe.rounds)
        system = number > 0 and (last or section.system_after == "every")
        for at, (chosen, problems) in enumerate(zip(section.benchmarks, sizes, strict=True), 1):
            self._strategies(f"{number}/policy-{at}", problems, section.policy)
            if system and chosen.system:
                self._strategies(f"{number}/system-{at}", problems, section.system)

    def _strategies(self, stage: str, problems: int, names: Sequence[str]) -> None:
        """A stage that runs some strategies on a set."""
        profile = [self._of(strategy) for strategy in parse_strategies(",".join(names))]
        if profile:
            self._sampled(stage, problems, CostProfile.total(profile))

    def _of(self, strategy: Strategy) -> CostProfile:
        """What a strategy takes on a problem."""
        section = self.recipe.evaluation
        if strategy.is_greedy:
            return self.pilot.whole
        if strategy.spec.is_chain:
            return self.pilot.sampled(strategy.n or 1)
        rollouts = (strategy.n or section.rollouts) * (strategy.runs or 1)
        wide = self.pilot.rollout.wider(section.candidates / self.pilot.candidates)
        return wide.times(rollouts)

    def _sampled(
        self, stage: str, problems: int, profile: CostProfile, *, shown: int | None = None
    ) -> None:
        whole = profile.times(problems)
        hours = (self.pilot.start_s + whole.seconds) / 3600
        size = problems if shown is None else shown
        self._parts.append(Part(stage, size, round(whole.calls), round(whole.tokens), hours))

    def _trained(self, stage: str, problems: float, texts: float) -> None:
        tokens = texts * self.pilot.length
        hours = tokens / self.pilot.trained / 3600
        self._parts.append(Part(stage, round(problems), 0, round(tokens), hours))
