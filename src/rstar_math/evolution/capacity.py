"""Estimates a recipe's searches on a cluster: hours, price and bottleneck of each search.

A run file gives the work per problem (`profile_of_run`), and `rstar estimate-cluster` takes
measured speeds of servers and cores. The speed of a server that was not measured follows from the
GPU's bandwidth and arithmetic (`gpu_speed`); it is accurate to about a factor of two.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rstar_math.errors import ConfigError, InputError
from rstar_math.evolution.recipe import RoundSection
from rstar_math.runs.store import RunStore
from rstar_math.types import Cost

BANDWIDTH_SHARE = 0.7
"""Assumed share of a GPU's memory bandwidth that decoding uses."""
TFLOPS_SHARE = 0.4
"""Assumed share of a GPU's arithmetic that a model server uses."""
KV_BYTES = 60_000
"""Bytes per token in the key-value cache of a 7B model with grouped queries (Qwen2.5: 57,344)."""
CONTEXT_TOKENS = 1000
"""Assumed number of tokens that a sample attends to."""
OVERHEAD = 1.1
"""Time of a search divided by the time of its bottleneck: at the start and at the end not all
machines are busy. A discrete-event simulation (until version 0.1) gave 1.00 to 1.09 over 32
configurations, and was within 6 % of two real runs."""


@dataclass(frozen=True, slots=True)
class ServerSpeed:
    """Speed of one replica of a model server."""

    max_batch: int
    """Samples decoded at once."""
    single_tokens_per_s: float
    """Tokens per second of a sample that is decoded alone."""
    full_tokens_per_s: float
    """Tokens per second of all samples together with a full batch."""
    prefill_tokens_per_s: float = 1e12
    """Tokens per second that are read without the cache, or scored."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machines of a cluster and their speeds, measured where possible."""

    server: ServerSpeed
    replicas: int = 1
    cores: int = 1
    """Cores of all nodes that run model-written code."""
    workers: int = 1
    """Worker processes, which hold the trees."""
    programs_per_s: float = 100.0
    """Programs per second and core (benchmarks/sandbox.py)."""
    node_ms: float = 2.0
    """CPU time of a worker per tree node (benchmarks/saturation.py: own_cpu_ms_per_node)."""
    driver_ms: float = 2.0
    """CPU time of the driver per finished search (benchmarks/scale.py: driver_ms)."""
    in_flight: int | None = None
    """Concurrent searches; None for as many as fill the servers' batches twice."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A number of problems to search, with the mean work per problem."""

    problems: int
    calls: float
    """Requests to the model per problem."""
    samples: float
    """Samples per request."""
    tokens: float
    """Sampled tokens per sample."""
    programs: float = 1.0
    """Programs run per sample."""
    uncached_tokens: float = 0.0
    """Tokens per request that are read without the cache, or scored."""
    parallel_calls: int = 1
    """Concurrent requests of one search."""

    @property
    def sampled_tokens(self) -> float:
        """Sampled tokens of all problems."""
        return self.problems * self.calls * self.samples * self.tokens


@dataclass(frozen=True, slots=True)
class WorkloadProfile:
    """The mean work of a search per rollout."""

    calls: float = 4.0
    """Requests to the model per rollout: the depth that a rollout adds."""
    samples: float = 1.0
    """Samples per request, divided by `search.candidates`."""
    tokens: float = 60.0
    """Sampled tokens per sample."""
    programs: float = 0.8
    """Programs run per sample."""
    uncached_tokens: float = 60.0
    """Tokens per request that are read without the cache."""
    measured_run: str | None = None
    """The run in which the values were measured; None for assumed values."""


@dataclass(frozen=True, slots=True)
class SearchEstimate:
    """The estimate of one search stage."""

    stage: str
    problems: int
    tokens: int
    """Sampled tokens."""
    hours: float
    """The bottleneck's hours times `OVERHEAD`."""
    resource_hours: dict[str, float]
    """Hours that each resource needs; see `resource_seconds`."""
    utilization: dict[str, float]
    """`resource_hours` divided by `hours`, in [0, 1]."""
    bottleneck: str
    """The resource that needs the most hours."""
    gpu_hours: float
    price: float | None
    """None if the price of a GPU hour is unknown."""


@dataclass(frozen=True, slots=True)
class ClusterEstimate:
    """The estimates of all searches, with what they are based on."""

    searches: list[SearchEstimate]
    hardware: Hardware
    profile: WorkloadProfile
    gpus: int
    gpu: str
    speed_measured: bool
    """Whether the server's speed was measured, not derived from the GPU's data sheet."""

    @property
    def hours(self) -> float:
        """Hours of all searches."""
        return sum(search.hours for search in self.searches)

    def as_json(self) -> dict[str, Any]:
        """All fields, and the sums over all searches."""
        prices = [search.price for search in self.searches if search.price is not None]
        return {
            **asdict(self),
            "hours": self.hours,
            "gpu_hours": sum(search.gpu_hours for search in self.searches),
            "price": sum(prices) if prices else None,
        }


def gpu_names() -> list[str]:
    """Names of the GPUs that `gpu_speed` knows."""
    return list(_gpus())


