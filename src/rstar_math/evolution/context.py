"""What all stages of an evolution share: recipe, manifests, progress, budget, and measured
searches."""

import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rstar_math.evaluation.metrics import summarize
from rstar_math.evolution import problem_sets, stages
from rstar_math.evolution.manifest import ManifestStore, StageResult, digest
from rstar_math.evolution.progress import ProgressListener, RunBudget
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.stages import Models, ModelVersion, config_for, correct_by_problem
from rstar_math.llm.vllm_servers import stop_idle_servers
from rstar_math.runs.execute import ResultCallback
from rstar_math.runs.results import PackedResult
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.tracking import current_run, track_trainings
from rstar_math.training.trainer import stop_openmp_threads, trim_malloc
from rstar_math.types import Problem

GREEDY = Strategy("greedy")


class EvolutionContext:
    """A running evolution."""

    def __init__(
        self,
        recipe: Recipe,
        manifests: ManifestStore,
        listener: ProgressListener,
        budget: RunBudget,
        *,
        cluster: str | None = None,
    ) -> None:
        self.recipe = recipe
        self.manifests = manifests
        self.listener = listener
        self.budget = budget
        self.cluster = cluster
        """Ray cluster whose workers search; None for this process."""

    async def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[], Awaitable[StageResult]]
    ) -> StageResult:
        """See `ManifestStore.run_stage`. Raises `BudgetSpent` if no budget is left for it."""
        if self.manifests.result(name) is None:
            self.budget.check()
            self.manifests.path(f"round-{name.split('/')[0]}").mkdir(exist_ok=True)
        return await self.manifests.run_stage(name, inputs, work)

    async def run_blocking_stage(
        self,
        name: str,
        description: str,
        inputs: Mapping[str, Any],
        work: Callable[[], StageResult],
    ) -> StageResult:
        """Run a stage that is one long blocking call, such as a training.

        Ctrl-C interrupts it. Idle model servers are stopped first, so that it has the machine to
        itself.
        """

        async def interruptible() -> StageResult:
            self.listener.begin(name, description, None, 0)
            await stop_idle_servers()
            run = current_run()
            nested = None if run is None else run.nested(f"round-{name}")
            with _default_sigint(), track_trainings(nested):
                result = work()
            trim_malloc()
            stop_openmp_threads()
            return result

        return await self.run_stage(name, inputs, interruptible)

    def recipe_options(self, *names: str) -> dict[str, Any]:
        """Some options and sections of the recipe, as JSON."""
        return self.recipe.model_dump(mode="json", include=set(names))

    async def held_out_results(self, number: int, policy: ModelVersion) -> dict[str, bool]:
        """Whether the greedy answer of round `number`'s policy is right, by held-out problem."""
        path = self.manifests.path(f"round-{number}", "held-out.rstar")
        await self.sample_held_out(f"{number}/held-out", path, policy, [GREEDY])
        return correct_by_problem(path, GREEDY.name)

    async def sample_held_out(
        self, stage: str, path: Path, policy: ModelVersion, strategies: Sequence[Strategy]
    ) -> StageResult:
        """Run strategies on the held-out problems with a policy alone; see `evaluate`."""
        problems = problem_sets.read_problem_file(self.manifests, problem_sets.HELD_OUT)
        return await self.evaluate(stage, path, problems, strategies, Models(policy), use_ppm=False)

    async def evaluate(
        self,
        stage: str,
        path: Path,
        problems: Sequence[Problem],
        strategies: Sequence[Strategy],
        models: Models,
        *,
        use_ppm: bool,
    ) -> StageResult:
        """Run strategies on problems without showing them the reference answers.

        The results go to the run file `path`. Returns the summary of each strategy.
        """
        section = self.recipe.evaluation
        config = config_for(
            self.recipe,
            models,
            use_ppm=use_ppm,
            rollouts=section.rollouts,
            candidates=section.candidates,
            seed=section.seed,
            token_budget=section.token_budget if use_ppm else None,
        )
        digests = models.digests(use_ppm=use_ppm)
        inputs = {
            "made_by": digests,
            "strategies": [strategy.name for strategy in strategies],
            "search": config.search.model_dump(mode="json", exclude={"ppm"}),
            "problems": digest([problem.id for problem in problems]),
        }

        async def work() -> StageResult:
            description = f"measure {', '.join(strategy.name for strategy in strategies)}"
            await stages.search_problems(
                path,
                problems,
                strategies,
                config,
                digests=digests,
                on_done=self.progress_callback(stage, description, path, problems, *strategies),
                cluster=self.cluster,
            )
            return {"strategies": strategy_summaries(path), **stages.run_summary(path)}

        return await self.run_stage(stage, inputs, work)

    def progress_callback(
        self,
        stage: str,
        description: str,
        path: Path,
        problems: Sequence[Problem],
        *strategies: Strategy,
    ) -> ResultCallback:
        """Report the start of a search; a callback that reports and charges each result."""
        finished = sum(len(stages.finished_problems(path, strategy)) for strategy in strategies)
        self.listener.begin(stage, description, len(problems) * len(strategies), finished)

        def on_done(problem: Problem, packed: PackedResult) -> None:
            tokens = packed.result.cost.sampled_tokens
            self.listener.advance(problem, solved=packed.solved, tokens=tokens)
            self.budget.charge(tokens)

        return on_done


@contextmanager
def _default_sigint() -> Iterator[None]:
    """Within the block Ctrl-C raises `KeyboardInterrupt`, though the event loop is blocked."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def strategy_summaries(path: Path) -> list[dict[str, Any]]:
    """The summary of each strategy in a run, with `stages.reproducible_cost` as its cost."""
    with RunStore.read(path) as store:
        summaries = []
        for name in store.strategies():
            summary = summarize(name, store.results(name))
            values = {k: v for k, v in summary.as_json().items() if "cost" not in k}
            summaries.append({**values, "cost": stages.reproducible_cost(summary.cost)})
        return summaries


def count_by_level(problems: Sequence[Problem], solved: Mapping[str, bool]) -> dict[str, list[int]]:
    """[number of problems, number solved] by level; by source for problems without a level."""
    counts: dict[str, list[int]] = {}
    for problem in problems:
        count = counts.setdefault(problem.level or problem.source or "all", [0, 0])
        count[0] += 1
        count[1] += solved.get(problem.id, False)
    return dict(sorted(counts.items()))
