"""What scoring by a preference model costs in a search: tokens run for a new node over the tokens
it adds, and time against running each prefix from its beginning.

    python benchmarks/ppm_scoring.py [--json] [--base MODEL] [--problems N] [--plain N]

N problems (by default 4) are searched at once: in each of 5 layers 6 steps of some 30 tokens are
scored together, and the search goes on from one of them. The plain side scores the last layers'
prefixes one by one, as a classification head does; `over_plain` is the ratio of nodes a second. The
head is untrained: values do not matter here, only that both sides agree (`largest_difference`).
"""

import argparse
import asyncio
import json
import random
import time

from rstar_math.meter import metering
from rstar_math.models.preference import PreferenceModel
from rstar_math.training.texts import prompt_text, solution_text
from rstar_math.types import Question, Step

LAYERS, CHILDREN = 5, 6


def question(number: int) -> Question:
    """A question of some 60 tokens."""
    rng = random.Random(number)
    text = " ".join(f"On day {i} Ada buys {rng.randint(2, 90)} clips." for i in range(1, 6))
    return Question(str(number), f"{text} How many clips has Ada?")


def child(rng: random.Random, layer: int) -> Step:
    """A step of some 30 tokens."""
    number = rng.randint(2, 90)
    return Step(
        prose=f"# On day {layer + 1} Ada buys {number} clips, which we add to the total.\n",
        code=f"total_{layer} = {f'total_{layer - 1}' if layer else 0} + {number}\n",
    )


async def grown(
    scorer: PreferenceModel, number: int
) -> list[tuple[Question, tuple[Step, ...], float]]:
    """The scored nodes of one search."""
    asked, prefix, rng = question(number), tuple[Step, ...](), random.Random(number)
    nodes = []
    for layer in range(LAYERS):
        children = [(*prefix, child(rng, layer)) for _ in range(CHILDREN)]
        values = await scorer.score(asked, children)
        nodes += [(asked, one, value) for one, value in zip(children, values, strict=True)]
        prefix = children[values.index(max(values))]
    return nodes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--base", default="local")
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--plain", type=int, default=12, help="nodes that the plain side scores")
    args = parser.parse_args()

    import torch

    from rstar_math.models.heads import backbone_of, load_scored, squash
    from rstar_math.training.process import keep_memory

    keep_memory()
    model, tokenizer = load_scored(args.base, fresh=True)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.score.weight, std=0.02)
    scorer = PreferenceModel(backbone_of(model), model.score, tokenizer)

    async def search() -> list[tuple[Question, tuple[Step, ...], float]]:
        trees = await asyncio.gather(*(grown(scorer, n) for n in range(args.problems)))
        return [node for tree in trees for node in tree]

    def tokens(asked: Question, prefix: tuple[Step, ...]) -> int:
        return len(tokenizer(prompt_text(asked) + solution_text(prefix)).input_ids)

    asyncio.run(grown(scorer, -1))
    with metering() as cost:
        started = time.perf_counter()
        nodes = asyncio.run(search())
        seconds = time.perf_counter() - started
    own = sum(tokens(asked, one) - tokens(asked, one[:-1]) for asked, one, _ in nodes)
    own += sum(tokens(question(n), ()) for n in range(args.problems))
    rng = random.Random(0)
    some = rng.sample(nodes, min(args.plain, len(nodes)))
    worst, started = 0.0, time.perf_counter()
    for asked, one, value in some:
        text = prompt_text(asked) + solution_text(one)
        with torch.inference_mode():
            raw = model(**tokenizer(text, return_tensors="pt")).logits[0, 0]
        worst = max(worst, abs(float(squash(raw)) - value))
    plain = (time.perf_counter() - started) / len(some)
    figures = {
        "nodes": len(nodes),
        "own_tokens_per_node": own / len(nodes),
        "run_over_own": cost.scorer_tokens / own,
        "nodes_per_s": len(nodes) / seconds,
        "plain_nodes_per_s": 1 / plain,
        "over_plain": plain * len(nodes) / seconds,
        "largest_difference": worst,
    }
    for name, figure in figures.items():
        print(f"{name:24} {figure:12.4f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
