"""The Ray actor that searches, its handle in the driver, and the connection to a cluster."""

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
from rstar_math.solver.local import LocalSearcher
from rstar_math.solver.solver import Solver
from rstar_math.types import Problem


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Versions and models of a worker. All fields but `pid` must be equal on all workers."""

    version: str
    """Version of rstar-math."""
    model_name: str | None
    discriminator_name: str | None
    libraries: dict[str, str]
    """Versions of the libraries that model-written code can import."""
    prompting: dict[str, str]
    """How prompts are rendered; see `runs.execute.Searcher.prompting`."""
    pid: int


class Worker:
    """The Ray actor. It returns an `RstarError` as a value, because Ray wraps raised errors."""

    def __init__(self, config: Config, cores: int) -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if starts_servers(config) else ""
        self._config = with_resources(config, cores, [gpu for gpu in visible.split(",") if gpu])
        self._solver: Solver | None = None

    async def open(self) -> WorkerInfo | RstarError:
        """Connect to the model, start sandbox and grader; the worker's versions and models."""
        try:
            self._solver = solver = await Solver(self._config).__aenter__()
        except RstarError as error:
            return error
        except Exception as error:
            return ClusterError(f"A worker failed to start ({type(error).__name__}: {error}).")
        return WorkerInfo(
            version=__version__,
            model_name=solver.model_name,
            discriminator_name=solver.discriminator_name,
            libraries=await asyncio.to_thread(solver.library_versions),
            prompting=solver.prompting,
            pid=os.getpid(),
        )

    async def search(
        self, problem: Problem, strategy: Strategy, guided: bool
    ) -> PackedResult | RstarError:
        """The result of one search, graded and packed in this process."""
        assert self._solver is not None
        try:
            async for _, result in LocalSearcher(self._solver).iter_results(
                [problem], strategy, guided=guided
            ):
                return result
        except RstarError as error:
            return error
        except Exception as error:
            return ClusterError(
                f"A worker failed on the problem {problem.id!r} ({type(error).__name__}: {error}); "
                "remove the problem, or fix the cause."
            )
        raise AssertionError("a search ended without a result")

    async def close(self) -> None:
        """Stop everything that `open` started."""
        if self._solver is not None:
            await self._solver.__aexit__(None, None, None)


def with_resources(config: Config, cores: int, gpus: Sequence[str] = ()) -> Config:
    """The configuration with sandbox and grader sized for `cores`, and one server per GPU.

    Options that the configuration sets itself are kept.
    """
    sandbox = config.sandbox.model_copy(update={"workers": config.sandbox.workers or cores})
    grading = config.grading.model_copy(update={"workers": config.grading.workers or min(2, cores)})
    servers = config.servers.model_copy(update={"gpus": config.servers.gpus or tuple(gpus)})
    return config.model_copy(update={"sandbox": sandbox, "grading": grading, "servers": servers})


def starts_servers(config: Config) -> bool:
    """Whether a solver with this configuration starts model servers (vllm:FOLDER)."""
    addresses = (config.model.url, config.discriminator.url, config.search.ppm or "")
    return any(address.startswith(VLLM) for address in addresses)


CONNECT_TIMEOUT_S = 10.0
"""Maximum time for the cluster's address to accept a connection."""
CLOSE_TIMEOUT_S = 30.0
"""Maximum time for a worker to stop its servers."""


class SuppressRayOutput(io.TextIOBase):
    """Standard output without the output of Ray's threads, such as the log of a dead node."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """See `io.TextIOBase`."""
        from_ray = threading.current_thread().name.startswith("ray_")
        return len(text) if from_ray else self._stream.write(text)

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
    """The driver's handle of a `Worker` actor; a `dispatch.WorkerHandle`."""

    def __init__(self, actor: Any, name: str, node: str, config: Config) -> None:
        self.name = name
        self.node = node
        self._actor = actor
        self._config = config

    def capacity(self, strategy: Strategy) -> int:
        """See `dispatch.WorkerHandle` and `Solver.max_concurrent_searches`."""
        return Solver(self._config).max_concurrent_searches(strategy)

    async def search(self, problem: Problem, strategy: Strategy, *, guided: bool) -> PackedResult:
        """See `dispatch.WorkerHandle`."""
        result = await call_actor(self._actor.search.remote(problem, strategy, guided))
        if isinstance(result, RstarError):
            raise result
        assert isinstance(result, PackedResult)
        return result

    async def open(self) -> WorkerInfo:
        """Waits until the worker is ready. Raises `RstarError` or `WorkerLost`."""
        info = await call_actor(self._actor.open.remote())
        if isinstance(info, RstarError):
            raise info
        assert isinstance(info, WorkerInfo)
        return info

    async def close(self) -> None:
        """Let the worker stop its servers, for `CLOSE_TIMEOUT_S` at most, then kill it."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await call_actor(self._actor.close.remote())
        self.kill()

    def kill(self) -> None:
        """Kill the worker. Does nothing if it is dead."""
        with contextlib.suppress(Exception):
            import_module("ray").kill(self._actor, no_restart=True)


async def call_actor(reference: Any) -> Any:
    """The return value of a remote call. Raises `WorkerLost` if the actor is gone.

    A cancellation also cancels the call in the actor.
    """
    exceptions = import_module("ray.exceptions")
    try:
        return await reference
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            import_module("ray").cancel(reference)
        raise
    except exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WorkerLost(f"{type(error).__name__}: {lines[0]}") from error


def connect(address: str) -> None:
    """Join a Ray cluster as its driver. Raises `MissingDependencyError` or `ClusterError`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise MissingDependencyError(
            "--cluster needs Ray on this machine and on all nodes: pip install 'rstar-math[ray]'"
        ) from error
    try:
        if address != "auto":
            _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(
            f"There is no Ray cluster at {address} ({lines[0]}); start one with: ray start --head"
        ) from error


def _check_reachable(address: str) -> None:
    """Raise `OSError` if nothing listens at the address, `ValueError` if it is not an address.

    Ray itself would wait for minutes.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S):
        pass


def start_actor(config: Config, node: str, cores: int, gpus: int = 0) -> Any:
    """A new `Worker` actor on a node. It starts once the node has free cores and GPUs."""
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
    """Leave the cluster. The output of Ray's shutdown is suppressed."""
    thread = threading.current_thread()
    name, thread.name = thread.name, "ray_leaving"  # the prefix that SuppressRayOutput looks for
    try:
        import_module("ray").shutdown()
    finally:
        thread.name = name
