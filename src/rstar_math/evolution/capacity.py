"""Estimates a search on a cluster: hours, price and bottleneck of each round.

Rates come from what was measured: a run says what a search of one problem does, `rstar
estimate-cluster` takes the speeds of servers and cores. Where a server was not measured, its speed
is reckoned from the GPU's bandwidth and arithmetic (`gpu_speed`), which is good to about a factor
of two.
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
"""Of a GPU's bandwidth that decoding gets; assumed."""
TFLOPS_SHARE = 0.4
"""Of a GPU's arithmetic that a model server gets; assumed."""
KV_BYTES = 60_000
"""Of a token in the key-value cache of a 7B model with grouped queries (Qwen2.5: 57,344)."""
START_AND_END = 1.1
"""A whole search over the time of its bottleneck alone: at its beginning and end not all machines
are busy. A discrete-event simulation (until version 0.1) gave 1.00 to 1.09 over 32 configurations,
and was within 6 % of two real runs."""
CONTEXT = 1000
"""Tokens that a sample attends to; assumed."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What one replica of a model server does."""

    slots: int
    """Samples decoded at once."""
    single: float
    """Tokens a second of one sample alone."""
    full: float
    """Tokens a second of all samples together, at most."""
    prefill: float = 1e12
    """Tokens a second that are read and not in the cache, or judged by a scorer."""


@dataclass(frozen=True, slots=True)
class Machines:
    """What there is to search with. Rates are measured where they can be."""

    engine: Engine
    replicas: int = 1
    cores: int = 1
    """For code that models wrote, over all nodes."""
    workers: int = 1
    """Processes that hold trees."""
    programs: float = 100.0
    """Programs a second and core (benchmarks/sandbox.py)."""
    node_ms: float = 2.0
    """Processor time of a worker for a node (benchmarks/saturation.py: own_cpu_ms_per_node)."""
    keep_ms: float = 2.0
    """Processor time of the driver for a finished search (benchmarks/scale.py: driver_ms)."""
    in_flight: int | None = None
    """Searches under way; by default those that fill the slots twice."""


@dataclass(frozen=True, slots=True)
class Load:
    """Searches to be done: means of one problem."""

    problems: int
    calls: float
    """Requests to the model."""
    samples: float
    """Samples of a request."""
    tokens: float
    """Tokens of a sample."""
    programs: float = 1.0
    """Programs run for a sample."""
    read: float = 0.0
    """Tokens read for a request that are in no cache, and judged by a scorer."""
    side: int = 1
    """Requests of one search that are under way together."""

    @property
    def sampled(self) -> float:
        """Sampled tokens of all problems."""
        return self.problems * self.calls * self.samples * self.tokens


@dataclass(frozen=True, slots=True)
class WorkloadProfile:
    """What the search of one problem does, for each rollout."""

    calls: float = 4.0
    """Requests to the model: layers that a rollout adds."""
    samples: float = 1.0
    """Samples of a request, for each candidate asked for."""
    tokens: float = 60.0
    """Tokens of a sample."""
    programs: float = 0.8
    """Programs run for a sample."""
    read: float = 60.0
    """Tokens read for a request that are in no cache."""
    measured: str | None = None
    """The run they were measured in; None where they are assumed."""


@dataclass(frozen=True, slots=True)
class CapacityPart:
    """One pass of searching."""

    name: str
    problems: int
    tokens: int
    """Sampled."""
    hours: float
    """The time of the bottleneck, times `START_AND_END`."""
    hours_alone: dict[str, float]
    """What each resource would take if nothing else held it up."""
    busy: dict[str, float]
    """Share of each resource in use, in [0, 1]."""
    bottleneck: str
    gpu_hours: float
    price: float | None


