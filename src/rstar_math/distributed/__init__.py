"""Searches many problems in this process or on a Ray cluster.

    async with open_searcher(config, "auto") as searcher:
        await solve_problems(searcher, store, strategy, problems)

Workers search; one driver process writes the results. `dispatch` assigns problems to workers and
requeues those of lost workers. `ray_cluster` starts and stops workers as nodes join and leave.
`ray_workers` is the code that runs in a worker. A search yields the same trees as in one process,
because seeds derive from content.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from rstar_math.config.sections import Config
from rstar_math.distributed.dispatch import Progress
from rstar_math.runs.execute import Searcher
from rstar_math.solver.local import LocalSearcher
from rstar_math.solver.solver import Solver


@asynccontextmanager
async def open_searcher(config: Config, cluster: str | None) -> AsyncGenerator[Searcher, None]:
    """Yields a searcher: this process if `cluster` is None, else the workers of a Ray cluster.

    `cluster` is `auto`, HOST:PORT or ray://HOST:PORT. Raises `RstarError`;
    `MissingDependencyError` if Ray is not installed.
    """
    if cluster is None:
        async with Solver(config) as solver:
            yield LocalSearcher(solver)
        return
    from rstar_math.distributed.ray_cluster import RaySearcher

    async with RaySearcher(config, cluster) as searcher:
        yield searcher


def cluster_progress(searcher: Searcher) -> Progress | None:
    """Statistics of the cluster's workers; None if this process searches."""
    progress = getattr(searcher, "progress", None)
    return progress if isinstance(progress, Progress) else None
