"""Shards from the command line, and the simulation against real runs on a scripted server."""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rstar_math.evolution.capacity import load_of, profile_of_run
from rstar_math.evolution.simulation import Engine, Machines, simulate
from rstar_math.runs.execute import solve_problems
from rstar_math.runs.results import run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.solver.solver import LocalSearcher, Solver
from rstar_math.testing import Batching, serving
from tests.e2e.rstar import rstar, write_problems
from tests.integration.test_search_faults import PROBLEMS, config
from tests.integration.test_search_faults import answer as add_up
from tests.unit.toy import DirectExecutor


def said(body: Mapping[str, Any]) -> list[str]:
    """An answer at once, right half of the time."""
    rng = random.Random(f"{body['seed']} {body['prompt']}")
    return [f"It is \\boxed{{{3 + rng.randrange(2)}}}.\n<answer/>" for _ in range(body["n"])]


def test_two_drivers_and_a_merge_come_to_one_run(tmp_path: Path) -> None:
    problems = write_problems(tmp_path, 5)
    runs = {name: tmp_path / name for name in ("1/2", "2/2", "whole")}
    runs = {name: tmp_path / name.replace("/", "-") for name in runs}
    with serving(said) as fake:
        for name, path in runs.items():
            args = ["search", problems, "--run", path, "--model", fake.url, "--json"]
            args += ["--set", "search.rollouts=2", "--set", "search.candidates=2"]
            done = rstar(*args, *(["--shard", name] if "/" in name else []))
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["problems"] == {"1/2": 3, "2/2": 2}.get(name, 5)
    out = tmp_path / "out"
    merged = rstar("merge", out, runs["2/2"], runs["1/2"], "--json")
    assert json.loads(merged.stdout) == {
        "run": str(out),
        "problems": 5,
        "results": 5,
        "added": 5,
        "twice": 0,
        "differing": 0,
    }
    with RunStore.read(out) as one, RunStore.read(runs["whole"]) as whole:
        assert one.digest() == whole.digest()
    assert rstar("merge", out, runs["whole"]).stdout.splitlines()[1].startswith("5 were there")


@pytest.mark.slow  # it measures time: a quiet machine is needed
@pytest.mark.parametrize("slots", [4, 64])
def test_the_simulation_is_right_about_a_real_search(slots: int, tmp_path: Path) -> None:
    """The same search where a server's slots hold it up, and where waiting does. Our own processor
    time is taken from the run, since it is most of what differs from machine to machine."""
    batching = Batching(slots=slots, token_s=0.01, prefill_s=0.005)

    async def once(url: str) -> tuple[float, float]:
        with RunStore.open(tmp_path / "run", run_conditions(settings, guided=False)) as store:
            store.add_problems(PROBLEMS)
            async with Solver(settings, executor=DirectExecutor()) as solver:
                await solver.judge("1", "1")
                began, cpu = time.monotonic(), time.thread_time()
                await solve_problems(LocalSearcher(solver), store, Strategy("mcts"), PROBLEMS)
                return time.monotonic() - began, time.thread_time() - cpu

    with serving(add_up, batching=batching) as fake:
        settings = config(fake)
        seconds, cpu = asyncio.run(once(fake.url))
        assert fake.slots is not None
        held = fake.slots.busy_s / len(fake.slots.spans)
    habits = profile_of_run(tmp_path / "run")
    load = load_of(habits, len(PROBLEMS), 6, 4)
    single = load.tokens / held
    nodes = load.problems * load.calls * load.samples
    machines = Machines(
        Engine(slots, single, slots * single), in_flight=4, node_ms=1000 * cpu / nodes, keep_ms=0.0
    )
    played = [simulate(load, machines, seed=seed).seconds for seed in range(10)]
    mean = sum(played) / len(played)
    print(f"{slots} slots: {seconds:.2f} s, simulated {mean:.2f} s")
    assert mean == pytest.approx(seconds, rel=0.35)
