"""Search jobs of `rstar search`, `eval` and `demo`: problems, run file, progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from rstar_math.cli import display
from rstar_math.config.sections import Config
from rstar_math.distributed import cluster_progress, open_searcher
from rstar_math.errors import InputError
from rstar_math.evaluation.metrics import Summary, summarize
from rstar_math.llm.metrics import ServerMetrics, monitor
from rstar_math.problems.jsonl import read_problems
from rstar_math.runs.execute import Searcher, solve_problems
from rstar_math.runs.merging import Shard, pin_shard
from rstar_math.runs.results import PackedResult, default_conditions, run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy, missing_scorer_error
from rstar_math.tracking import TrackedRun, Trackers, open_trackers
from rstar_math.types import Problem, Verdict


@dataclass(frozen=True, slots=True)
class Job:
    """Which problems to search, how, and in which run file to store the results."""

    file: Path | None
    """The problem file; None if `problems` is set."""
    run_file: Path | None
    """None means a temporary file."""
    limit: int | None
    strategies: list[Strategy]
    guided: bool = False
    graded: bool = False
    """Whether the job requires reference answers."""
    show_each: bool = False
    """Whether to print one line per finished problem."""
    problems: list[Problem] | None = None
    cluster: str | None = None
    """Address of the Ray cluster that searches; None means this process."""
    shard: Shard | None = None
    """The part of the problems to search; None means all."""
    tracked: TrackedRun | None = None
    """The run of the experiment trackers; None means no tracker."""


class _Figures:
    """What the trackers record while a strategy searches; results of earlier calls are counted."""

    def __init__(self, earlier: Summary) -> None:
        self._name = earlier.strategy
        self._done, self._graded, self._right = earlier.problems, earlier.graded, earlier.right
        self._tokens = earlier.cost.sampled_tokens
        self._started_at = monotonic()
        self._searched = self._solved = 0

    def add(self, packed: PackedResult) -> tuple[dict[str, float | None], int]:
        """The figures after one more result, and the number of finished problems.

        `accuracy` is the share of right answers, `solved_share` that of the problems searched by
        this call that any path solved; both in [0, 1], and None without references.
        """
        verdict = packed.result.verdict
        self._done += 1
        self._graded += verdict is not None
        self._right += verdict is Verdict.RIGHT
        self._tokens += packed.result.cost.sampled_tokens
        self._searched += verdict is not None
        self._solved += packed.solved
        figures = {
            "accuracy": self._right / self._graded if self._graded else None,
            "solved_share": self._solved / self._searched if self._searched else None,
            "sampled_tokens": self._tokens,
            "tokens_per_problem": self._tokens / self._done,
            "seconds": monotonic() - self._started_at,
        }
        return {f"{self._name}/{name}": value for name, value in figures.items()}, self._done


class OpenJob:
    """A job with loaded problems and an open run file."""

    def __init__(self, job: Job, problems: list[Problem], store: RunStore) -> None:
        self.job = job
        self.problems = problems
        self.store = store
        self.workers: dict[str, Any] | None = None
        """Statistics of the cluster's workers, set when the job is done."""
        self.servers: dict[str, ServerMetrics] = {}
        """Load of each model's servers, for servers that report metrics."""

    def done(self, strategy: Strategy) -> int:
        """Number of the job's problems that a strategy has finished."""
        return len({problem.id for problem in self.problems} & self.store.done(strategy.name))

    def summary(self, strategy: Strategy) -> Summary:
        """The summary of a strategy on the job's problems."""
        ids = {problem.id for problem in self.problems}
        results = self.store.results(strategy.name)
        return summarize(strategy.name, (r for r in results if r.problem in ids))

    def statistics_json(self) -> dict[str, Any]:
        """The statistics of a JSON report: of the cluster, and of servers that report metrics."""
        cluster = {} if self.workers is None else {"cluster": self.workers}
        servers = {name: metrics.as_json() for name, metrics in self.servers.items()}
        return cluster | ({"servers": servers} if servers else {})

    async def run(self, config: Config) -> None:
        """Search the unfinished problems, with a progress bar per strategy."""
        if all(self.done(s) == len(self.problems) for s in self.job.strategies):
            display.err.print("All problems are finished already.")
            return
        with open_trackers(self.job.tracked, config.model_dump(mode="json")) as trackers:
            await self._search(config, trackers)

    async def _search(self, config: Config, trackers: Trackers) -> None:
        """Load the models and run all strategies."""
        context = open_searcher(config, self.job.cluster)
        with display.err.status("loading the model ..."):
            searchers = await context.__aenter__()
        try:
            async with monitor(searchers.servers) as self.servers:
                for strategy in self.job.strategies:
                    await self._run_strategy(strategy, searchers, trackers)
        finally:
            await context.__aexit__(None, None, None)
            if (progress := cluster_progress(searchers)) is not None:
                self.workers = progress.as_json()
        for name, metrics in self.servers.items():
            display.err.print(f"{name}: {metrics.summary()}", markup=False, soft_wrap=True)

    async def _run_strategy(
        self, strategy: Strategy, searchers: Searcher, trackers: Trackers
    ) -> None:
        """Search the unfinished problems of one strategy."""
        right, figures = 0, _Figures(self.summary(strategy))
        progress = cluster_progress(searchers)
        with display.progress_bar(strategy.name, len(self.problems), self.done(strategy)) as bar:

            def on_done(problem: Problem, packed: PackedResult) -> None:
                nonlocal right
                verdict = packed.result.verdict
                right += verdict is Verdict.RIGHT
                trackers.log(*figures.add(packed))
                note = f"{right} right"
                note += f", {progress.line()}" if progress is not None else ""
                note += "".join(f"; {name}: {m.current()}" for name, m in self.servers.items())
                bar.update(bar.task_ids[0], advance=1, note=note)
                if self.job.show_each:
                    answer = packed.result.choice.answer
                    bar.console.print(display.verdict_line(problem, answer, verdict))

            guided = self.job.guided
            await solve_problems(
                searchers, self.store, strategy, self.problems, guided=guided, on_done=on_done
            )


