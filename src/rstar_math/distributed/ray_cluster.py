"""Workers on a Ray cluster: started when a node joins, dropped when it leaves.

Each node has a worker for every `CORES` of its cores (one at least), which searches, runs code and
judges; models are reached by their addresses. Where the workers start the models' servers
(vllm:FOLDER), a node has one worker, and one server on each of its GPUs. The driver is one process.
Ray ends the workers when it dies, however it dies, and the same command goes on with the run.
"""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from importlib import import_module
from time import monotonic
from types import TracebackType
from typing import Any, Self

from rstar_math import __version__
from rstar_math.config.sections import Config
from rstar_math.distributed.dispatch import Dispatch, Progress, WorkerLost
from rstar_math.distributed.ray_workers import (
    RayWorkerHandle,
    SuppressRayOutput,
    WorkerInfo,
    connect,
    disconnect,
    start,
    starts_servers,
    with_resources,
)
from rstar_math.errors import ClusterError, RstarError
from rstar_math.runs.results import PackedResult
from rstar_math.search.strategies import Strategy
from rstar_math.types import Problem

CORES = 8
"""Cores of one worker: what the process of its trees can feed with code to run."""
POLL_S = 2.0
"""Between two looks at the nodes."""
STARTUP_S = 120.0
"""Longest wait for the first worker."""
STARTS = 3
"""Workers of a node that may die while they start, where there are no others, before all ends."""
PAUSE_S = 5.0
"""Before a node is tried again where no worker would start; twice as long each time, at most 64
times."""


