"""Scaling over workers, the load of the driver, and a run of 100,000 problems.

    python benchmarks/scale.py [--json] [--part scaling|driver|store ...]
                               [--problems 100000] [--nodes 500] [--cluster ADDRESS]

scaling     The project's own `Dispatcher` over 1, 2, 4 and 8 workers in this process. Each worker
            is a `Solver` with 4 searches in flight. All use one scripted HTTP server that takes
            --delay seconds per request and has no capacity limit. Most of the time is waiting: on
            one core the part shows that driver and dispatch do not limit the workers, not that
            eight workers compute eight times as much. --cluster uses the workers of a Ray cluster.
driver      512 simulated workers deliver packed searches of --nodes nodes as fast as the driver
            accepts them: through pickle, as from another process, into a run on this disk.
store       A run of --problems problems with small trees. They are added, and the run is reopened
            at every tenth. Some searches are stored one by one and the others in batches, then they
            are summarized and merged. Reports memory, times and bytes per tree. Wall times include
            the disk's, `cpu` is our own.

The last line with --json is one object:

    efficiency_2, _4, _8          problems per second over that many times those of one worker
    scaling_cores                 cores that this process may use
    driver_trees_a_minute         finished trees that one driver accepts
    driver_ms                     its processor time per tree; driver_wall_ms includes the disk, and
                                  pack_ms is the worker's time for packing
    tree_bytes                    bytes in the run file per tree of --nodes nodes
    store_*_first, _middle, _last   with a tenth, half and nine tenths of the problems finished
    store_*                         of the whole run
"""

import argparse
import asyncio
import json
import os
import pickle
import random
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rstar_math.config import Config, load_config
from rstar_math.distributed import open_searcher
from rstar_math.distributed.dispatch import Dispatcher
from rstar_math.evaluation.metrics import summarize
from rstar_math.runs.execute import solve_problems
from rstar_math.runs.merging import merge
from rstar_math.runs.results import PackedResult, pack_result, run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search import Choice, Tree
from rstar_math.search.strategies import Strategy
from rstar_math.seeding import derive
from rstar_math.solver.local import LocalSearcher
from rstar_math.solver.solver import Solver
from rstar_math.testing import serving
from rstar_math.types import Execution, ExecutionStatus, Problem, Question, Step, Verdict

MCTS = Strategy("mcts")
FLIGHT = 4
HANDS = 512
CANDIDATES = 4
WORDS = [
    f"{a}{b}{c}" for a in "bdfgkl" for b in ("a", "en", "or", "ist") for c in ("", "ed", "ing")
]


def answer(body: Mapping[str, Any]) -> list[str]:
    """A running sum in prose, one number per step, sometimes wrong; then the answer."""
    prompt = str(body["prompt"]).rpartition("Question: ")[2]
    done = prompt.count("<step/>")
    rng = random.Random(derive(body["seed"], prompt))
    if done == 3:
        return [f"It is \\boxed{{{15 + rng.choice((0, 0, 1))}}}.\n<answer/>"] * body["n"]
    return [f"# So far {rng.randrange(30)} of {done}.\n<step/>" for _ in range(body["n"])]


def problems(count: int, start: int = 0) -> list[Problem]:
    """Additions."""
    text = "Task {}: add 3, 5 and 7, and say how it was done, step by step, in words."
    return [Problem(Question(f"p{i}", text.format(i)), "15") for i in range(start, start + count)]


class Cheap:
    """An Executor that is never called."""

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        return Execution(ExecutionStatus.OK)


class LocalHand:
    """A worker in this process."""

    def __init__(self, name: str, solver: Solver) -> None:
        self.name, self.node = name, "here"
        self._here = LocalSearcher(solver)

    def capacity(self, strategy: Strategy) -> int:
        """See `dispatch.WorkerHandle`."""
        return FLIGHT

    async def search(self, problem: Problem, strategy: Strategy, *, guided: bool) -> PackedResult:
        """See `dispatch.WorkerHandle`."""
        async for _, found in self._here.iter_results([problem], strategy, guided=guided):
            return found
        raise AssertionError


def config(url: str) -> Config:
    """The search settings for the scripted server."""
    settings = ["search.rollouts=2", f"search.candidates={CANDIDATES}", "grading.workers=1"]
    settings += ["policy.prompt=trained", f"search.parallel_problems={FLIGHT}", "sandbox.workers=1"]
    return load_config(None, settings, model=url)


