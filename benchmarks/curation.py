"""Time of curation: from the trees of a run to solutions and pairs.

    python benchmarks/curation.py [--json] [--trees N] [--nodes N]

The trees (by default 1,000 of 500 nodes) have steps of about 200 characters and 8 children per
node; half of the answers are right. All trees are different, so no cache helps. The time excludes
the creation of the trees. It is measured for solutions and pairs (the default of `rstar curate`),
with all filters, and for all kinds of data. The time to read a tree from a run file is measured
separately.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rstar_math.runs.store import RunStore
from rstar_math.search import ROOT, Choice, Tree
from rstar_math.training.curation import (
    ALL_DATA,
    Curated,
    CurationConfig,
    Data,
    SearchedProblem,
    curate,
)
from rstar_math.types import Execution, ExecutionStatus, Problem, Question, Step, Verdict

STRICT = CurationConfig(min_q_gap=0.5, min_edit_distance=20, require_better_completion=True)
"""All filters of rStar-Math's code."""


def step(rng: random.Random, depth: int) -> Step:
    """A step of about 200 characters; one in thirty fails."""
    number = rng.randrange(10**9)
    prose = f"# The number {number} is added to what there was before, as the text asks for.\n"
    code = f"total_{depth} = {number} + {depth}\nrest = total_{depth} % 97  # keep the rest\n"
    status = ExecutionStatus.ERROR if rng.random() < 1 / 30 else ExecutionStatus.OK
    return Step(prose=prose, code=code, execution=Execution(status))


def answer(rng: random.Random) -> Step:
    """An answer step with one of a few answers."""
    said = str(rng.randrange(3))
    wording = rng.randrange(10**6)
    prose = f"By the {wording} steps above it is \\boxed{{{said}}}.\n"
    return Step(prose=prose, kind="answer", answer=said)


def grown(index: int, nodes: int) -> SearchedProblem:
    """A problem with a tree of a given number of nodes; its answers are judged and backed up."""
    rng = random.Random(index)
    question = Question(f"p{index}", "Add numbers for a long time.")
    tree = Tree(question)
    hard = rng.random()
    while len(tree) < nodes:
        at = ROOT
        while tree.nodes[at].children:
            at = rng.choice(tree.nodes[at].children)
            if tree.nodes[at].closed:
                break
        if tree.nodes[at].closed:
            continue
        depth = tree.nodes[at].depth
        for _ in range(min(8, nodes - len(tree))):
            if depth < 3 or rng.random() < 0.5:
                tree.add(at, step(rng, depth))
                continue
            end = tree.add(at, answer(rng))
            right = rng.random() < hard
            tree.nodes[end].closed = True
            tree.nodes[end].verdict = Verdict.RIGHT if right else Verdict.WRONG
            tree.backup(end, 1.0 if right else -1.0)
    return SearchedProblem(Problem(question, "1", source="bench"), (("mcts", tree),))


class Growing:
    """Yields searched problems, and counts the seconds spent on creating them."""

    def __init__(self, trees: int, nodes: int) -> None:
        self.trees, self.nodes = trees, nodes
        self.seconds = self.cpu_s = 0.0

    def __iter__(self) -> Iterator[SearchedProblem]:
        for index in range(self.trees):
            started, cpu = time.perf_counter(), time.process_time()
            one = grown(index, self.nodes)
            self.seconds += time.perf_counter() - started
            self.cpu_s += time.process_time() - cpu
            yield one


async def same_text(answers: Sequence[str]) -> list[int]:
    """An answer grouper without cost."""
    seen: dict[str, int] = {}
    return [seen.setdefault(one, len(seen)) for one in answers]


def timed(
    growing: Growing, config: CurationConfig, data: Sequence[Data]
) -> tuple[float, float, Curated]:
    """Wall time and processor time of curation alone, and its result."""
    growing.seconds = growing.cpu_s = 0.0
    started, cpu = time.perf_counter(), time.process_time()
    found = asyncio.run(curate(growing, lambda question: same_text, config, data))
    wall_s = time.perf_counter() - started - growing.seconds
    return wall_s, time.process_time() - cpu - growing.cpu_s, found


def reading(trees: int, nodes: int) -> float:
    """Mean seconds to read a tree from a run file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.rstar")
        with RunStore.open(path, {}) as store:
            for index in range(trees):
                one = grown(index, nodes)
                store.add_problems([one.problem])
                store.save("mcts", one.trees[0][1], Choice("1", None, 1.0, {"1": 1.0}))
        with RunStore.read(path) as store:
            started = time.perf_counter()
            for index in range(trees):
                store.tree(f"p{index}", "mcts")
            return (time.perf_counter() - started) / trees


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--trees", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=500)
    args = parser.parse_args()
    growing = Growing(args.trees, args.nodes)
    seconds, cpu_s, found = timed(growing, CurationConfig(), ("sft", "preference"))
    strict, _, _ = timed(growing, STRICT, ("sft", "preference"))
    everything, _, _ = timed(growing, CurationConfig(), ALL_DATA)
    figures = {
        "trees_per_s": args.trees / seconds,
        "seconds_1000_trees": 1000 * seconds / args.trees,
        "cpu_seconds_1000_trees": 1000 * cpu_s / args.trees,
        "seconds_1000_trees_all_filters": 1000 * strict / args.trees,
        "seconds_1000_trees_all_data": 1000 * everything / args.trees,
        "seconds_1000_trees_reading": 1000 * reading(min(args.trees, 50), args.nodes),
        "nodes_per_tree": args.nodes,
        "solutions": len(found.solutions),
        "pairs": len(found.pairs),
    }
    for name, value in figures.items():
        print(f"{name:32} {value:12.3f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