class RaySearcher:
    """The workers of a cluster as `runs.execute.Searcher`. An async context manager."""

    def __init__(self, config: Config, address: str, *, cores: int = CORES) -> None:
        self.config = config
        self._address = address
        self._cores = cores
        self._dispatch = Dispatch()
        self._hands: dict[str, RayWorkerHandle] = {}
        self._opening: dict[asyncio.Task[None], str] = {}
        self._deaths: Counter[str] = Counter()
        self._paused: dict[str, float] = {}
        self._numbers: Counter[str] = Counter()
        self._papers: WorkerInfo | None = None
        self._ready = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._quiet = contextlib.ExitStack()
        self._connected = False
        self._trouble: RstarError | None = None

    @property
    def progress(self) -> Progress:
        """How the workers fare."""
        return self._dispatch.progress

    @property
    def model_name(self) -> str | None:
        """See `Searcher`."""
        return self._papers.model_name if self._papers else None

    @property
    def discriminator_name(self) -> str | None:
        """See `Searcher`."""
        return self._papers.discriminator_name if self._papers else None

    @property
    def prompting(self) -> dict[str, str]:
        """See `Searcher`."""
        return self._papers.prompting if self._papers else {}

    @property
    def servers(self) -> dict[str, Any]:
        """See `Searcher`: the workers have them."""
        return {}

    def library_versions(self) -> dict[str, str]:
        """See `Searcher`: those of the nodes."""
        return self._papers.libraries if self._papers else {}

    async def __aenter__(self) -> Self:
        try:
            self._quiet.enter_context(contextlib.redirect_stdout(SuppressRayOutput(sys.stdout)))
            await asyncio.to_thread(connect, self._address)
            self._connected = True
            self._watch = asyncio.create_task(self._watch_nodes())
            await self._wait_for_worker()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def iter_results(
        self, problems: Iterable[Problem], strategy: Strategy, *, guided: bool
    ) -> AsyncGenerator[tuple[Problem, PackedResult], None]:
        """See `Searcher`. A lost worker's problems are searched elsewhere."""
        found = self._dispatch.iter_results(problems, strategy, guided=guided)
        try:
            async for one in found:
                yield one
        finally:
            await found.aclose()

    async def _wait_for_worker(self) -> None:
        """Wait for a worker."""
        servers_s = self.config.servers.startup_timeout_s if starts_servers(self.config) else 0.0
        try:
            async with asyncio.timeout(STARTUP_S + servers_s):
                await self._ready.wait()
        except TimeoutError:
            raise self._trouble or ClusterError(
                f"No node of the cluster {self._address} gave a worker a core in "
                f"{STARTUP_S + servers_s:.0f} s; "
                "look at it with: ray status"
            ) from None
        if not len(self._dispatch) and self._trouble is not None:
            raise self._trouble

    async def _watch_nodes(self) -> None:
        """Keep the workers those of the nodes that are there."""
        ray = import_module("ray")
        while True:
            nodes = await asyncio.to_thread(ray.nodes)
            alive = {str(n["NodeID"]): n for n in nodes if n["Alive"]}
            for name, hand in list(self._hands.items()):
                if hand.node not in alive:
                    self._gone(name, "its node left the cluster")
                elif name not in self._dispatch:
                    self._gone(name, "")
            for ident, node in alive.items():
                has = node["Resources"]
                self._fill_up(ident, int(has.get("CPU", 0)), int(has.get("GPU", 0)))
            await asyncio.sleep(POLL_S)

    def _fill_up(self, node: str, cpus: int, gpus: int) -> None:
        """Start the workers that a node lacks. One that starts servers has the node to itself."""
        here = sum(hand.node == node for hand in self._hands.values())
        here += sum(at == node for at in self._opening.values())
        if monotonic() < self._paused.get(node, 0.0):
            return
        whole = starts_servers(self.config)
        cores = cpus if whole else min(cpus, self._cores)
        wanted = max(1, cpus // max(1, cores)) if cpus else 0
        for _ in range(wanted - here):
            self._numbers[node] += 1
            name = f"{node[:8]}/{self._numbers[node]}"
            task = asyncio.create_task(self._open(node, name, cores, gpus if whole else 0))
            self._opening[task] = node
            task.add_done_callback(lambda task: self._opening.pop(task, None))

    async def _open(self, node: str, name: str, cores: int, gpus: int) -> None:
        """Start one worker; it joins when it is ready."""
        actor = await asyncio.to_thread(start, self.config, node, cores, gpus)
        hand = RayWorkerHandle(actor, name, node, with_resources(self.config, cores, [""] * gpus))
        try:
            papers = await hand.open()
            self._check(papers, name)
        except asyncio.CancelledError:
            hand.end()
            raise
        except (WorkerLost, RstarError) as error:
            hand.end()
            self._refused(node, name, error)
            return
        self._deaths[node] = 0
        self._hands[name] = hand
        self._dispatch.join(hand)
        self._ready.set()

    def _refused(self, node: str, name: str, error: Exception) -> None:
        """No worker would start on a node: try later, and end where there is no other."""
        deaths = self._deaths[node]
        self._deaths[node] += 1
        self._paused[node] = monotonic() + PAUSE_S * 2 ** min(deaths, 6)
        self._trouble = error if isinstance(error, RstarError) else _died(name, error)
        alone = not len(self._dispatch) and len(self._opening) <= 1
        if alone and (self._trouble is error or deaths + 1 >= STARTS):
            self._dispatch.fail(self._trouble)
            self._ready.set()

    def _check(self, papers: WorkerInfo, name: str) -> None:
        """Refuse a worker whose trees could differ."""
        if papers.version != __version__:
            raise ClusterError(
                f"The worker {name} runs rstar-math {papers.version} and the driver {__version__}; "
                "install the same on all nodes."
            )
        first = self._papers = self._papers or papers
        if replace(papers, pid=first.pid) != first:
            raise ClusterError(
                f"The worker {name} has the model {papers.model_name!r}, the discriminator "
                f"{papers.discriminator_name!r} and {papers.libraries}, others "
                f"{first.model_name!r}, {first.discriminator_name!r} and {first.libraries}; make "
                "the nodes alike."
            )

    def _gone(self, name: str, why: str) -> None:
        """Forget a worker."""
        self._hands.pop(name).end()
        self._dispatch.leave(name, why)

    async def _close(self) -> None:
        """End the workers and leave the cluster."""
        tasks = [task for task in (self._watch, *self._opening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if starts_servers(self.config):
            await asyncio.gather(*(hand.leave() for hand in self._hands.values()))
        for hand in self._hands.values():
            hand.end()
        if self._connected:
            await asyncio.to_thread(disconnect)
        self._quiet.close()


def _died(name: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"The worker {name} died while it started ({error}). Is rstar-math installed on that "
        "node? Its log is in Ray's folder there, /tmp/ray/session_latest/logs."
    )