async def scaled(workers: int, count: int, url: str, run: Path) -> float:
    """Seconds that a number of workers in this process take for a number of problems."""
    how = config(url)
    solvers = [Solver(how, executor=Cheap()) for _ in range(workers)]
    dispatcher = Dispatcher()
    for number, solver in enumerate(solvers):
        await solver.__aenter__()
        await solver.judge("1", "1")
        dispatcher.add_worker(LocalHand(f"w{number}", solver))
    try:
        with RunStore.open(run, run_conditions(how, guided=False)) as store:
            store.add_problems(problems(count))
            began = time.monotonic()
            async for _, one in dispatcher.iter_results(problems(count), MCTS, guided=False):
                store.save_packed(one)
            return time.monotonic() - began
    finally:
        for solver in solvers:
            await solver.__aexit__(None, None, None)


def scaling(folder: Path, delay: float) -> dict[str, float]:
    """Problems per second by number of workers."""
    found: dict[str, float] = {"scaling_cores": len(os.sched_getaffinity(0))}
    rates: dict[int, float] = {}
    with serving(answer, delay_s=delay) as fake:
        for workers in (1, 2, 4, 8):
            run, count = folder / f"scaling-{workers}", 2 * FLIGHT * workers
            seconds = asyncio.run(scaled(workers, count, fake.url, run))
            rates[workers] = count / seconds
            found[f"efficiency_{workers}"] = round(rates[workers] / rates[1] / workers, 3)
            note(f"{workers} workers: {rates[workers]:.2f} problems/s")
    return found


async def on_ray(address: str, delay: float, folder: Path) -> dict[str, float]:
    """Problems per second of the workers of a Ray cluster."""
    count = 64
    with serving(answer, delay_s=delay) as fake:
        how = config(fake.url)
        async with open_searcher(how, address) as searchers:
            with RunStore.open(folder / "ray", run_conditions(how, guided=False)) as store:
                store.add_problems(problems(count))
                began = time.monotonic()
                await solve_problems(searchers, store, MCTS, problems(count))
                return {"ray_problems_a_second": round(count / (time.monotonic() - began), 2)}


