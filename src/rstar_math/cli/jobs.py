"""Search jobs that `rstar search`, `eval` and `demo` share: problems, run file, progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
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
from rstar_math.types import Problem, Verdict


@dataclass(frozen=True, slots=True)
class Job:
    """Problems, the run they go to (None: one that is thrown away), and how they are solved."""

    file: Path | None
    """None where the problems are `given`."""
    run: Path | None
    limit: int | None
    strategies: list[Strategy]
    guided: bool = False
    graded: bool = False
    """Whether the job is pointless without reference answers."""
    show_each: bool = False
    given: list[Problem] | None = None
    cluster: str | None = None
    """Whose workers search; None is this process."""
    shard: Shard | None = None
    """Which part of the problems is searched; None is all."""


class OpenJob:
    """A job with its problems read and its run open."""

    def __init__(self, job: Job, problems: list[Problem], store: RunStore) -> None:
        self.job = job
        self.problems = problems
        self.store = store
        self.workers: dict[str, Any] | None = None
        """How the workers of a cluster fared, once the work is done."""
        self.servers: dict[str, ServerMetrics] = {}
        """How busy the servers of each model were; of those that tell."""

    def done(self, strategy: Strategy) -> int:
        """How many of the job's problems a strategy has finished."""
        return len({problem.id for problem in self.problems} & self.store.done(strategy.name))

    def summary(self, strategy: Strategy) -> Summary:
        """The figures of a strategy on the job's problems."""
        wanted = {problem.id for problem in self.problems}
        results = self.store.results(strategy.name)
        return summarize(strategy.name, (r for r in results if r.problem in wanted))

    def cluster_json(self) -> dict[str, Any]:
        """How the workers fared, for the end of a report; empty where this process searched."""
        return {} if self.workers is None else {"cluster": self.workers}

    async def work(self, config: Config) -> None:
        """Do what is left of the job, with a bar for each strategy."""
        if all(self.done(s) == len(self.problems) for s in self.job.strategies):
            display.err.print("Everything was done already; nothing to search.")
            return
        where = open_searcher(config, self.job.cluster)
        with display.err.status("loading the model ..."):
            searchers = await where.__aenter__()
        try:
            async with monitor(searchers.servers) as self.servers:
                for strategy in self.job.strategies:
                    await self._one(strategy, searchers)
        finally:
            await where.__aexit__(None, None, None)
            if (progress := cluster_progress(searchers)) is not None:
                self.workers = progress.as_json()
        for name, use in self.servers.items():
            display.err.print(f"{name}: {use.summary()}", markup=False, soft_wrap=True)

    def servers_json(self) -> dict[str, Any]:
        """How busy the servers were, as a part of a report: empty where none tells."""
        told = {name: use.as_json() for name, use in self.servers.items()}
        return {"servers": told} if told else {}

    async def _one(self, strategy: Strategy, searchers: Searcher) -> None:
        """Do what is left of one strategy."""
        right = 0
        progress = cluster_progress(searchers)
        with display.counting(strategy.name, len(self.problems), self.done(strategy)) as bar:

            def note(problem: Problem, done: PackedResult) -> None:
                nonlocal right
                verdict = done.result.verdict
                right += verdict is Verdict.RIGHT
                said = f", {progress.line()}" if progress is not None else ""
                said += "".join(f"; {name}: {use.current()}" for name, use in self.servers.items())
                bar.update(bar.task_ids[0], advance=1, note=f"{right} right{said}")
                if self.job.show_each:
                    answer = done.result.choice.answer
                    bar.console.print(display.verdict_line(problem, answer, verdict))

            guided = self.job.guided
            await solve_problems(
                searchers, self.store, strategy, self.problems, guided=guided, on_done=note
            )


@contextmanager
def open_job(job: Job, config: Config) -> Iterator[OpenJob]:
    """The job with its run open; the problems are read before anything is started."""
    for strategy in job.strategies:
        if strategy.spec.scorer == "required" and config.search.scorer == "none":
            raise missing_scorer_error(strategy.kind)
    problems = _problems(job)
    positions = None
    if job.shard is not None:
        positions = list(job.shard.positions(len(problems)))
        problems = [problems[at - 1] for at in positions]
    if (job.graded or job.guided) and all(p.reference is None for p in problems):
        todo = "leave --guided out" if job.guided else "see the trees alone with rstar search"
        raise InputError(
            f'{job.file or "The data set"} has no "answer" in any line, and this needs them; add '
            f"them, or {todo}."
        )
    with TemporaryDirectory(prefix="rstar-") as folder:
        path = job.run or Path(folder) / "run.rstar"
        how = run_conditions(config, guided=job.guided)
        with RunStore.open(path, how, default_conditions()) as store:
            pin_shard(store, job.shard)
            store.add_problems(problems, positions)
            yield OpenJob(job, problems, store)


def parse_shard(text: str | None) -> Shard | None:
    """What --shard asks for. Raises `ConfigError`."""
    return None if text is None else Shard.parse(text)


def _problems(job: Job) -> list[Problem]:
    """The problems of a job."""
    if job.given is not None:
        return job.given[: job.limit]
    if job.file is None:
        raise InputError("There are no problems; name a JSONL file, or a set with --dataset.")
    return read_problems(job.file, job.limit)