def gpu_speed(gpu: str, *, params: float, max_batch: int) -> ServerSpeed:
    """The speed of one GPU that serves a model of `params` billion parameters in bf16.

    A decoding step reads the weights and the cache of every sample, and does two operations per
    parameter and sample. The batch is smaller than `max_batch` if memory requires it. Raises
    `ConfigError` if the GPU is unknown or too small.
    """
    known = _gpus()
    if gpu not in known:
        raise ConfigError(
            f"Unknown GPU {gpu!r}; use the most similar of {', '.join(gpu_names())}, and set "
            "--tokens-per-second to the speed that you measured."
        )
    spec = known[gpu]
    memory = spec["memory"] * 0.9e9
    weights, cache = 2e9 * params, KV_BYTES * CONTEXT_TOKENS * params / 7.6
    if memory < weights + cache:
        raise ConfigError(
            f"A model of {params:g} billion parameters does not fit one {gpu}; use a larger GPU."
        )
    batch = max_batch
    if memory < weights + batch * cache:
        batch = max(1, int((memory - weights) / cache))
    bandwidth = BANDWIDTH_SHARE * spec["bandwidth"] * 1e9
    prefill_tokens_per_s = TFLOPS_SHARE * spec["tflops"] * 1e12 / (2e9 * params)
    step_s = (weights + batch * cache) / bandwidth + batch / prefill_tokens_per_s
    return ServerSpeed(batch, bandwidth / weights, batch / step_s, prefill_tokens_per_s)


def profile_of_run(path: Path) -> WorkloadProfile:
    """The profile measured in a run's MCTS searches. Raises `InputError` if there are none."""
    costs: list[Cost] = []
    rollouts = 0
    with RunStore.read(path) as store:
        candidates = int(store.conditions().get("search.candidates", 1))
        for name in store.strategies():
            if not name.startswith("mcts"):
                continue
            for result in store.results(name):
                costs.append(result.cost)
                rollouts += store.tree(result.problem, name).rollouts
    total = Cost.total(costs)
    if not (rollouts and total.calls and total.samples):
        raise InputError(f"{path} has no results of mcts; use a run of rstar search.")
    return WorkloadProfile(
        calls=total.calls / rollouts,
        samples=total.samples / total.calls / candidates,
        tokens=total.sampled_tokens / total.samples,
        programs=total.code_runs / total.samples,
        uncached_tokens=(total.sampled_tokens + total.scorer_tokens) / total.calls,
        measured_run=str(path),
    )


def workload_of(
    profile: WorkloadProfile, problems: int, rollouts: float, candidates: int
) -> Workload:
    """The work of searching `problems` problems."""
    return Workload(
        problems=problems,
        calls=profile.calls * rollouts,
        samples=profile.samples * candidates,
        tokens=profile.tokens,
        programs=profile.programs,
        uncached_tokens=profile.uncached_tokens,
    )


def resource_seconds(work: Workload, hardware: Hardware) -> dict[str, float]:
    """Seconds that each resource would need if it were the only bottleneck.

    The resources are the model servers, the sandbox, the workers' CPU time for trees, the driver,
    and "waiting": the latency of requests with the given number of concurrent searches.
    """
    calls = work.problems * work.calls
    samples = calls * work.samples
    server = hardware.server
    decoding_s = work.sampled_tokens / server.full_tokens_per_s
    prefill_s = calls * work.uncached_tokens / server.prefill_tokens_per_s
    fill_twice = 2 * server.max_batch * hardware.replicas / work.samples / work.parallel_calls
    in_flight = hardware.in_flight or fill_twice
    latency_s = work.calls * (work.tokens / server.single_tokens_per_s) / work.parallel_calls
    return {
        "servers": (decoding_s + prefill_s) / hardware.replicas,
        "sandbox": samples * work.programs / hardware.programs_per_s / hardware.cores,
        "trees": samples * hardware.node_ms / 1000 / hardware.workers,
        "driver": work.problems * hardware.driver_ms / 1000,
        "waiting": work.problems * latency_s / in_flight,
    }


def search_workloads(
    rounds: Sequence[RoundSection],
    problems: int,
    profile: WorkloadProfile,
    *,
    unsolved: float = 0.2,
) -> list[tuple[str, Workload]]:
    """The search stages of a recipe's rounds, each with its work.

    `unsolved` is the share of a round's problems that each of its retries searches, in [0, 1].
    """
    stages = []
    for number, section in enumerate(rounds, 1):
        if section.data != "search":
            continue
        size = min(problems, section.problems or problems)
        rollouts = section.rollouts * section.trees_per_problem
        work = workload_of(profile, size, rollouts, section.candidates)
        stages.append((f"{number}/search", work))
        for retry, retry_rollouts in enumerate(section.retry_rollouts, 1):
            left = max(1, round(size * unsolved))
            work = workload_of(profile, left, retry_rollouts, section.candidates)
            stages.append((f"{number}/more-{retry}", work))
    return stages


def estimate_search(
    stage: str, work: Workload, hardware: Hardware, gpus: int, gpu_hour_price: float | None
) -> SearchEstimate:
    """The estimate of one search stage on `gpus` GPUs."""
    hours = {name: value / 3600 for name, value in resource_seconds(work, hardware).items()}
    bottleneck = max(hours, key=lambda name: hours[name])
    total = OVERHEAD * hours[bottleneck]
    return SearchEstimate(
        stage=stage,
        problems=work.problems,
        tokens=round(work.sampled_tokens),
        hours=total,
        resource_hours=hours,
        utilization={name: value / total if total else 0.0 for name, value in hours.items()},
        bottleneck=bottleneck,
        gpu_hours=total * gpus,
        price=None if gpu_hour_price is None else total * gpus * gpu_hour_price,
    )


def _gpus() -> dict[str, dict[str, float]]:
    """Memory, bandwidth and TFLOP/s by GPU name."""
    text = (files("rstar_math.evolution") / "gpus.toml").read_text(encoding="utf-8")
    gpus: dict[str, dict[str, float]] = tomllib.loads(text)
    return gpus
