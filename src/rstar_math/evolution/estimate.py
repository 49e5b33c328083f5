"""Estimates an evolution from a short pilot: problems, calls, tokens and hours of each stage.

The pilot searches a few problems with the base model. A trained policy writes shorter steps, so
later rounds cost at most what the estimate says. The time of a training follows from the time of
an optimizer step.
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
from rstar_math.prompts.templates import prompt_text
from rstar_math.search.strategies import Strategy, parse_strategies
from rstar_math.solver.solver import Solver
from rstar_math.training.rows import SftRow, annotated_rows
from rstar_math.training.sft import train_policy
from rstar_math.types import Cost, Problem

PILOT_PROBLEMS = 4
"""Problems searched in the pilot."""
MAX_PILOT_ROLLOUTS = 8
"""Maximum rollouts per pilot problem. A tree's first rollouts sample more than later ones."""
_LENGTH_SAMPLES = 64
"""Solutions whose length is measured."""
_TIMED_STEPS = 2
"""Optimizer steps that are timed, after one that is not."""
_GREEDY = Strategy("greedy")


@dataclass(frozen=True, slots=True)
class CostProfile:
    """The mean cost of a unit of work, such as a rollout."""

    calls: float
    """Requests to the model."""
    tokens: float
    """Sampled tokens."""
    seconds: float
    """Wall time, with as many concurrent problems as in the pilot."""

    @classmethod
    def total(cls, profiles: Iterable["CostProfile"]) -> Self:
        """The sum of some costs."""
        rows = [(profile.calls, profile.tokens, profile.seconds) for profile in profiles]
        return cls(*map(sum, zip(*rows, strict=True)))

    def times(self, factor: float) -> "CostProfile":
        """The cost of `factor` units."""
        return CostProfile(self.calls * factor, self.tokens * factor, self.seconds * factor)

    def with_samples(self, factor: float) -> "CostProfile":
        """The cost with `factor` times as many samples per call."""
        return CostProfile(self.calls, self.tokens * factor, self.seconds * factor)


@dataclass(frozen=True, slots=True)
class Pilot:
    """Mean costs measured in the pilot."""

    rollout: CostProfile
    """One rollout of a search."""
    candidates: int
    """Next steps sampled per node in that search."""
    greedy: CostProfile
    """One greedy solution."""
    startup_s: float
    """Seconds until the model is ready."""
    solution_tokens: float
    """Tokens of a solution with its question."""
    training_tokens_per_s: float
    """Tokens per second in a training of the policy."""

    @property
    def tokens_per_s(self) -> float:
        """Sampled tokens per second in a search."""
        return self.rollout.tokens / max(self.rollout.seconds, 1e-9)

    def samples(self, count: int) -> CostProfile:
        """The cost of `count` sampled solutions of a problem, at the token rate of a search."""
        tokens = self.greedy.tokens * count
        seconds = tokens / max(self.tokens_per_s, 1e-9)
        return CostProfile(self.greedy.calls * count, tokens, seconds)


