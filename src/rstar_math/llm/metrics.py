"""Samples vLLM's metrics: running and waiting requests, prefix-cache hits."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from rstar_math.errors import ModelError
from rstar_math.llm.balancing import TRANSIENT_ERRORS, Replica, Replicas

_METRIC = re.compile(r"^vllm:(\w+?)(?:_total)?(?:\{[^\n]*\})? ([-+.\deE]+)$", re.MULTILINE)
_INTERVAL_S = 5.0
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class MetricsSample:
    """One server's metrics at one moment, summed over its engines."""

    running: float
    """Number of requests being decoded; each sample of a request counts as one."""
    waiting: float
    """Number of queued requests."""
    prefix_queries: float
    """Prompt tokens looked up in the prefix cache since the server started."""
    prefix_hits: float
    """Prompt tokens found in the prefix cache since the server started."""


def read_metrics(text: str) -> MetricsSample | None:
    """Parses the text of /metrics. Returns None if it is not vLLM's."""
    sums: dict[str, float] = {}
    for name, value in _METRIC.findall(text):
        with suppress(ValueError):
            sums[name] = sums.get(name, 0.0) + float(value)
    if "num_requests_running" not in sums:
        return None
    return MetricsSample(
        running=sums["num_requests_running"],
        waiting=sums.get("num_requests_waiting", 0.0),
        prefix_queries=sums.get("prefix_cache_queries", 0.0),
        prefix_hits=sums.get("prefix_cache_hits", 0.0),
    )


@dataclass(slots=True)
class ServerMetrics:
    """Metrics of one model's servers over a period of time."""

    replicas: Replicas
    running: list[float] = field(default_factory=list)
    """Running requests of all servers together, one entry per recorded sample."""
    waiting: list[float] = field(default_factory=list)
    """Waiting requests of all servers together, one entry per recorded sample."""
    first: dict[str, MetricsSample] = field(default_factory=dict)
    """First sample of each server, by address; replaced if the server restarts."""
    last: dict[str, MetricsSample] = field(default_factory=dict)
    """Last sample of each server, by address."""

    async def sample(self, *, record_load: bool = True) -> None:
        """Reads the metrics of all servers. `record_load` adds to `running` and `waiting`."""
        samples = await asyncio.gather(*(_fetch(replica) for replica in self.replicas.all))
        for replica, sample in zip(self.replicas.all, samples, strict=True):
            if sample is not None:
                previous = self.last.get(replica.url)
                restarted = previous and sample.prefix_queries < previous.prefix_queries
                if previous is None or restarted:
                    self.first[replica.url] = sample
                self.last[replica.url] = sample
        known = [sample for sample in samples if sample is not None]
        if record_load and known:
            self.running.append(sum(sample.running for sample in known))
            self.waiting.append(sum(sample.waiting for sample in known))

    @property
    def hit_rate(self) -> float | None:
        """Share of prompt tokens found in a prefix cache, in [0, 1]; None without any lookup."""
        queries = hits = 0.0
        for url, last in self.last.items():
            queries += last.prefix_queries - self.first[url].prefix_queries
            hits += last.prefix_hits - self.first[url].prefix_hits
        return hits / queries if queries > 0 else None

    def current(self) -> str:
        """Returns the load at the last sample, as text."""
        if not self.running:
            return "..."
        return f"{self.running[-1]:.0f} running, {self.waiting[-1]:.0f} waiting"

    def as_json(self) -> dict[str, Any]:
        """Returns a summary as JSON values."""
        return {
            "servers": len(self.replicas.all),
            "failed_servers": self._failed_servers,
            "rerouted": self.replicas.rerouted,
            "running": _mean_and_maximum(self.running),
            "waiting": _mean_and_maximum(self.waiting),
            "cache_hit_rate": self.hit_rate,
        }

    def summary(self) -> str:
        """Returns a summary as text."""
        servers = len(self.replicas.all)
        parts = [f"{servers} server{'s' * (servers > 1)}"]
        if self._failed_servers:
            parts[0] += f" ({self._failed_servers} failed)"
        for label, values in (("running", self.running), ("waiting", self.waiting)):
            if values:
                mean = sum(values) / len(values)
                parts.append(f"{mean:.0f} {label} (maximum {max(values):.0f})")
        if (rate := self.hit_rate) is not None:
            parts.append(f"{rate:.0%} of prompt tokens from the cache")
        return ", ".join(parts)

    @property
    def _failed_servers(self) -> int:
        return sum(bool(replica.probe_at) for replica in self.replicas.all)


@asynccontextmanager
async def monitor(
    models: Mapping[str, Replicas], *, interval_s: float = _INTERVAL_S
) -> AsyncIterator[dict[str, ServerMetrics]]:
    """Samples the metrics of each model's servers while the block runs.

    Yields the metrics by model; they are complete when the block has ended. Models whose servers
    report no metrics are left out.
    """
    metrics = {name: ServerMetrics(replicas) for name, replicas in models.items()}
    await _sample_all(metrics, record_load=False)
    for name in [name for name, servers in metrics.items() if not servers.last]:
        del metrics[name]
    task = asyncio.create_task(_sample_repeatedly(metrics, interval_s)) if metrics else None
    try:
        yield metrics
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await _sample_all(metrics, record_load=False)


async def _sample_all(metrics: Mapping[str, ServerMetrics], *, record_load: bool) -> None:
    await asyncio.gather(*(model.sample(record_load=record_load) for model in metrics.values()))


async def _sample_repeatedly(metrics: Mapping[str, ServerMetrics], interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        await _sample_all(metrics, record_load=True)


async def _fetch(replica: Replica) -> MetricsSample | None:
    """Returns a server's metrics; None if it does not answer or reports none."""
    try:
        reply = await replica.get(f"{replica.root}/metrics", _TIMEOUT_S)
    except (*TRANSIENT_ERRORS, ModelError):
        return None
    return read_metrics(reply.body.decode("utf-8", "replace")) if reply.status == 200 else None


def _mean_and_maximum(values: Sequence[float]) -> dict[str, float] | None:
    return {"mean": sum(values) / len(values), "max": max(values)} if values else None
