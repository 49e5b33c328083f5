"""Cost of a tree: our own processor time per node, memory, and the time to save and load it.

    python benchmarks/tree.py [--json] [--nodes N]

`grow` runs with a policy and an executor of almost no cost until the tree has N nodes (by default
100,000), in three settings: plain, with a scorer, and with 16 rollouts in flight. Steps have about
200 characters, as real ones do. Processor time is that of the process minus that of the policy
alone. Memory is what Python allocates for the tree (tracemalloc, in a separate run), for 100,000
nodes. Saving includes record, JSON, zlib and the write to a new run file; loading ends with a tree.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

from rstar_math.config import SearchConfig
from rstar_math.runs.store import RunStore
from rstar_math.search import Choice, Tree, grow
from rstar_math.types import Execution, ExecutionStatus, Problem, Question, Step

QUESTION = Question("big", "Add numbers for a long time.")
DEPTH = 16


class Prolific:
    """A policy that always proposes 8 new steps, and sometimes an answer."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`."""
        started = time.process_time()
        rng = random.Random(seed)
        if prefix and (prefix[-1].kind == "code" or len(prefix) == DEPTH - 1):
            steps = [
                Step(prose=f"It is \\boxed{{{rng.randrange(50)}}}.\n", kind="answer", answer="7")
                for _ in range(2)
            ]
        else:
            steps = [self.step(rng, len(prefix)) for _ in range(k)]
        self.seconds += time.process_time() - started
        return steps

    def step(self, rng: random.Random, depth: int) -> Step:
        """One step of about 200 characters."""
        number = rng.randrange(10**9)
        prose = f"# The number {number} is added to what there was before, as the text asks for.\n"
        code = f"total_{depth} = {number} + {depth}\nrest = total_{depth} % 97  # keep the rest\n"
        return Step(prose=prose, code=code, kind="code" if rng.random() < 0.05 else "step")


class Instant:
    """An executor that runs nothing."""

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        return Execution(ExecutionStatus.OK, "12\n" if step.kind == "code" else "")


class Guessing:
    """A scorer with constant cost."""

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`."""
        return [(hash(prefix[-1].code) % 1000) / 500 - 1 for prefix in prefixes]


async def grown(nodes: int, *, scored: bool, in_flight: int) -> tuple[Tree, float]:
    """A tree of at least this many nodes, and our processor seconds for it."""
    tree, policy = Tree(QUESTION), Prolific()
    config = SearchConfig(rollouts=64, candidates=8, max_depth=DEPTH, parallel_rollouts=in_flight)
    started = time.process_time()
    while len(tree) < nodes:
        await grow(
            tree,
            policy=policy,
            executor=Instant(),
            scorer=Guessing() if scored else None,
            config=config,
        )
    return tree, time.process_time() - started - policy.seconds


def kept(tree: Tree) -> dict[str, float]:
    """The seconds to save a tree to a run file and to load it, and the size of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "big.rstar")
        with RunStore.open(path, {}) as store:
            store.add_problems([Problem(QUESTION, "7")])
            started = time.perf_counter()
            store.save("mcts", tree, Choice("7", None, 1.0, {"7": 1.0}), None)
            saving = time.perf_counter() - started
        with RunStore.read(path) as store:
            started = time.perf_counter()
            loaded = store.tree(QUESTION.id, "mcts")
            loading = time.perf_counter() - started
        assert len(loaded) == len(tree)
        return {"save_s": saving, "load_s": loading, "file_mb": path.stat().st_size / 1e6}


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--nodes", type=int, default=100_000)
    args = parser.parse_args()
    nodes = args.nodes
    figures: dict[str, float] = {}
    tree = Tree(QUESTION)
    for name, scored, in_flight in (("plain", False, 1), ("scored", True, 1), ("flying", True, 16)):
        tree, seconds = asyncio.run(grown(nodes, scored=scored, in_flight=in_flight))
        figures[f"cpu_ms_per_node_{name}"] = 1000 * seconds / len(tree)
    figures["nodes"] = len(tree)
    figures |= kept(tree)
    del tree
    tracemalloc.start()
    tree, _ = asyncio.run(grown(nodes, scored=True, in_flight=1))
    figures["memory_mb"] = tracemalloc.get_traced_memory()[0] / 1e6 * 100_000 / len(tree)
    for name, value in figures.items():
        print(f"{name:24} {value:12.3f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