async def run_pilot(manifests: ManifestStore, recipe: Recipe, listener: ProgressListener) -> Pilot:
    """Search a few of the prepared problems, and time a few optimizer steps.

    The tiny base model cannot follow a few-shot prompt, so the first round's policy is trained
    and searches instead. Raises `RstarError`.
    """
    problems = problem_sets.read_problem_file(manifests, problem_sets.TRAIN)[:PILOT_PROBLEMS]
    rows = _training_rows(manifests, recipe, problems)
    base = stages.base_checkpoint(manifests, recipe)
    listener.begin("0/pilot", "a few steps of training", None, 0)
    solution_tokens, training_tokens_per_s = _time_training(recipe, base, rows)
    policy = ModelVersion(0, base, stages.base_address(manifests, recipe), "base")
    if recipe.base_model == stages.TINY:
        folder = manifests.path("pilot")
        train_policy(rows, base, folder, recipe.sft.model_copy(update={"mode": recipe.policy.mode}))
        policy = ModelVersion(1, str(folder), stages.deploy_policy(recipe, folder), "pilot")
    section = next((s for s in recipe.rounds if s.data == "search"), recipe.rounds[0])
    strategy = Strategy(section.strategy, min(MAX_PILOT_ROLLOUTS, section.rollouts))
    began = monotonic()
    async with Solver(_search_config(recipe, section, Models(policy))) as solver:
        startup_s = monotonic() - began
        listener.begin("0/pilot", "a few greedy answers", 2 * len(problems), 0)
        await _time_strategy(solver, problems, _GREEDY, listener)  # warm-up, not counted
        greedy = await _time_strategy(solver, problems, _GREEDY, listener)
        listener.begin("0/pilot", "a short search", len(problems), 0)
        search = await _time_strategy(solver, problems, strategy, listener)
    return Pilot(
        rollout=search.times(1 / (strategy.size or 1)),
        candidates=section.candidates,
        greedy=greedy,
        startup_s=startup_s,
        solution_tokens=solution_tokens,
        training_tokens_per_s=training_tokens_per_s,
    )


def _search_config(recipe: Recipe, section: RoundSection, models: Models) -> Config:
    """The configuration of a round's searches, without a preference model."""
    options: dict[str, Any] = {"candidates": section.candidates, "rollouts": section.rollouts}
    if section.model is not None:
        return teacher_config(recipe, section.model, **options)
    return config_for(recipe, models, use_ppm=False, **options)


async def _time_strategy(
    solver: Solver, problems: Sequence[Problem], strategy: Strategy, listener: ProgressListener
) -> CostProfile:
    """The mean cost of a strategy per problem."""
    began, costs = monotonic(), []
    async for problem, solution in solver.map(problems, strategy):
        costs.append(solution.tree.cost)
        listener.advance(problem, solved=False, tokens=costs[-1].sampled_tokens)
    total = Cost.total(costs)
    profile = CostProfile(total.calls, total.sampled_tokens, monotonic() - began)
    return profile.times(1 / max(len(costs), 1))


def _training_rows(
    manifests: ManifestStore, recipe: Recipe, problems: Sequence[Problem]
) -> list[SftRow]:
    """Solutions to time a training with: annotated ones, or texts of typical length."""
    if recipe.rounds[0].data == "annotated":
        solutions = problem_sets.read_annotated_solutions(manifests)
        rows, _ = annotated_rows(
            solutions[: recipe.rounds[0].problems], FORMATS[recipe.curation.format]
        )
        if rows:
            return rows
    text = "# Put the numbers of the question together.\nprint(1 + 2)\n<code/>\n" * 4
    return [
        SftRow(prompt=prompt_text(problem.question), completion=text, problem=problem.id)
        for problem in problems
    ]


def _time_training(recipe: Recipe, base: str, rows: Sequence[SftRow]) -> tuple[float, float]:
    """Tokens of a solution with its question, and tokens per second of a training."""
    tokenizer = load_tokenizer(base)
    texts = [row.prompt + row.completion for row in rows[:_LENGTH_SAMPLES]]
    solution_tokens = sum(len(tokenizer(text).input_ids) for text in texts) / len(texts)
    steps = 1 + _TIMED_STEPS
    batch_size = min(recipe.sft.batch_size, 8)
    settings = recipe.sft.model_copy(
        update={
            "mode": recipe.policy.mode,
            "batch_size": batch_size,
            "max_steps": steps,
            "epochs": 1,
            "save_steps": 10**6,
        }
    )
    needed = steps * batch_size
    step_ends: list[float] = []
    with tempfile.TemporaryDirectory(prefix="rstar-pilot-") as folder:
        train_policy(
            (list(rows) * needed)[:needed],
            base,
            Path(folder) / "policy",
            settings,
            log=lambda line: step_ends.append(monotonic()),
        )
    seconds = max(step_ends[-1] - step_ends[0], 1e-9)
    return solution_tokens, _TIMED_STEPS * batch_size * solution_tokens / seconds


