"""Workers on a Ray cluster: started when a node joins, removed when it leaves.

A node gets one worker per `CORES_PER_WORKER` cores, at least one. The worker searches, runs code
and grades; models are reached by URL. If workers start the model servers (vllm:FOLDER), a node
gets one worker with all its cores, and one server per GPU. There is one driver process. If it
dies, Ray ends the workers; running the same command again resumes the run.
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
from rstar_math.distributed.dispatch import Dispatcher, Progress, WorkerLost
from rstar_math.distributed.ray_workers import (
    RayWorkerHandle,
    SuppressRayOutput,
    WorkerInfo,
    connect,
    disconnect,
    start_actor,
    starts_servers,
    with_resources,
)
from rstar_math.errors import ClusterError, RstarError
from rstar_math.runs.journal import GrowingTrees
from rstar_math.runs.results import PackedResult
from rstar_math.search.strategies import Strategy
from rstar_math.types import Problem

CORES_PER_WORKER = 8
"""Cores whose sandbox one worker process keeps busy."""
POLL_S = 2.0
"""Time between two checks of the cluster's nodes."""
STARTUP_S = 120.0
"""Maximum wait for the first worker, plus the time that model servers need to start."""
MAX_FAILED_STARTS = 3
"""Consecutive deaths during start-up on one node after which a search without workers fails."""
RETRY_DELAY_S = 5.0
"""Delay before a node is tried again after a failed start; doubles each time, at most 64-fold."""


