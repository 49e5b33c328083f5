"""Samples vLLM's metrics: running and waiting requests, prefix-cache hits."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from rstar_math.errors import ModelError
from rstar_math.llm.balancing import TRANSIENT_ERRORS, Replica, Replicas

_LINE = re.compile(r"^vllm:(\w+?)(?:_total)?(?:\{[^\n]*\})? ([-+.\deE]+)$", re.MULTILINE)
_EVERY_S = 5.0
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class MetricsSample:
    """What a server says of itself at one moment, its engines added up."""

    running: float
    """Requests that are being decoded; each sample of a request counts as one."""
    waiting: float
    """Requests that wait for a place."""
    queried: float
    """Prompt tokens so far that were looked for in the prefix cache."""
    found: float
    """Of these, those that were there."""


def read_metrics(text: str) -> MetricsSample | None:
    """A server's reading; None where the text is not vLLM's."""
    sums: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        with suppress(ValueError):
            sums[name] = sums.get(name, 0.0) + float(value)
    if "num_requests_running" not in sums:
        return None
    return MetricsSample(
        running=sums["num_requests_running"],
        waiting=sums.get("num_requests_waiting", 0.0),
        queried=sums.get("prefix_cache_queries", 0.0),
        found=sums.get("prefix_cache_hits", 0.0),
    )


@dataclass(slots=True)
class ServerMetrics:
    """What the servers of one model did over some time."""

    replicas: Replicas
    running: list[float] = field(default_factory=list)
    """At each look, requests that were running on all of them together."""
    waiting: list[float] = field(default_factory=list)
    first: dict[str, MetricsSample] = field(default_factory=dict)
    last: dict[str, MetricsSample] = field(default_factory=dict)

    async def sample(self, *, counted: bool = True) -> None:
        """Ask all servers; `counted` says whether it is a look at them at work."""
        found = await asyncio.gather(*(_reading(one) for one in self.replicas.all))
        for replica, reading in zip(self.replicas.all, found, strict=True):
            if reading is not None:
                before = self.last.get(replica.url)
                if before is None or reading.queried < before.queried:  # new, or begun again
                    self.first[replica.url] = reading
                self.last[replica.url] = reading
        there = [reading for reading in found if reading is not None]
        if counted and there:
            self.running.append(sum(reading.running for reading in there))
            self.waiting.append(sum(reading.waiting for reading in there))

    @property
    def hit_rate(self) -> float | None:
        """The share of prompt tokens that were in a prefix cache, in [0, 1]; None where nothing
        was asked for."""
        queried = sum(self.last[url].queried - self.first[url].queried for url in self.last)
        found = sum(self.last[url].found - self.first[url].found for url in self.last)
        return found / queried if queried > 0 else None

    def now(self) -> str:
        """What was running and waiting at the last look, in words."""
        if not self.running:
            return "..."
        return f"{self.running[-1]:.0f} running, {self.waiting[-1]:.0f} waiting"

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "servers": len(self.replicas.all),
            "in_trouble": sum(bool(one.out_until) for one in self.replicas.all),
            "moved": self.replicas.moved,
            "running": _summed(self.running),
            "waiting": _summed(self.waiting),
            "cache_hit_rate": self.hit_rate,
        }

    def line(self) -> str:
        """The figures in words."""
        servers = len(self.replicas.all)
        said = [f"{servers} server{'s' * (servers > 1)}"]
        if trouble := sum(bool(one.out_until) for one in self.replicas.all):
            said[0] += f" ({trouble} in trouble)"
        for what, values in (("running", self.running), ("waiting", self.waiting)):
            if values:
                mean = sum(values) / len(values)
                said.append(f"{mean:.0f} {what} (most {max(values):.0f})")
        if (rate := self.hit_rate) is not None:
            said.append(f"{rate:.0%} of prompt tokens from the cache")
        return ", ".join(said)


@asynccontextmanager
async def monitor(
    models: Mapping[str, Replicas], *, every_s: float = _EVERY_S
) -> AsyncIterator[dict[str, ServerMetrics]]:
    """The utilisation of some models' servers while the block runs, looked at now and then; whole
    when it has ended. Models whose servers tell nothing are left out at its end."""
    found = {name: ServerMetrics(replicas) for name, replicas in models.items()}

    async def watch() -> None:
        while True:
            await asyncio.sleep(every_s)
            await asyncio.gather(*(one.sample() for one in found.values()))

    await asyncio.gather(*(one.sample(counted=False) for one in found.values()))
    for name in [name for name, one in found.items() if not one.last]:
        del found[name]
    watching = asyncio.create_task(watch()) if found else None
    try:
        yield found
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await asyncio.gather(*(one.sample(counted=False) for one in found.values()))


async def _reading(replica: Replica) -> MetricsSample | None:
    """A server's reading; None where it gives none."""
    try:
        reply = await replica.get(f"{replica.root}/metrics", _PATIENCE_S)
    except (*TRANSIENT_ERRORS, ModelError):
        return None
    return read_metrics(reply.body.decode("utf-8", "replace")) if reply.status == 200 else None


def _summed(values: Sequence[float]) -> dict[str, float] | None:
    """Mean and highest."""
    return {"mean": sum(values) / len(values), "most": max(values)} if values else None
