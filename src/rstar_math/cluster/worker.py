"""What runs on a cluster's nodes: a solver that is handed problems one by one, many at once."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from rstar_math import __version__
from rstar_math.config import Config
from rstar_math.config.servers import VLLM
from rstar_math.errors import ClusterError, RstarError
from rstar_math.evolution.fill import Here
from rstar_math.evolution.packing import Packed
from rstar_math.search.strategy import Strategy
from rstar_math.solver import Solver
from rstar_math.types import Problem


@dataclass(frozen=True, slots=True)
class Papers:
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
        self._config = sized(config, cores, [gpu for gpu in given.split(",") if gpu])
        self._solver: Solver | None = None

    async def open(self) -> Papers | RstarError:
        """Load the model, start sandbox and grader."""
        try:
            self._solver = solver = await Solver(self._config).__aenter__()
        except RstarError as error:
            return error
        except Exception as error:
            return ClusterError(f"A worker cannot start ({type(error).__name__}: {error}).")
        return Papers(
            __version__,
            solver.model_name,
            solver.discriminator_name,
            await asyncio.to_thread(solver.library_versions),
            solver.prompting,
            os.getpid(),
        )

    async def search(
        self, problem: Problem, strategy: Strategy, guided: bool
    ) -> Packed | RstarError:
        """A finished search, judged and packed here."""
        assert self._solver is not None
        try:
            async for _, found in Here(self._solver).finished([problem], strategy, guided=guided):
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


def sized(config: Config, cores: int, gpus: Sequence[str] = ()) -> Config:
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


def room(config: Config, strategy: Strategy) -> int:
    """Problems that keep a worker's share of the model servers busy; see `Solver.in_flight`."""
    return Solver(config).in_flight(strategy)