class RaySearcher:
    """The workers of a cluster as a `runs.execute.Searcher`. An async context manager."""

    def __init__(self, config: Config, address: str, *, cores: int = CORES_PER_WORKER) -> None:
        self.config = config
        self._address = address
        self._cores = cores
        self._dispatcher = Dispatcher()
        self._workers: dict[str, RayWorkerHandle] = {}
        self._starting: dict[asyncio.Task[None], str] = {}
        """Workers that are starting, with the node of each."""
        self._failed_starts: Counter[str] = Counter()
        """Consecutive failed starts, by node."""
        self._retry_at: dict[str, float] = {}
        """`time.monotonic` before which a node is not tried again."""
        self._started: Counter[str] = Counter()
        """Workers started so far, by node; numbers their names."""
        self._worker_info: WorkerInfo | None = None
        self._ready = asyncio.Event()
        """Set when the first worker is ready, or none can start."""
        self._node_watcher: asyncio.Task[None] | None = None
        self._output = contextlib.ExitStack()
        self._connected = False
        self._start_error: RstarError | None = None

    @property
    def progress(self) -> Progress:
        """Statistics of the workers."""
        return self._dispatcher.progress

    @property
    def model_name(self) -> str | None:
        """See `Searcher`."""
        return self._worker_info.model_name if self._worker_info else None

    @property
    def discriminator_name(self) -> str | None:
        """See `Searcher`."""
        return self._worker_info.discriminator_name if self._worker_info else None

    @property
    def prompting(self) -> dict[str, str]:
        """See `Searcher`."""
        return self._worker_info.prompting if self._worker_info else {}

    @property
    def servers(self) -> dict[str, Any]:
        """See `Searcher`. Empty: only the workers know the servers."""
        return {}

    def library_versions(self) -> dict[str, str]:
        """See `Searcher`. The versions on the nodes."""
        return self._worker_info.libraries if self._worker_info else {}

    async def __aenter__(self) -> Self:
        try:
            self._output.enter_context(contextlib.redirect_stdout(SuppressRayOutput(sys.stdout)))
            await asyncio.to_thread(connect, self._address)
            self._connected = True
            self._node_watcher = asyncio.create_task(self._watch_nodes())
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
        self,
        problems: Iterable[Problem],
        strategy: Strategy,
        *,
        guided: bool,
        growing: GrowingTrees | None = None,
    ) -> AsyncGenerator[tuple[Problem, PackedResult], None]:
        """See `Searcher`. The problems of a lost worker are searched by another, from the root:
        `growing` is not used."""
        results = self._dispatcher.iter_results(problems, strategy, guided=guided)
        try:
            async for result in results:
                yield result
        finally:
            await results.aclose()

    async def _wait_for_worker(self) -> None:
        """Wait for the first worker. Raises `RstarError` if none starts in time."""
        servers_s = self.config.servers.startup_timeout_s if starts_servers(self.config) else 0.0
        timeout_s = STARTUP_S + servers_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            raise self._start_error or ClusterError(
                f"No worker started on the cluster {self._address} in {timeout_s:.0f} s; check "
                "that its nodes have free cores with: ray status"
            ) from None
        if not len(self._dispatcher) and self._start_error is not None:
            raise self._start_error

    async def _watch_nodes(self) -> None:
        """Start workers on nodes that join, and remove those of nodes that leave."""
        ray = import_module("ray")
        while True:
            nodes = await asyncio.to_thread(ray.nodes)
            alive = {str(node["NodeID"]): node for node in nodes if node["Alive"]}
            for name, worker in list(self._workers.items()):
                if worker.node not in alive:
                    self._remove_worker(name, "its node left the cluster")
                elif name not in self._dispatcher:
                    self._remove_worker(name, "")
            for node_id, node in alive.items():
                resources = node["Resources"]
                cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
                self._start_missing_workers(node_id, cpus, gpus)
            await asyncio.sleep(POLL_S)

    def _start_missing_workers(self, node: str, cpus: int, gpus: int) -> None:
        """Start the workers that a node lacks. One that starts servers gets the whole node."""
        if monotonic() < self._retry_at.get(node, 0.0):
            return
        present = sum(worker.node == node for worker in self._workers.values())
        present += sum(starting_on == node for starting_on in self._starting.values())
        whole_node = starts_servers(self.config)
        cores = cpus if whole_node else min(cpus, self._cores)
        wanted = max(1, cpus // max(1, cores)) if cpus else 0
        for _ in range(wanted - present):
            self._started[node] += 1
            name = f"{node[:8]}/{self._started[node]}"
            start = self._start_worker(node, name, cores, gpus if whole_node else 0)
            task = asyncio.create_task(start)
            self._starting[task] = node
            task.add_done_callback(lambda task: self._starting.pop(task, None))

    async def _start_worker(self, node: str, name: str, cores: int, gpus: int) -> None:
        """Start one worker, and add it to the dispatcher when it is ready."""
        actor = await asyncio.to_thread(start_actor, self.config, node, cores, gpus)
        config = with_resources(self.config, cores, [""] * gpus)
        worker = RayWorkerHandle(actor, name, node, config)
        try:
            self._require_same_info(await worker.open(), name)
        except asyncio.CancelledError:
            worker.kill()
            raise
        except (WorkerLost, RstarError) as error:
            worker.kill()
            self._record_failed_start(node, name, error)
            return
        self._failed_starts[node] = 0
        self._workers[name] = worker
        self._dispatcher.add_worker(worker)
        self._ready.set()

    def _record_failed_start(self, node: str, name: str, error: WorkerLost | RstarError) -> None:
        """Delay the next start on the node.

        Fail the search if no other worker is running or starting, and the error is final: an
        `RstarError`, or the death number `MAX_FAILED_STARTS`.
        """
        failed_before = self._failed_starts[node]
        self._failed_starts[node] += 1
        self._retry_at[node] = monotonic() + RETRY_DELAY_S * 2 ** min(failed_before, 6)
        final = failed_before + 1 >= MAX_FAILED_STARTS
        if isinstance(error, RstarError):
            self._start_error, final = error, True
        else:
            self._start_error = ClusterError(
                f"The worker {name} died while it started ({error}). Check that rstar-math is "
                "installed on that node. Ray's logs are in /tmp/ray/session_latest/logs there."
            )
        only_one = not len(self._dispatcher) and len(self._starting) <= 1
        if only_one and final:
            self._dispatcher.fail(self._start_error)
            self._ready.set()

    def _require_same_info(self, info: WorkerInfo, name: str) -> None:
        """Raise `ClusterError` if a worker differs from the driver or from the first worker."""
        if info.version != __version__:
            raise ClusterError(
                f"The worker {name} has rstar-math {info.version} and the driver has "
                f"{__version__}; install the same version on all nodes."
            )
        first = self._worker_info = self._worker_info or info
        if replace(info, pid=first.pid) != first:
            raise ClusterError(
                f"The worker {name} has the model {info.model_name!r}, the discriminator "
                f"{info.discriminator_name!r} and {info.libraries}; other workers have "
                f"{first.model_name!r}, {first.discriminator_name!r} and {first.libraries}. "
                "Install the same models and libraries on all nodes."
            )

    def _remove_worker(self, name: str, reason: str) -> None:
        """Kill a worker and remove it from the dispatcher."""
        self._workers.pop(name).kill()
        self._dispatcher.remove_worker(name, reason)

    async def _close(self) -> None:
        """Stop the workers and leave the cluster."""
        tasks = [task for task in (self._node_watcher, *self._starting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if starts_servers(self.config):
            await asyncio.gather(*(worker.close() for worker in self._workers.values()))
        for worker in self._workers.values():
            worker.kill()
        if self._connected:
            await asyncio.to_thread(disconnect)
        self._output.close()
