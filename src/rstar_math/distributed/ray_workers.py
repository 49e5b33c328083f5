"""The Ray actor that searches, and connecting to a cluster."""

import asyncio
import contextlib
import io
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TextIO

from rstar_math import __version__
from rstar_math.config.sections import VLLM, Config
from rstar_math.distributed.dispatch import WorkerLost
from rstar_math.errors import ClusterError, MissingDependencyError, RstarError
from rstar_math.runs.results import PackedResult
from rstar_math.search.strategies import Strategy
from rstar_math.solver.solver import LocalSearcher, Solver
from rstar_math.types import Problem


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself; all workers of a search must say the same of all but `pid`."""

    version: str
    model_name: str | None
    discriminator_name: str | None
    libraries: dict[str, str]
    prompting: dict[str, str]
    pid: int


class Worker:
    """An actor. Errors of ours are given back as values, since Ray would wrap them."""

    def __init__(self, config: Config, cores: int) -> None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "") if starts_servers(config) else ""
        self._config = with_resources(config, cores, [gpu for gpu in given.split(",") if gpu])
        self._solver: Solver | None = None

    async def open(self) -> WorkerInfo | RstarError:
        """Load the model, start sandbox and grader."""
        try:
            self._solver = solver = await Solver(self._config).__aenter__()
        except RstarError as error:
            return error
        except Exception as error:
            return ClusterError(f"A worker cannot start ({type(error).__name__}: {error}).")
        return WorkerInfo(
            __version__,
            solver.model_name,
            solver.discriminator_name,
            await asyncio.to_thread(solver.library_versions),
            solver.prompting,
            os.getpid(),
        )

    async def search(
        self, problem: Problem, strategy: Strategy, guided: bool
    ) -> PackedResult | RstarError:
        """A finished search, judged and packed here."""
        assert self._solver is not None
        try:
            async for _, found in LocalSearcher(self._solver).iter_results(
                [problem], strategy, guided=guided
            ):
                return found
        except RstarError as error:
            return error
        except Exception as error:
            return ClusterError(
                f"A worker failed at the problem {problem.id!r} ({type(error).__name__}: {error}); "
                "leave it out, or mend the part that raised this."
            )
        raise AssertionError("a search ended without a result")

    async def close(self) -> None:
        """End what was started."""
        if self._solver is not None:
            await self._solver.__aexit__(None, None, None)


def with_resources(config: Config, cores: int, gpus: Sequence[str] = ()) -> Config:
    """The configuration with sandbox and grader for so many cores, and a server of its own on each
    of these GPUs, unless it says so itself."""
    sandbox = config.sandbox.model_copy(update={"workers": config.sandbox.workers or cores})
    few = config.grading.workers or min(2, cores)
    grading = config.grading.model_copy(update={"workers": few})
    servers = config.servers.model_copy(update={"gpus": config.servers.gpus or tuple(gpus)})
    return config.model_copy(update={"sandbox": sandbox, "grading": grading, "servers": servers})


def starts_servers(config: Config) -> bool:
    """Whether a solver of the configuration starts model servers, so that a node needs one."""
    places = (config.model.url, config.discriminator.url, config.search.ppm or "")
    return any(place.startswith(VLLM) for place in places)


def capacity(config: Config, strategy: Strategy) -> int:
    """Problems that keep a worker's share of the model servers busy; see
    `Solver.max_concurrent_searches`."""
    return Solver(config).max_concurrent_searches(strategy)


REACH_S = 10.0
"""Longest wait for a cluster to answer at its address."""
LEAVE_S = 30.0
"""Longest wait for a worker to end its servers."""


class SuppressRayOutput(io.TextIOBase):
    """Standard output without what Ray's threads print there, such as a dead node's log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """See `io.TextIOBase`."""
        mute = threading.current_thread().name.startswith("ray_")
        return len(text) if mute else self._stream.write(text)

    def flush(self) -> None:
        """See `io.TextIOBase`."""
        self._stream.flush()

    def isatty(self) -> bool:
        """See `io.TextIOBase`."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """See `io.TextIOBase`."""
        return self._stream.fileno()


class RayWorkerHandle:
    """A worker on a node."""

    def __init__(self, actor: Any, name: str, node: str, config: Config) -> None:
        self.name = name
        self.node = node
        self._actor = actor
        self._config = config

    def capacity(self, strategy: Strategy) -> int:
        """See `dispatch.WorkerHandle`."""
        return capacity(self._config, strategy)

    async def search(self, problem: Problem, strategy: Strategy, *, guided: bool) -> PackedResult:
        """See `dispatch.WorkerHandle`."""
        found = await call_actor(self._actor.search.remote(problem, strategy, guided))
        if isinstance(found, RstarError):
            raise found
        assert isinstance(found, PackedResult)
        return found

    async def open(self) -> WorkerInfo:
        """What it says of itself, once it is ready. Raises `RstarError` or `WorkerLost`."""
        found = await call_actor(self._actor.open.remote())
        if isinstance(found, RstarError):
            raise found
        assert isinstance(found, WorkerInfo)
        return found

    async def leave(self) -> None:
        """Let it end what it started, then kill it."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_S):
                await call_actor(self._actor.close.remote())
        self.end()

    def end(self) -> None:
        """Kill it; harmless where it is dead."""
        with contextlib.suppress(Exception):
            import_module("ray").kill(self._actor, no_restart=True)


async def call_actor(reference: Any) -> Any:
    """What an actor answers. Raises `WorkerLost` where it is gone; a cancellation is passed on."""
    exceptions = import_module("ray.exceptions")
    try:
        return await reference
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            import_module("ray").cancel(reference)
        raise
    except exceptions.RayError as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise WorkerLost(f"{type(error).__name__}: {text[0]}") from error


def connect(address: str) -> None:
    """Join a Ray cluster as its driver. Raises `MissingDependencyError` or `ClusterError`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise MissingDependencyError(
            "--cluster needs Ray, here and on all nodes: pip install 'rstar-math[ray]'"
        ) from error
    try:
        if address != "auto":
            reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(
            f"There is no Ray cluster at {address} ({reason[0]}); start one with: ray start --head"
        ) from error


def reach(address: str) -> None:
    """Raise `OSError` where nobody listens: Ray would wait for minutes. `ValueError` where it is no
    address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=REACH_S):
        pass


def start(config: Config, node: str, cores: int, gpus: int = 0) -> Any:
    """An actor on a node; it starts when the node has the cores and the GPUs to give."""
    ray = import_module("ray")
    strategies = import_module("ray.util.scheduling_strategies")
    return (
        ray.remote(Worker)
        .options(
            num_cpus=cores,
            num_gpus=gpus,
            max_concurrency=4096,
            max_restarts=0,
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(config, cores)
    )


def disconnect() -> None:
    """Leave the cluster; what Ray prints then is as mute as its threads are."""
    thread = threading.current_thread()
    name, thread.name = thread.name, "ray_leaving"
    try:
        import_module("ray").shutdown()
    finally:
        thread.name = name
