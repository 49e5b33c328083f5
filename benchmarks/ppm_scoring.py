"""Cost of scoring with a preference model in a search, compared with scoring whole prefixes.

    python benchmarks/ppm_scoring.py [--json] [--base MODEL] [--problems N] [--plain N]

N problems (default 4) are searched concurrently. In each of 5 layers, 6 steps of about 30 tokens
are scored together, and the search continues from one of them. The same trees are scored in this
process (transformers with the shared prefix cache) and by llama.cpp with the same weights as a q8_0
file (its prompt cache, no torch). The first one is also scored with llama.cpp's embeddings, which
do not use a prompt cache. The plain side scores single prefixes, as a classification head does;
`over_plain` is the ratio of nodes per second. The results include the computed tokens over the
added tokens. The head is untrained, because only the agreement of values matters
(`largest_difference`; `llama_cpp_difference` is the effect of 8-bit weights).
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.checkpoints.value_heads import ValueHead
from rstar_math.costs import track_cost
from rstar_math.llm.local import EngineSettings, engine_client, start_llama_cpp
from rstar_math.ppm.remote import EmbeddingBackend, OpenScorer, RemotePPM
from rstar_math.ppm.scorer import LocalPPM
from rstar_math.prompts.templates import prompt_text, solution_text
from rstar_math.types import Question, Step

LAYERS, CHILDREN = 5, 6
Node = tuple[Question, tuple[Step, ...]]


def question(number: int) -> Question:
    """A question of about 60 tokens."""
    rng = random.Random(number)
    text = " ".join(f"On day {i} Ada buys {rng.randint(2, 90)} clips." for i in range(1, 6))
    return Question(str(number), f"{text} How many clips has Ada?")


def child(rng: random.Random, layer: int) -> Step:
    """A step of about 30 tokens."""
    number = rng.randint(2, 90)
    return Step(
        prose=f"# On day {layer + 1} Ada buys {number} clips, which we add to the total.\n",
        code=f"total_{layer} = {f'total_{layer - 1}' if layer else 0} + {number}\n",
    )


async def grown(scorer: OpenScorer, number: int) -> list[tuple[Node, float]]:
    """The scored nodes of one search. The path does not depend on their values."""
    asked, prefix, rng = question(number), tuple[Step, ...](), random.Random(number)
    nodes: list[tuple[Node, float]] = []
    for layer in range(LAYERS):
        children = [(*prefix, child(rng, layer)) for _ in range(CHILDREN)]
        values = await scorer.score(asked, children)
        nodes += [((asked, one), value) for one, value in zip(children, values, strict=True)]
        prefix = rng.choice(children)
    return nodes


async def searched(scorer: OpenScorer, problems: int) -> tuple[dict[Node, float], int, float]:
    """The values of all nodes of concurrent searches, the computed tokens and the seconds.

    A question is scored first as a warm-up. Closes the scorer.
    """
    try:
        await scorer.score(question(-1), [(child(random.Random(0), 0),)])
        with track_cost() as cost:
            started = time.perf_counter()
            trees = await asyncio.gather(*(grown(scorer, n) for n in range(problems)))
            seconds = time.perf_counter() - started
        return {node: value for tree in trees for node, value in tree}, cost.scorer_tokens, seconds
    finally:
        await scorer.aclose()


def embedding(file: Path) -> RemotePPM:
    """The scorer on llama.cpp's embeddings."""
    server = start_llama_cpp(file, EngineSettings(slots=8, context_tokens=1024, embeddings=True))
    http = engine_client(server, file.stem, 32)
    reader = EmbeddingBackend(http, ValueHead.load(file))
    return RemotePPM(reader, http, max_tokens=1000, server=server)


def apart(model: Any, tokenizer: Any, nodes: Sequence[Node]) -> tuple[list[float], float]:
    """Values of nodes that are each computed from the beginning, and seconds per node."""
    import torch

    from rstar_math.models.loading import value_from_score

    values, started = [], time.perf_counter()
    for asked, steps in nodes:
        text = prompt_text(asked) + solution_text(steps)
        with torch.inference_mode():
            raw = model(**tokenizer(text, return_tensors="pt")).logits[0, 0]
        values.append(float(value_from_score(raw)))
    return values, (time.perf_counter() - started) / len(nodes)


def measure(base: str, problems: int, plain: int) -> dict[str, float]:
    """All results."""
    import torch

    from rstar_math.models.loading import backbone_of, load_value_model
    from rstar_math.training.trainer import set_malloc_limits

    set_malloc_limits()
    model, tokenizer = load_value_model(base, fresh=True)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.score.weight, std=0.02)

    def tokens(asked: Question, prefix: tuple[Step, ...]) -> int:
        return len(tokenizer(prompt_text(asked) + solution_text(prefix)).input_ids)

    def added(nodes: dict[Node, float]) -> int:
        """Number of tokens that the nodes add, including their questions."""
        new = sum(tokens(asked, one) - tokens(asked, one[:-1]) for asked, one in nodes)
        return new + sum(tokens(asked, ()) for asked in {asked for asked, _ in nodes})

    scorer = LocalPPM(backbone_of(model), model.score, tokenizer)
    nodes, run, seconds = asyncio.run(searched(scorer, problems))
    own = added(nodes)
    some = random.Random(0).sample(list(nodes), min(plain, len(nodes)))
    values, plain_s = apart(model, tokenizer, some)
    figures = {
        "nodes": len(nodes),
        "own_tokens_per_node": own / len(nodes),
        "run_over_own": run / own,
        "nodes_per_s": len(nodes) / seconds,
        "plain_nodes_per_s": 1 / plain_s,
        "over_plain": plain_s * len(nodes) / seconds,
        "largest_difference": max(
            abs(nodes[node] - value) for node, value in zip(some, values, strict=True)
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/ppm")
        tokenizer.save_pretrained(f"{folder}/ppm")
        file = write_gguf(Path(folder) / "ppm", Path(folder) / "ppm.gguf")
        for name, served, most in (
            ("llama_cpp", RemotePPM.load, problems),
            ("embeddings", embedding, 1),
        ):
            found, run, seconds = asyncio.run(searched(served(file), most))
            figures |= {
                f"{name}_run_over_own": run / added(found),
                f"{name}_nodes_per_s": len(found) / seconds,
                f"{name}_difference": max(abs(found[node] - nodes[node]) for node in found),
            }
    return figures


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--base", default="local")
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--plain", type=int, default=12, help="nodes that the plain side scores")
    args = parser.parse_args()
    figures = measure(args.base, args.problems, args.plain)
    for name, figure in figures.items():
        print(f"{name:24} {figure:12.4f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
