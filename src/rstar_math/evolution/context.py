"""What all stages of an evolution share: recipe, manifests, progress, budget; and the searches
that measure."""

import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rstar_math.evaluation.metrics import summarise
from rstar_math.evolution import problem_sets, stages
from rstar_math.evolution.manifest import Facts, ManifestStore, digest
from rstar_math.evolution.progress import ProgressListener, RunBudget
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.stages import Models, ModelVersion, config_for, results_of
from rstar_math.llm.vllm_servers import stop_idle_servers
from rstar_math.runs.results import PackedResult
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.training.trainer import stop_openmp_threads, trim_malloc
from rstar_math.types import Problem

GREEDY = Strategy("greedy")


class EvolutionContext:
    """An evolution under way."""

    def __init__(
        self,
        recipe: Recipe,
        journal: ManifestStore,
        watch: ProgressListener,
        budget: RunBudget,
        *,
        cluster: str | None = None,
    ) -> None:
        self.recipe, self.journal, self.watch, self.budget = recipe, journal, watch, budget
        self.cluster = cluster
        """Whose workers search; None for this process."""

    async def stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[], Awaitable[Facts]]
    ) -> Facts:
        """A stage of the journal, within the budget."""
        if self.journal.facts(name) is None:
            self.budget.check()
            self.journal.path(f"round-{name.split('/')[0]}").mkdir(exist_ok=True)
        return await self.journal.run_stage(name, inputs, work)

    async def run_blocking_stage(
        self, name: str, what: str, inputs: Mapping[str, Any], work: Callable[[], Facts]
    ) -> Facts:
        """A stage that is one long call, such as a training; Ctrl-C ends it. It has the machine
        to itself: servers that wait to be used again are ended."""

        async def interruptible() -> Facts:
            self.watch.begin(name, what, None, 0)
            await stop_idle_servers()
            with _ending_at_once():
                found = work()
            trim_malloc()
            stop_openmp_threads()
            return found

        return await self.stage(name, inputs, interruptible)

    def part(self, *names: str) -> dict[str, Any]:
        """Some parts of the recipe, as plain values."""
        return self.recipe.model_dump(mode="json", include=set(names))

    async def held_out(self, number: int, policy: ModelVersion) -> dict[str, bool]:
        """A policy's greedy answers on held-out problems: which are right."""
        path = self.journal.path(f"round-{number}", "held-out.rstar")
        await self.sample(f"{number}/held-out", path, Models(policy), [GREEDY])
        return results_of(path, GREEDY.name)

    async def sample(
        self, stage: str, path: Path, pair: Models, strategies: Sequence[Strategy]
    ) -> Facts:
        """A policy's answers to held-out problems, without a preference model."""
        problems = problem_sets.problems_in(self.journal, problem_sets.HELD_OUT)
        return await self.evaluate(stage, path, (problems, strategies), pair, scored=False)

    async def evaluate(
        self,
        stage: str,
        path: Path,
        asked: tuple[Sequence[Problem], Sequence[Strategy]],
        pair: Models,
        *,
        scored: bool,
    ) -> Facts:
        """Strategies on problems, without the reference answers; the figures of each."""
        problems, strategies = asked
        section = self.recipe.evaluation
        options: dict[str, Any] = {"rollouts": section.rollouts, "candidates": section.candidates}
        options |= {"seed": section.seed, "token_budget": section.token_budget if scored else None}
        config = config_for(self.recipe, pair, scored=scored, **options)
        inputs = {
            "made_by": pair.hashes(scored=scored),
            "strategies": [strategy.name for strategy in strategies],
            "search": config.search.model_dump(mode="json", exclude={"ppm"}),
            "problems": digest([problem.id for problem in problems]),
        }

        async def work() -> Facts:
            what = f"measure {', '.join(strategy.name for strategy in strategies)}"
            done = self.progress_callback(stage, what, path, problems, *strategies)
            made_by, where = pair.hashes(scored=scored), self.cluster
            await stages.search(
                path, problems, strategies, config, made_by=made_by, on_done=done, cluster=where
            )
            return {"strategies": figures(path), **stages.run_account(path)}

        return await self.stage(stage, inputs, work)

    def progress_callback(
        self, stage: str, what: str, path: Path, problems: Sequence[Problem], *strategies: Strategy
    ) -> stages.OnProblem:
        """What is told of a search's problems, and charged to the budget."""
        done = sum(len(stages.finished_in(path, strategy)) for strategy in strategies)
        self.watch.begin(stage, what, len(problems) * len(strategies), done)

        def on_done(problem: Problem, done: PackedResult) -> None:
            tokens = done.result.cost.sampled_tokens
            self.watch.advance(problem, solved=done.solved, tokens=tokens)
            self.budget.charge(tokens)

        return on_done


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """A block that Ctrl-C ends, though it does not let the event loop run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def figures(path: Path) -> list[Facts]:
    """The figures of a run's strategies, without the clock."""
    with RunStore.read(path) as store:
        found = []
        for name in store.strategies():
            summary = summarise(name, store.results(name))
            kept = {k: v for k, v in summary.as_json().items() if "cost" not in k}
            found.append({**kept, "cost": stages.of_the_search(summary.cost)})
        return found


def by_level(problems: Sequence[Problem], solved: Mapping[str, bool]) -> dict[str, list[int]]:
    """For each level (or source, where problems have none) how many problems, and how many are
    solved."""
    found: dict[str, list[int]] = {}
    for problem in problems:
        row = found.setdefault(problem.level or problem.source or "all", [0, 0])
        row[0] += 1
        row[1] += solved.get(problem.id, False)
    return dict(sorted(found.items()))