@dataclass(frozen=True, slots=True)
class Capacity:
    """The parts of a plan and what they were reckoned from."""

    parts: list[CapacityPart]
    machines: Machines
    profile: WorkloadProfile
    gpus: int
    gpu: str
    engine_measured: bool

    @property
    def hours(self) -> float:
        """Of all parts."""
        return sum(part.hours for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """All of it under plain names."""
        whole = {"hours": self.hours, "gpu_hours": sum(part.gpu_hours for part in self.parts)}
        prices = [part.price for part in self.parts if part.price is not None]
        return {**asdict(self), **whole, "price": sum(prices) if prices else None}


def gpu_names() -> list[str]:
    """GPUs whose speed can be reckoned."""
    return list(_gpus())


def gpu_speed(gpu: str, *, params: float, slots: int) -> Engine:
    """The speed of one GPU that serves a model of so many billion parameters in bf16, from its data
    sheet: a step of decoding reads the weights and every sample's cache and does two operations a
    parameter and sample. Raises `ConfigError`."""
    known = _gpus()
    if gpu not in known:
        raise ConfigError(
            f"{gpu!r} is not in the list of GPUs ({', '.join(gpu_names())}); take the one most "
            "like it, with --tokens-per-second for the speed that you measured."
        )
    facts = known[gpu]
    weights, cache = 2e9 * params, KV_BYTES * CONTEXT * params / 7.6
    if facts["memory"] * 0.9e9 < weights + slots * cache:
        slots = max(1, int((facts["memory"] * 0.9e9 - weights) / cache))
    if facts["memory"] * 0.9e9 < weights + cache:
        raise ConfigError(f"A model of {params:g} billion parameters does not fit one {gpu}.")
    band = BANDWIDTH_SHARE * facts["bandwidth"] * 1e9
    flops = TFLOPS_SHARE * facts["tflops"] * 1e12 / (2e9 * params)
    step = (weights + slots * cache) / band + slots / flops
    return Engine(slots, 1 / (weights / band), slots / step, flops)


def profile_of_run(path: Path) -> WorkloadProfile:
    """What the searches of a run did. Raises `InputError` where it has none with rollouts."""
    costs: list[Cost] = []
    rollouts = 0
    candidates = 1
    with RunStore.read(path) as store:
        candidates = int(store.conditions().get("search.candidates", 1))
        for name in store.strategies():
            if not name.startswith("mcts"):
                continue
            for result in store.results(name):
                costs.append(result.cost)
                tree = store.tree(result.problem, name)
                rollouts += tree.rollouts
    whole = Cost.total(costs)
    if not (rollouts and whole.calls and whole.samples):
        raise InputError(f"{path} has no results of mcts; name a run of rstar search.")
    return WorkloadProfile(
        calls=whole.calls / rollouts,
        samples=whole.samples / whole.calls / candidates,
        tokens=whole.sampled_tokens / whole.samples,
        programs=whole.code_runs / whole.samples,
        read=(whole.sampled_tokens + whole.scorer_tokens) / whole.calls,
        measured=str(path),
    )


def load_of(profile: WorkloadProfile, problems: int, rollouts: float, candidates: int) -> Load:
    """The work of searching so many problems."""
    return Load(
        problems=problems,
        calls=profile.calls * rollouts,
        samples=profile.samples * candidates,
        tokens=profile.tokens,
        programs=profile.programs,
        read=profile.read,
    )


def resource_seconds(load: Load, machines: Machines) -> dict[str, float]:
    """Seconds that each resource needs for its own part of the work."""
    calls = load.problems * load.calls
    samples = calls * load.samples
    engine = machines.engine
    serving = load.sampled / engine.full + calls * load.read / engine.prefill
    flight = machines.in_flight or 2 * engine.slots * machines.replicas / load.samples / load.side
    chain = load.calls * (load.tokens / engine.single) / load.side
    return {
        "servers": serving / machines.replicas,
        "sandbox": samples * load.programs / machines.programs / machines.cores,
        "trees": samples * machines.node_ms / 1000 / machines.workers,
        "driver": load.problems * machines.keep_ms / 1000,
        "waiting": load.problems * chain / flight,
    }


def estimate_capacity(
    rounds: Sequence[RoundSection],
    problems: int,
    profile: WorkloadProfile,
    *,
    unsolved: float = 0.2,
) -> list[tuple[str, Load]]:
    """The passes of a recipe's rounds with their work; further rollouts are for the share of
    problems that no path solved."""
    found = []
    for number, one in enumerate(rounds, 1):
        if one.data != "search":
            continue
        size = min(problems, one.problems or problems)
        rollouts = one.rollouts * one.trees_per_problem
        found.append((f"{number}/search", load_of(profile, size, rollouts, one.candidates)))
        for turn, more in enumerate(one.retry_rollouts, 1):
            rest = max(1, round(size * unsolved))
            found.append((f"{number}/more-{turn}", load_of(profile, rest, more, one.candidates)))
    return found


def part(name: str, load: Load, machines: Machines, gpus: int, price: float | None) -> CapacityPart:
    """One pass: the time of its bottleneck, times `START_AND_END`. `price` is of a GPU for an
    hour."""
    needs = {key: value / 3600 for key, value in resource_seconds(load, machines).items()}
    worst = max(needs, key=lambda key: needs[key])
    hours = START_AND_END * needs[worst]
    return CapacityPart(
        name=name,
        problems=load.problems,
        tokens=round(load.sampled),
        hours=hours,
        hours_alone=needs,
        busy={key: value / hours if hours else 0.0 for key, value in needs.items()},
        bottleneck=worst,
        gpu_hours=hours * gpus,
        price=None if price is None else hours * gpus * price,
    )


def _gpus() -> dict[str, dict[str, float]]:
    """The list of GPUs."""
    text = (files("rstar_math.evolution") / "gpus.toml").read_text(encoding="utf-8")
    found: dict[str, dict[str, float]] = tomllib.loads(text)
    return found
