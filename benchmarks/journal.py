"""Cost of a tree under way on disk: what the journal of a search takes, and what a kill costs.

    python benchmarks/journal.py [--json] [--rollouts N]

One search of the toy world (MCTS, 9 steps, 8 samples a node) without and with a journal (see
`rstar_math.runs.journal`), then again from the complete journal. Policy, executor and scorer cost
next to nothing, so the difference of processor times is that of the journal. A request to a real
model takes 0.1 to 10 s. The folder is a temporary one of the system.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rstar_math.config import SearchConfig
from rstar_math.runs.journal import GrowingTrees, Journal
from rstar_math.runs.recording import RecordedExecutor, RecordedScorer, record_policy
from rstar_math.search import SearchComponents, Tree, run_strategy, to_record
from rstar_math.search.strategies import Strategy
from rstar_math.testing import ToyWorld

WORLD = ToyWorld(steps=8)
QUESTION = WORLD.problems(1)[0].question


async def same_text(answers: Sequence[str]) -> list[int]:
    """Equal texts are equal answers."""
    known: dict[str, int] = {}
    return [known.setdefault(answer, len(known)) for answer in answers]


def searched(rollouts: int, journal: Journal | None) -> tuple[float, Tree]:
    """The processor seconds of a search, and its tree."""
    parts, tree = SearchComponents(WORLD.policy, WORLD.executor, WORLD.scorer()), Tree(QUESTION)
    if journal is not None:
        assert parts.scorer is not None
        parts = SearchComponents(
            record_policy(parts.policy, journal),
            RecordedExecutor(parts.executor, journal),
            RecordedScorer(parts.scorer, journal),
        )
    started = time.process_time()
    strategy = Strategy("mcts", rollouts)
    asyncio.run(run_strategy(tree, strategy, parts, SearchConfig(), group=same_text))
    return time.process_time() - started, tree


def measure(rollouts: int) -> dict[str, float]:
    """All figures."""
    searched(2, None)
    plain_s, whole = searched(rollouts, None)
    with tempfile.TemporaryDirectory(prefix="rstar-journal-") as folder:
        growing = GrowingTrees(Path(folder))
        journal = growing.open("p", "s")
        recorded_s, tree = searched(rollouts, journal)
        journal.close()
        size = growing.file("p", "s", "jsonl").stat().st_size
        journal.tree = tree
        started = time.process_time()
        growing.write_preview(journal)
        preview_s = time.process_time() - started
        started = time.process_time()
        again = growing.open("p", "s")
        replay_s, replayed = searched(rollouts, again)
        again.close()
        load_s = time.process_time() - started - replay_s
    assert to_record(whole) == to_record(tree) == to_record(replayed)
    assert again.recorded == 0
    extra_s = recorded_s - plain_s
    return {
        "rollouts": rollouts,
        "nodes": len(whole),
        "answers_recorded": journal.recorded,
        "us_per_answer": round(1e6 * extra_s / journal.recorded, 1),
        "ms_per_rollout": round(1e3 * extra_s / rollouts, 2),
        "journal_kib": round(size / 1024, 1),
        "preview_ms": round(1e3 * preview_s, 1),
        "resume_ms": round(1e3 * (load_s + replay_s), 1),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rollouts", type=int, default=64)
    options = parser.parse_args()
    figures = measure(options.rollouts)
    if not options.json:
        for name, value in figures.items():
            print(f"{name:18} {value:g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