@contextmanager
def open_job(job: Job, config: Config) -> Iterator[OpenJob]:
    """Opens a job. The problems are read before a model or server starts. Raises `RstarError`."""
    for strategy in job.strategies:
        if strategy.spec.scorer == "required" and config.search.scorer == "none":
            raise missing_scorer_error(strategy.kind)
    problems = _problems(job)
    positions = None
    if job.shard is not None:
        positions = list(job.shard.positions(len(problems)))  # from 1
        problems = [problems[position - 1] for position in positions]
    if (job.graded or job.guided) and all(p.reference is None for p in problems):
        fix = "omit --guided" if job.guided else "search without grading: rstar search"
        raise InputError(
            f'{job.file or "The dataset"} has no reference answers; add a field "answer", or {fix}.'
        )
    with TemporaryDirectory(prefix="rstar-") as folder:
        path = job.run_file or Path(folder) / "run.rstar"
        conditions = run_conditions(config, guided=job.guided)
        with RunStore.open(path, conditions, default_conditions()) as store:
            pin_shard(store, job.shard)
            store.add_problems(problems, positions)
            yield OpenJob(job, problems, store)


def parse_shard(text: str | None) -> Shard | None:
    """The shard of --shard, or None. Raises `ConfigError`."""
    return None if text is None else Shard.parse(text)


def _problems(job: Job) -> list[Problem]:
    """The problems of a job. Raises `InputError`."""
    if job.problems is not None:
        return job.problems[: job.limit]
    if job.file is None:
        raise InputError("No problems given; pass a JSONL file or --dataset NAME.")
    return read_problems(job.file, job.limit)
