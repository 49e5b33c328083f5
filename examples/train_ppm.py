"""Trains a process preference model in the toy world, from search to scorer.

    pip install '.[train]'
    python examples/train_ppm.py

The problems are searched with their references and curated with the paper's rules. The model is a
random Llama of about 80,000 weights. The corresponding commands are `rstar search --guided`, `rstar
curate` and `rstar train ppm`.

Printed (13 s of one core):

    340 pairs to learn from, 155 of other problems
    loss from 0.693 to 0.131 (0.693 knows nothing, 0.127 is the least)
    ranked right, of unseen problems: 89.0%
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rstar_math.config import SearchConfig
from rstar_math.ppm.scorer import LocalPPM
from rstar_math.search.mcts import grow
from rstar_math.search.tree import Tree
from rstar_math.testing import ToyWorld
from rstar_math.training.curation import Curated, SearchedProblem, curate
from rstar_math.training.preference import train_preference
from rstar_math.training.rows import PreferenceRow, rows_of
from rstar_math.training.settings import PreferenceTraining
from rstar_math.training.tiny_model import save_tiny_policy


async def same_text(answers: Sequence[str]) -> list[int]:
    """Classes of equal answers; for real answers the grader does this."""
    seen: dict[str, int] = {}
    return [seen.setdefault(answer, len(seen)) for answer in answers]


async def searched(world: ToyWorld, count: int) -> Curated:
    """Training data of the first problems of a world."""
    found = []
    for problem in world.problems(count):
        tree = Tree(problem.question)
        await grow(
            tree,
            policy=world.policy,
            executor=world.executor,
            verifier=world.verifier(problem),
            config=SearchConfig(rollouts=8),
        )
        found.append(SearchedProblem(problem, (("mcts", tree),)))
    return await curate(found, lambda question: same_text)


def pairs(seed: int, count: int) -> list[PreferenceRow]:
    """Step pairs of a world's first problems."""
    world = ToyWorld(steps=3, slip=0.0, trap=0.3, seed=seed)
    rows = rows_of(asyncio.run(searched(world, count)), "preference")
    return [PreferenceRow.model_validate(row.model_dump()) for row in rows]


async def ranked(folder: Path, rows: Sequence[PreferenceRow]) -> float:
    """The share of pairs whose preferred step gets the higher value."""
    scorer = LocalPPM.load(folder)
    chosen = await scorer.score_texts([row.prompt + row.chosen for row in rows])
    rejected = await scorer.score_texts([row.prompt + row.rejected for row in rows])
    return sum((a or 0) > (b or 0) for a, b in zip(chosen, rejected, strict=True)) / len(rows)


def main(folder: Path) -> None:
    """Search, train, and evaluate on unseen problems."""
    train, unseen = pairs(seed=0, count=40), pairs(seed=1, count=20)
    print(f"{len(train)} pairs to learn from, {len(unseen)} of other problems")
    texts = [row.prompt + row.chosen for row in train]
    base = save_tiny_policy(folder / "base", size=64, vocabulary=600, weight_std=0.1, texts=texts)
    settings = PreferenceTraining(
        learning_rate=2e-3, epochs=3, batch_size=4, micro_batch_size=4, bf16=False
    )
    report = train_preference(train, str(base), folder / "ppm", settings)
    first, last = report["first_loss"], report["last_loss"]
    print(f"loss from {first:.3f} to {last:.3f} (0.693 knows nothing, 0.127 is the least)")
    print(f"ranked right, of unseen problems: {asyncio.run(ranked(folder / 'ppm', unseen)):.1%}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
