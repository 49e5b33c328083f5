"""Searching many problems on one machine or on a Ray cluster: workers search, one driver writes.

    async with open_searcher(config, "auto") as searcher:
        await solve_problems(searcher, store, strategy, problems)

`dispatch` hands out problems and takes them back from lost workers, `ray_cluster` finds workers,
`ray_workers` runs in them. Trees are those of a local run, since seeds derive from content.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from rstar_math.config.sections import Config
from rstar_math.distributed.dispatch import Progress
from rstar_math.runs.execute import Searcher
from rstar_math.solver.solver import LocalSearcher, Solver


@asynccontextmanager
async def open_searcher(config: Config, cluster: str | None) -> AsyncGenerator[Searcher, None]:
    """Whoever searches: this process (None), or the workers of a Ray cluster, as `auto`,
    HOST:PORT or ray://HOST:PORT. Raises `RstarError`; `MissingDependencyError` without Ray."""
    if cluster is None:
        async with Solver(config) as solver:
            yield LocalSearcher(solver)
        return
    from rstar_math.distributed.ray_cluster import RaySearcher

    async with RaySearcher(config, cluster) as workers:
        yield workers


def progress_of(searchers: Searcher) -> Progress | None:
    """How the workers fare; None where this process searches itself."""
    found = getattr(searchers, "progress", None)
    return found if isinstance(found, Progress) else None
