"""How well searches keep a model server busy, against a lock-step scheduler, in one run.

    python benchmarks/saturation.py [--json] [--trees 64] [--rollouts 8] [--slots 128]
                                    [--in-flight 1] [--scale 0.25]

Trees are grown by the project's own search over HTTP (`connect`, `StepPolicy` and the grammar)
against a fake server with continuous batching in a process of its own: 8 ms a token, 20 ms of
prefill, steps of log-normal length (median 40 tokens, sigma 0.8, at most 512), paths of 4 to 8
steps, K = 8. With 64 trees 512 samples are in flight for 128 slots. Scoring takes 20 ms a call
and ordinary code about 10 ms (log-normal), each however many are under way; in the second setting
1 % of the code steps run into a limit of 5 s. All these times are multiplied by --scale, so that
the whole takes minutes; the smaller it is, the more the client's own processor time counts (at
0.25 it is well below one core). A busy machine makes both schedulers slower, ours more.

The lock-step scheduler (saturation_lockstep.py) is the scheme of the public rStar-Math code with
the same search, samples, scores and runs; its barriers wait only for each other, its code runs
and scores all at once. The last line with --json is one object of named figures:

    wall_over_ideal             wall time over (slot-seconds used / slots); 1 is a server never idle
    wall_over_ideal_slow_code   the same with slow code
    lockstep_over_ideal, lockstep_over_ideal_slow_code      the same of the lock-step scheduler
    lockstep_speedup            wall time a sampled token: lock-step over ours
    lockstep_speedup_slow_code  the same with slow code
    own_cpu_ms_per_node         processor time of the client process, without server, sandbox
                                and scorer, for one node of a tree
    NAME_wall_s, NAME_tokens, NAME_nodes, NAME_requests     for NAME in ours, ours_slow,
                                lockstep, lockstep_slow
    NAME_busy                   mean share of slots in use
    NAME_head, NAME_tail        share of the wall time before slots in use first reach, and after
                                they last leave, nine tenths
    server_cpu_ms_per_request   of the fake server: it must not be what is measured
    client_cores, server_cores  processor time over wall time, ours with ordinary code
"""

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from saturation_lockstep import LockStep
from saturation_world import MOST_TOKENS, Report, Server, TimedExecutor, TimedScorer, Times, server

from rstar_math.config import ModelConfig, PolicyConfig, SearchConfig
from rstar_math.models import StepPolicy, connect
from rstar_math.search import Tree, grow
from rstar_math.testing.batching import utilisation
from rstar_math.types import Cost, Question

SLOW = 0.01
PARTS = 40
SHADES = " .:-=+*#%@"


@dataclass(frozen=True, slots=True)
class Load:
    """What is searched."""

    trees: int
    search: SearchConfig
    slots: int
    times: Times


@dataclass(frozen=True, slots=True)
class Run:
    """What one scheduler took for a load."""

    load: Load
    trees: list[Tree]
    start: float
    end: float
    cpu_s: float
    report: Report

    @property
    def wall_s(self) -> float:
        """Seconds from the first request to the last tree."""
        return self.end - self.start

    @property
    def ideal_s(self) -> float:
        """Seconds that the samples take if no slot is ever idle."""
        return sum(end - start for start, end in self.report.spans) / self.load.slots

    @property
    def cost(self) -> Cost:
        """What all trees cost."""
        return Cost.total(tree.cost for tree in self.trees)

    @property
    def nodes(self) -> int:
        """Nodes of all trees, without roots."""
        return sum(len(tree) - 1 for tree in self.trees)

    def busy(self, parts: int = PARTS) -> list[float]:
        """Share of slots in use in each part of the wall time."""
        return utilisation(self.report.spans, self.load.slots, self.start, self.end, parts)

    def figures(self, name: str) -> dict[str, float]:
        """What is reported of every run."""
        full = [part for part, busy in enumerate(self.busy(200)) if busy >= 0.9]
        return {
            f"{name}_wall_s": self.wall_s,
            f"{name}_tokens": self.cost.sampled_tokens,
            f"{name}_nodes": self.nodes,
            f"{name}_requests": self.report.requests,
            f"{name}_busy": self.ideal_s / self.wall_s,
            f"{name}_head": full[0] / 200 if full else 1.0,
            f"{name}_tail": 1.0 - (full[-1] + 1) / 200 if full else 1.0,
        }


