"""Utilisation of a model server by our searches, compared with a lock-step scheduler.

    python benchmarks/saturation.py [--json] [--trees 64] [--rollouts 8] [--slots 128]
                                    [--in-flight 8] [--scale 0.25]

Our own search grows trees over HTTP (`connect`, `StepPolicy` and the grammar) with a fake server
that has continuous batching and runs in its own process. It takes 8 ms per token and 20 ms of
prefill. Steps have a log-normal length (median 40 tokens, sigma 0.8, at most 512), paths have 4 to
8 steps, and K = 8. With one rollout of each tree in flight, the 64 trees have 512 samples in flight
for 128 slots. A request releases its slots one by one, so the demand is about 225 slots on average.
Our scheduler is measured with 8 rollouts of a tree in flight, and with 1 (ours_one), which gives
the same trees as the lock-step scheduler. Scoring takes 20 ms per call and ordinary code about
10 ms (log-normal), independent of the load. In the second setting 1 % of the code steps reach a
limit of 5 s. All times are multiplied by --scale, so that the benchmark takes minutes. The smaller
the scale, the larger the share of the client's processor time (at 0.25 it is far below one core). A
busy machine slows down both schedulers, ours more.

The lock-step scheduler (saturation_lockstep.py) is the scheme of the public rStar-Math code, with
the same search, samples, scores and runs. Its barriers wait only for each other; its code runs and
scores all in parallel. The last line with --json is one object:

    wall_over_ideal             wall time over (slot-seconds used / slots); 1 is a server never idle
    wall_over_ideal_slow_code   the same with slow code
    wall_over_ideal_prm         the same with a slow process reward model on a server of its own:
                                our client sends it each expansion and it takes --prm-ms
    lockstep_over_ideal, lockstep_over_ideal_slow_code      the same of the lock-step scheduler
    lockstep_speedup            wall time per sampled token: lock-step over ours
    lockstep_speedup_slow_code  the same with slow code
    wall_over_ideal_one, lockstep_speedup_one    the first two with one rollout per tree in flight
    own_cpu_ms_per_node         processor time of the client process per node of a tree, without
                                server, sandbox and scorer
    NAME_wall_s, NAME_tokens, NAME_nodes, NAME_requests     for NAME in ours, ours_slow, ours_one,
                                ours_prm, lockstep, lockstep_slow
    NAME_busy                   mean share of slots in use
    NAME_head, NAME_tail        share of the wall time before 90 % of the slots are first in use,
                                and after they are last in use; 1 if never
    server_cpu_ms_per_request   of the fake server; it must be negligible
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
from dataclasses import dataclass, replace

from saturation_lockstep import LockStep
from saturation_world import (
    MOST_TOKENS,
    Report,
    Server,
    TimedExecutor,
    TimedScorer,
    Times,
    prm_server,
    server,
)

from rstar_math.config import Config, ModelConfig, PolicyConfig, SearchConfig
from rstar_math.llm.connect import connect
from rstar_math.policies.completions import StepPolicy
from rstar_math.scorers.prm import load_prm
from rstar_math.search import Tree, grow, to_record
from rstar_math.testing.fake_server import utilisation
from rstar_math.types import Question

SLOW = 0.01
PARTS = 40
SHADES = " .:-=+*#%@"


@dataclass(frozen=True, slots=True)
class Load:
    """The load: the trees and their search settings."""

    trees: int
    search: SearchConfig
    slots: int
    times: Times


@dataclass(frozen=True, slots=True)
class Run:
    """The measurements of one scheduler for a load."""

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
    def over_ideal(self) -> float:
        """Wall time over the ideal, at least 1."""
        return self.wall_s / self.ideal_s

    @property
    def tokens(self) -> int:
        """Sampled tokens of all trees."""
        return sum(tree.cost.sampled_tokens for tree in self.trees)

    @property
    def token_s(self) -> float:
        """Wall seconds per sampled token."""
        return self.wall_s / self.tokens

    @property
    def nodes(self) -> int:
        """Number of nodes of all trees, without roots."""
        return sum(len(tree) - 1 for tree in self.trees)

    def busy(self, parts: int = PARTS) -> list[float]:
        """Share of slots in use in each part of the wall time."""
        return utilisation(self.report.spans, self.load.slots, self.start, self.end, parts)

    def figures(self, name: str) -> dict[str, float]:
        """The results that are reported for every run."""
        full = [part for part, busy in enumerate(self.busy(200)) if busy >= 0.9]
        return {
            f"{name}_wall_s": self.wall_s,
            f"{name}_tokens": self.tokens,
            f"{name}_nodes": self.nodes,
            f"{name}_requests": self.report.requests,
            f"{name}_busy": 1.0 / self.over_ideal,
            f"{name}_head": full[0] / 200 if full else 1.0,
            f"{name}_tail": 1.0 - (full[-1] + 1) / 200 if full else 1.0,
        }


async def searched(
    load: Load, at: Server, *, slow: float, lockstep: bool, prm: str | None = None
) -> Run:
    """Grow all trees of a load concurrently with one of the schedulers.

    `prm` is the address of a process reward model that scores in the place of `TimedScorer`.
    """
    trees = {f"t{i}": Tree(Question(f"t{i}", f"What is task {i}?")) for i in range(load.trees)}
    model = await connect(ModelConfig(url=at.url, concurrency=1024))
    policy = StepPolicy(model, PolicyConfig(prompt="trained", max_step_tokens=MOST_TOKENS))
    config = Config(
        model=ModelConfig(concurrency=1024),
        search=SearchConfig(prm=prm, prm_format="qwen-prm", prm_aggregation="last"),
    )
    model_scorer = None if prm is None else await load_prm(config)
    scorer = model_scorer or TimedScorer(load.times)
    executor = TimedExecutor(load.times, slow)
    held = LockStep(trees, policy, scorer) if lockstep else None

    async def one(tree: Tree) -> None:
        await grow(
            tree,
            policy=held or policy,
            executor=executor,
            scorer=held or scorer,
            config=load.search,
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
        if model_scorer is not None:
            await model_scorer.aclose()
    return Run(load, list(trees.values()), start, end, cpu_s, at.report())


def measure(load: Load) -> tuple[dict[str, float], dict[str, Run]]:
    """All results, and the runs behind them."""
    single = replace(load, search=load.search.model_copy(update={"parallel_rollouts": 1}))
    with server(load.times.batching(load.slots)) as at, prm_server(load.times) as prm:

        def run(
            load: Load, slow: float = 0.0, lockstep: bool = False, prm: str | None = None
        ) -> Run:
            return asyncio.run(searched(load, at, slow=slow, lockstep=lockstep, prm=prm))

        runs = {
            "ours": run(load),
            "ours_one": run(single),
            "lockstep": run(single, lockstep=True),
            "ours_prm": run(load, prm=prm),
            "ours_slow": run(load, SLOW),
            "lockstep_slow": run(single, SLOW, lockstep=True),
        }
    same = [to_record(tree) for tree in runs["lockstep"].trees]
    assert [to_record(tree) for tree in runs["ours_one"].trees] == same
    ours, one, slow = runs["ours"], runs["ours_one"], runs["ours_slow"]
    figures = {
        "wall_over_ideal": ours.over_ideal,
        "wall_over_ideal_one": one.over_ideal,
        "wall_over_ideal_slow_code": slow.over_ideal,
        "wall_over_ideal_prm": runs["ours_prm"].over_ideal,
        "lockstep_over_ideal": runs["lockstep"].over_ideal,
        "lockstep_over_ideal_slow_code": runs["lockstep_slow"].over_ideal,
        "lockstep_speedup": runs["lockstep"].token_s / ours.token_s,
        "lockstep_speedup_one": runs["lockstep"].token_s / one.token_s,
        "lockstep_speedup_slow_code": runs["lockstep_slow"].token_s / slow.token_s,
        "own_cpu_ms_per_node": 1000 * ours.cpu_s / ours.nodes,
        "client_cores": ours.cpu_s / ours.wall_s,
        "server_cores": ours.report.cpu_s / ours.wall_s,
        "server_cpu_ms_per_request": 1000 * ours.report.cpu_s / ours.report.requests,
    }
    for name, each in runs.items():
        figures |= each.figures(name)
    return {name: round(value, 3) for name, value in figures.items()}, runs


def picture(busy: Sequence[float]) -> str:
    """Shares of slots in use over time, one character each; darker is busier."""
    return "".join(SHADES[min(9, int(share * 10))] for share in busy)


def machine() -> dict[str, object]:
    """The machine and the versions."""
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
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--trees", type=int, default=64)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--slots", type=int, default=128, help="samples decoded at once")
    parser.add_argument("--in-flight", type=int, default=8, help="rollouts of a tree in flight")
    parser.add_argument("--scale", type=float, default=0.25, help="real seconds a modelled second")
    parser.add_argument("--prm-ms", type=float, default=150, help="a request to the reward model")
    options = parser.parse_args(arguments)
    search = SearchConfig(
        rollouts=options.rollouts, candidates=8, max_depth=8, parallel_rollouts=options.in_flight
    )
    times = Times(options.scale, prm_s=options.prm_ms / 1000)
    load = Load(options.trees, search, options.slots, times)
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