def big_tree(question: Question, nodes: int, seed: int) -> Tree:
    """A tree of realistic size: steps of about 250 characters with output.

    Its words repeat less than a model's (a real run takes 35 to 60 bytes per node).
    """
    rng = random.Random(seed)
    tree = Tree(question)
    ran = Execution(ExecutionStatus.OK, stdout="12\n")
    for number in range(nodes):
        value, rest = rng.randrange(10**9), rng.randrange(97)
        prose = f"# {' '.join(rng.choices(WORDS, k=14))} {value}.\n"
        code = (
            f"total_{rest} = {value} + {number}\nrest = total_{rest} % {rest + 2}  # what stays\n"
        )
        step = Step(prose=prose, code=code, kind="code", execution=ran)
        tree.add(max(0, number // 8 - 1), step)
        tree.backup(len(tree) - 1, rng.choice((-1.0, 1.0)))
    tree.rollouts = 16
    tree.cost.sampled_tokens, tree.cost.calls = 60 * nodes, nodes // 8
    return tree


class Ready:
    """A simulated worker that delivers finished, pickled searches."""

    def __init__(self, name: str, searches: Sequence[bytes]) -> None:
        self.name, self.node = name, "simulated"
        self._searches = searches

    def capacity(self, strategy: Strategy) -> int:
        """See `dispatch.WorkerHandle`."""
        return 2 * FLIGHT

    async def search(self, problem: Problem, strategy: Strategy, *, guided: bool) -> PackedResult:
        """See `dispatch.WorkerHandle`."""
        await asyncio.sleep(0)
        number = int(problem.id[1:])
        found: PackedResult = pickle.loads(self._searches[number])
        return found


async def driven(searches: list[bytes], store: RunStore) -> tuple[float, float]:
    """Wall and processor seconds of the driver for a number of finished searches."""
    dispatcher = Dispatcher()
    for number in range(HANDS):
        dispatcher.add_worker(Ready(f"w{number}", searches))
    wall, cpu = time.monotonic(), time.process_time()
    async for _, one in dispatcher.iter_results(problems(len(searches)), MCTS, guided=False):
        store.save_packed(one)
    return time.monotonic() - wall, time.process_time() - cpu


def driver(folder: Path, nodes: int, count: int = 2000) -> dict[str, float]:
    """The load of the driver."""
    given = problems(count)
    kinds = [big_tree(given[0].question, nodes, seed) for seed in range(8)]
    began = time.process_time()
    searches = []
    for problem in given:
        tree = kinds[len(searches) % len(kinds)]
        tree.question = problem.question
        one = pack_result("mcts", tree, Choice("7", 1, 1.0, {"7": 3.0}), Verdict.RIGHT)
        searches.append(pickle.dumps(one))
    pack = (time.process_time() - began) / count
    path = folder / "driver"
    with RunStore.open(path, {"x": 1}) as store:
        store.add_problems(given)
        before = path.stat().st_size
        wall, cpu = asyncio.run(driven(searches, store))
    note(f"driver: {60 * count / wall:.0f} trees a minute")
    return {
        "driver_trees_a_minute": round(60 * count / wall),
        "driver_ms": round(1000 * cpu / count, 3),
        "driver_wall_ms": round(1000 * wall / count, 3),
        "pack_ms": round(1000 * pack, 2),
        "tree_nodes": nodes,
        "tree_bytes": round((path.stat().st_size - before) / count),
        "pickled_bytes": round(sum(map(len, searches)) / count),
    }


def memory() -> float:
    """Resident memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


APPENDS = 50
"""Number of searches stored one by one at each tenth; the others are stored as in a merge."""


def store(folder: Path, count: int, nodes: int) -> dict[str, float]:
    """A run of many problems with small trees, so that the disk is not the limit."""
    path = folder / "store"
    found: dict[str, float] = {"store_problems": count}
    given = problems(count)
    began = time.monotonic()
    with RunStore.open(path, {"x": 1}) as run:
        run.add_problems(given)
    found["store_add_s"] = round(time.monotonic() - began, 2)
    shuffled = random.Random(1).sample(given, count)
    for part in range(10):
        batch = shuffled[part * count // 10 : (part + 1) * count // 10]
        figures = tenth(path, batch, nodes, given[:100])
        if part in (1, 5, 9):
            name = {1: "first", 5: "middle", 9: "last"}[part]
            found |= {f"store_{key}_{name}": value for key, value in figures.items()}
        note(f"store: {(part + 1) * count // 10} of {count}")
    found["store_bytes_a_tree"] = round(path.stat().st_size / count)
    with RunStore.read(path) as run:
        before, began = memory(), time.monotonic()
        assert summarize("mcts", run.results("mcts")).problems == count
        found["store_summary_s"] = round(time.monotonic() - began, 2)
        found["store_summary_memory_mb"] = round(memory() - before, 1)
    before, began = memory(), time.monotonic()
    merge(folder / "merged", [path])
    found["store_merge_s"] = round(time.monotonic() - began, 2)
    found["store_merge_memory_mb"] = round(memory() - before, 1)
    return found


def tenth(
    path: Path, batch: Sequence[Problem], nodes: int, begun: Sequence[Problem]
) -> dict[str, float]:
    """Reopen a run and add a tenth of its searches; returns the times."""
    small = big_tree(batch[0].question, nodes, 0)
    choice = Choice("7", 1, 1.0, {"7": 3.0})
    row = pack_result("mcts", small, choice, Verdict.RIGHT).row()
    began, cpu = time.monotonic(), time.process_time()
    with RunStore.open(path, {"x": 1}) as run:
        run.add_problems(begun)
        done = len(run.done("mcts"))
        resume, resume_cpu = time.monotonic() - began, time.process_time() - cpu
        began, cpu = time.monotonic(), time.process_time()
        for problem in batch[:APPENDS]:
            small.question = problem.question
            run.save("mcts", small, choice, Verdict.RIGHT)
        append, append_cpu = time.monotonic() - began, time.process_time() - cpu
        for start in range(APPENDS, len(batch), 500):
            run.import_rows([(problem.id, *row[1:]) for problem in batch[start : start + 500]])
        return {
            "done": done,
            "resume_ms": round(1000 * resume, 1),
            "resume_cpu_ms": round(1000 * resume_cpu, 1),
            "append_ms": round(1000 * append / APPENDS, 3),
            "append_cpu_ms": round(1000 * append_cpu / APPENDS, 3),
            "memory_mb": round(memory(), 1),
        }


def note(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", action="append", default=None)
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--delay", type=float, default=0.75)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--cluster", default=None)
    args = parser.parse_args()
    parts = args.part or ["scaling", "driver", "store"]
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="rstar-scale-", dir=args.folder) as name:
        folder = Path(name)
        if "scaling" in parts:
            found |= scaling(folder, args.delay)
        if args.cluster is not None:
            found |= asyncio.run(on_ray(args.cluster, args.delay, folder))
        if "driver" in parts:
            found |= driver(folder, args.nodes)
        if "store" in parts:
            found |= store(folder, args.problems, nodes=20)
    for key, value in found.items():
        print(f"{key:30} {value}")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