SOLUTIONS_PER_PROBLEM = 2
"""Assumed number of solutions that curation keeps per searched problem."""
PAIR_TEXTS_PER_PROBLEM = 3
"""Assumed number of chosen and rejected texts per searched problem in the training of a preference
model. Measured on 300 problems that a small model mostly failed; fewer if most are solved."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """The estimate of one stage."""

    stage: str
    """The stage's name, with " (at most)" if it may cost less."""
    problems: int
    calls: int
    """Requests to a model; 0 for a training."""
    tokens: int
    """Sampled tokens of a search; tokens of all forward and backward passes of a training."""
    hours: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimate of an evolution."""

    counts: dict[str, int]
    """Number of problems read, excluded by reason, "to learn from" and "held out"."""
    pilot: Pilot
    stages: list[StageEstimate]

    @property
    def hours(self) -> float:
        """Hours of all stages."""
        return sum(stage.hours for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """All fields, and the sum of the hours."""
        return {**asdict(self), "hours": self.hours}


async def estimate(recipe: Recipe, *, listener: ProgressListener | None = None) -> Plan:
    """The plan of a recipe; takes about a minute with a small model. Raises `RstarError`."""
    listener = listener or NullListener()
    with (
        tempfile.TemporaryDirectory(prefix="rstar-plan-") as folder,
        ManifestStore.open(Path(folder) / "run", recipe.model_dump(mode="json")) as manifests,
    ):
        listener.begin("0/problems", "prepare problems", None, 0)
        counts = problem_sets.prepare_problems(manifests, recipe)["counts"]
        pilot = await run_pilot(manifests, recipe, listener)
        benchmark_sizes = [
            len(problem_sets.read_problem_file(manifests, problem_sets.benchmark_file(number)))
            for number in range(1, len(recipe.evaluation.benchmarks) + 1)
        ]
    return Plan(counts, pilot, estimate_stages(recipe, pilot, counts, benchmark_sizes))


def estimate_stages(
    recipe: Recipe, pilot: Pilot, counts: dict[str, int], benchmark_sizes: Sequence[int]
) -> list[StageEstimate]:
    """The estimates of all stages.

    `counts` are the counts of `prepare_problems`, `benchmark_sizes` the number of problems of each
    benchmark.
    """
    return _Estimator(recipe, pilot).estimate(counts, benchmark_sizes)


class _Estimator:
    """Computes the stages of a plan from the pilot's costs."""

    def __init__(self, recipe: Recipe, pilot: Pilot) -> None:
        self.recipe, self.pilot = recipe, pilot
        self._stages: list[StageEstimate] = []

    def estimate(
        self, counts: dict[str, int], benchmark_sizes: Sequence[int]
    ) -> list[StageEstimate]:
        """See `estimate_stages`."""
        held_out = counts["held out"]
        train = counts["to learn from"] + self._add_synthesis()
        solutions = 0.0
        if self.recipe.evaluate_base:
            self._add_search("0/held-out", held_out, self.pilot.greedy)
            self._add_measurements(0, benchmark_sizes)
        for number, section in enumerate(self.recipe.rounds, 1):
            pool = counts.get(problem_sets.filter_name(section), train)
            size = min(pool, section.problems or pool)
            if section.data == "search":
                self._add_round_searches(number, section, size)
            new = size * (1 if section.data == "annotated" else SOLUTIONS_PER_PROBLEM)
            solutions = new + (solutions if self.recipe.train_on == "all_rounds" else 0)
            if section.policy:
                self._add_policy(number, solutions, held_out)
            if section.ppm and section.data == "search":
                self._add_ppm(number, size, held_out)
            self._add_measurements(number, benchmark_sizes)
        return self._stages

    def _add_synthesis(self) -> int:
        """Add the stages of new problems; the maximum number of new problems.

        Assumes that every draft has the maximum length and is kept, and that its solutions are as
        long as the pilot's.
        """
        options = self.recipe.synthesis
        if options.requests:
            tokens = options.max_drafts * options.max_tokens
            seconds = tokens / max(self.pilot.tokens_per_s, 1e-9)
            drafts = CostProfile(options.requests, tokens, seconds)
            self._add_stage("0/drafts (at most)", options.max_drafts, drafts)
            solutions = self.pilot.samples(options.solutions)
            self._add_search("0/synthesis (at most)", options.max_drafts, solutions)
        return options.max_drafts

    def _add_round_searches(self, number: int, section: RoundSection, size: int) -> None:
        rollout = self.pilot.rollout
        rollouts = section.rollouts * section.trees_per_problem
        self._add_search(f"{number}/search", size, rollout.times(rollouts))
        for retry, rollouts in enumerate(section.retry_rollouts, 1):
            self._add_search(f"{number}/more-{retry} (at most)", size, rollout.times(rollouts))

    def _add_policy(self, number: int, solutions: float, held_out: int) -> None:
        sft = self.recipe.sft
        texts = solutions * sft.epochs
        if sft.max_steps is not None:
            texts = min(texts, sft.max_steps * sft.batch_size)
        self._add_training(f"{number}/policy", solutions, texts)
        self._add_search(f"{number}/held-out", held_out, self.pilot.greedy)

    def _add_ppm(self, number: int, size: int, held_out: int) -> None:
        preference = self.recipe.preference
        texts = size * PAIR_TEXTS_PER_PROBLEM * preference.epochs
        if preference.max_steps is not None:
            max_pairs = preference.max_steps * preference.batch_size
            texts = min(texts, max_pairs * PAIR_TEXTS_PER_PROBLEM)
        self._add_training(f"{number}/ppm", size, texts)
        samples = self.pilot.samples(self.recipe.gate.samples)
        self._add_search(f"{number}/samples", held_out, samples)

    def _add_measurements(self, number: int, benchmark_sizes: Sequence[int]) -> None:
        section = self.recipe.evaluation
        is_last = number == len(self.recipe.rounds)
        system = number > 0 and (is_last or section.system_after == "every")
        for at, benchmark in enumerate(section.benchmarks, 1):
            problems = benchmark_sizes[at - 1]
            self._add_strategies(f"{number}/policy-{at}", problems, section.policy)
            if system and benchmark.system:
                self._add_strategies(f"{number}/system-{at}", problems, section.system)

    def _add_strategies(self, stage: str, problems: int, names: Sequence[str]) -> None:
        """Add a stage that runs some strategies on a benchmark."""
        if names:
            costs = map(self._strategy_cost, parse_strategies(",".join(names)))
            self._add_search(stage, problems, CostProfile.total(costs))

    def _strategy_cost(self, strategy: Strategy) -> CostProfile:
        """The cost of a strategy per problem."""
        section = self.recipe.evaluation
        if strategy.is_greedy:
            return self.pilot.greedy
        if strategy.spec.is_chain:
            return self.pilot.samples(strategy.size or 1)
        rollouts = (strategy.size or section.rollouts) * (strategy.runs or 1)
        factor = section.candidates / self.pilot.candidates
        return self.pilot.rollout.with_samples(factor).times(rollouts)

    def _add_search(self, stage: str, problems: int, cost: CostProfile) -> None:
        """Add a stage with `cost` per problem."""
        self._add_stage(stage, problems, cost.times(problems))

    def _add_stage(self, stage: str, problems: int, total: CostProfile) -> None:
        """Add a stage that samples from a model."""
        hours = (self.pilot.startup_s + total.seconds) / 3600
        self._stages.append(
            StageEstimate(stage, problems, round(total.calls), round(total.tokens), hours)
        )

    def _add_training(self, stage: str, problems: float, texts: float) -> None:
        tokens = texts * self.pilot.solution_tokens
        hours = tokens / self.pilot.training_tokens_per_s / 3600
        self._stages.append(StageEstimate(stage, round(problems), 0, round(tokens), hours))