async def searched(load: Load, at: Server, *, slow: float, lockstep: bool) -> Run:
    """Grow all trees of a load at once, by one scheduler or the other."""
    trees = {f"t{i}": Tree(Question(f"t{i}", f"What is task {i}?")) for i in range(load.trees)}
    model = await connect(ModelConfig(url=at.url, concurrency=1024))
    policy = StepPolicy(model, PolicyConfig(prompt="trained", step_tokens=MOST_TOKENS))
    scorer = TimedScorer(load.times)
    executor = TimedExecutor(load.times, slow)
    held = LockStep(trees, policy, scorer) if lockstep else None

    async def one(tree: Tree) -> None:
        await grow(
            tree,
            policy=held or policy,
            executor=executor,
            scorer=held or scorer,
            config=in_flight(load.search, 1) if held else load.search,
        )
        if held:
            held.finished()

    at.report()
    start, cpu = time.monotonic(), time.process_time()
    try:
        async with asyncio.TaskGroup() as group:
            for tree in trees.values():
                group.create_task(one(tree))
        end, cpu_s = time.monotonic(), time.process_time() - cpu
    finally:
        await model.aclose()
    return Run(load, list(trees.values()), start, end, cpu_s, at.report())


def in_flight(search: SearchConfig, rollouts: int | None) -> SearchConfig:
    """The search with that many rollouts of a tree in flight, where it has such an option."""
    if rollouts is None or "in_flight" not in SearchConfig.model_fields:
        return search
    return search.model_copy(update={"in_flight": rollouts})


def measure(load: Load) -> tuple[dict[str, float], dict[str, Run]]:
    """All figures, and the runs they come from."""
    runs: dict[str, Run] = {}
    with server(load.times.batching(load.slots)) as at:
        for setting, slow in (("", 0.0), ("_slow", SLOW)):
            for name in ("ours", "lockstep"):
                runs[name + setting] = asyncio.run(
                    searched(load, at, slow=slow, lockstep=name == "lockstep")
                )
    figures: dict[str, float] = {}
    for setting, suffix in (("", ""), ("_slow", "_slow_code")):
        ours, lockstep = runs["ours" + setting], runs["lockstep" + setting]
        figures[f"wall_over_ideal{suffix}"] = ours.wall_s / ours.ideal_s
        figures[f"lockstep_over_ideal{suffix}"] = lockstep.wall_s / lockstep.ideal_s
        figures[f"lockstep_speedup{suffix}"] = (lockstep.wall_s / lockstep.cost.sampled_tokens) / (
            ours.wall_s / ours.cost.sampled_tokens
        )
    ours = runs["ours"]
    figures["own_cpu_ms_per_node"] = 1000 * ours.cpu_s / ours.nodes
    figures["client_cores"] = ours.cpu_s / ours.wall_s
    figures["server_cores"] = ours.report.cpu_s / ours.wall_s
    figures["server_cpu_ms_per_request"] = 1000 * ours.report.cpu_s / ours.report.requests
    for name, run in runs.items():
        figures |= run.figures(name)
    return {name: round(value, 3) for name, value in figures.items()}, runs


def picture(busy: Sequence[float]) -> str:
    """Shares of slots in use over time, a sign for each, darker is busier."""
    return "".join(SHADES[min(9, int(share * 10))] for share in busy)


def machine() -> dict[str, object]:
    """Where it was measured."""
    load: float | None = None
    with suppress(OSError):
        load = round(os.getloadavg()[0], 2)
    return {
        "cpus": os.cpu_count(),
        "load_1min": load,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--trees", type=int, default=64)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--slots", type=int, default=128, help="samples decoded at once")
    parser.add_argument("--in-flight", type=int, help="rollouts of a tree in flight")
    parser.add_argument("--scale", type=float, default=0.25, help="real seconds a modelled second")
    options = parser.parse_args(arguments)
    search = in_flight(
        SearchConfig(rollouts=options.rollouts, candidates=8, depth=8), options.in_flight
    )
    load = Load(options.trees, search, options.slots, Times(options.scale))
    where = machine()
    figures, runs = measure(load)
    for name, value in figures.items():
        print(f"{name:32} {value:12.3f}")
    print(f"\nslots in use over each run's own time, {SHADES!r} from none to all:")
    for name, run in runs.items():
        print(f"{name:14} {run.wall_s:7.1f} s |{picture(run.busy())}|")
    if options.json:
        print(json.dumps(figures | where | {"trees": options.trees, "slots": options.slots}))


if __name__ == "__main__":
    main()
