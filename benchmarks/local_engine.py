"""Speed of a search with the embedded model, compared with the bare engine.

    python benchmarks/local_engine.py [--json] [--trees 16] [--rollouts 2] [--strategy mcts]
    python benchmarks/local_engine.py --prefixes ...    (only the last two results)

One embedded model (SmolLM2-135M, 32 streams) serves all parts. First, a search of 16 trees with
the `laptop` preset runs, and its requests are recorded. Then the bare engine processes the same
requests as fast as it can: the prompts, samples and limits are equal, but nothing waits for
programs, selection or other results. `free` is the maximum speed of the engine: 8 samples of a
first step per problem without stop strings, so that all streams end together. It is measured before
and after, because the speed of a shared machine changes. Results:

    search_over_bare    tokens per second of the search over those of the bare engine
    search_over_free    the same over the mean of `free`
    search, bare, free_before, free_after    tokens per second
    prompt_tokens_computed_over_distinct    prompt tokens computed by the engine in the search over
        the nodes of the trie of all prompts; 1 is ideal
    first_answer_s    seconds from the start of the search to its first sample, with an empty cache

`--prefixes` measures the last two on a new engine.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from rstar_math.config import Config, load_config
from rstar_math.costs import track_cost
from rstar_math.llm.connect import Connection, connect
from rstar_math.llm.local import LocalModel
from rstar_math.prompts import TAGS, few_shot_prompt
from rstar_math.protocols import Completion
from rstar_math.search.strategies import parse_strategies
from rstar_math.solver.solver import Solver
from rstar_math.types import Cost, Problem, Question

SAMPLES = 8
_COMPUTED = "llamacpp:prompt_tokens_total "


def problems(n: int) -> list[Problem]:
    """Generated word problems."""
    texts = [
        f"A baker makes {12 + i} rolls each hour and sells {5 + i % 4} of them each hour. "
        f"How many rolls are left after {3 + i % 5} hours?"
        for i in range(n)
    ]
    return [Problem(Question(f"rolls/{i}", text)) for i, text in enumerate(texts)]


class Noting:
    """A Completer that records its requests and passes them on."""

    def __init__(self, model: Connection) -> None:
        self._model = model
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.first_s: float | None = None
        """Time of the first answer (`time.monotonic`)."""

    async def complete(self, prompt: str, **options: Any) -> list[Completion]:
        """See `protocols.Completer`."""
        self.requests.append((prompt, options))
        found = await self._model.complete(prompt, **options)
        self.first_s = self.first_s or time.monotonic()
        return found


def computed(model: LocalModel) -> int:
    """Number of prompt tokens that the engine has computed so far."""
    lines = model.server.handle_metrics().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(_COMPUTED))


async def distinct(model: LocalModel, prompts: Iterable[str]) -> int:
    """Number of nodes of the trie of all prompts' tokens."""
    nodes: set[bytes] = set()
    for prompt in set(prompts):
        node = b""
        for token in await model.tokenize(prompt):
            node = blake2b(node + token.to_bytes(4, "little"), digest_size=16).digest()
            nodes.add(node)
    return len(nodes)


async def bare(model: Connection, requests: list[tuple[str, dict[str, Any]]]) -> float:
    """Tokens per second of a client that sends all requests at once."""
    started = time.monotonic()
    with track_cost() as cost:
        await asyncio.gather(*(model.complete(prompt, **options) for prompt, options in requests))
    return cost.sampled_tokens / (time.monotonic() - started)


def free(config: Config, asked: list[Problem]) -> list[tuple[str, dict[str, Any]]]:
    """Requests that run to the token limit."""
    how = {"max_tokens": config.policy.max_step_tokens, "temperature": config.policy.temperature}
    return [
        (
            few_shot_prompt(problem.question) + TAGS.opening(()),
            {"n": SAMPLES, "stop": (), "seed": number, **how},
        )
        for number, problem in enumerate(asked)
    ]


async def searched(solver: Solver, asked: list[Problem]) -> tuple[float, Cost]:
    """Tokens per second of a search of all problems, and its cost."""
    started = time.monotonic()
    costs = [found.tree.cost async for _, found in solver.map(asked)]
    total = Cost.total(costs)
    return total.sampled_tokens / (time.monotonic() - started), total


async def prefixes(trees: int, rollouts: int, strategy: str, url: str) -> dict[str, float]:
    """The ratio of computed to distinct prompt tokens, and the time to the first answer."""
    config = settings(trees, rollouts, url)
    model = await connect(config.model)
    assert isinstance(model, LocalModel)
    noting, (chosen,) = Noting(model), parse_strategies(strategy)
    try:
        started = time.monotonic()
        async with Solver(config, model=noting) as solver:
            costs = [f.tree.cost async for _, f in solver.map(problems(trees), chosen)]
        ended, tokens = time.monotonic(), computed(model)
        nodes = await distinct(model, (prompt for prompt, _ in noting.requests))
    finally:
        await model.aclose()
    cost = Cost.total(costs)
    return {
        "prompt_tokens_computed_over_distinct": tokens / nodes,
        "first_answer_s": (noting.first_s or ended) - started,
        "computed": tokens,
        "distinct": nodes,
        "requests": len(noting.requests),
        "samples": cost.samples,
        "sampled_tokens": cost.sampled_tokens,
        "cached_share": cost.cached_tokens / max(1, cost.prompt_tokens),
        "wall_s": ended - started,
    }


def settings(trees: int, rollouts: int, url: str) -> Config:
    """The `laptop` preset with 32 streams, on any embedded model."""
    sizes = [f"search.rollouts={rollouts}", f"search.parallel_problems={trees}"]
    return load_config("laptop", [*sizes, f"model.url={url}"])


async def measure(trees: int, rollouts: int, url: str) -> dict[str, float]:
    """All speeds and ratios."""
    config = settings(trees, rollouts, url)
    asked = problems(trees)
    model = await connect(config.model)
    try:
        noting = Noting(model)
        async with Solver(config, model=noting) as solver:
            await bare(model, free(config, asked[:4]))
            before = await bare(model, free(config, asked))
            speed, cost = await searched(solver, asked)
        alone = await bare(model, noting.requests)
        after = await bare(model, free(config, asked))
    finally:
        await model.aclose()
    return {
        "search_over_bare": speed / alone,
        "search_over_free": 2 * speed / (before + after),
        "search": speed,
        "bare": alone,
        "free_before": before,
        "free_after": after,
        "requests": len(noting.requests),
        "sampled_tokens": cost.sampled_tokens,
        "truncated": cost.truncated,
        "samples": cost.samples,
        "cached_share": cost.cached_tokens / max(1, cost.prompt_tokens),
    }


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--trees", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=2)
    parser.add_argument("--strategy", default="mcts", help="with --prefixes: mcts, sc@8, greedy")
    parser.add_argument("--model", default="local", help="local, trained, or a .gguf file")
    parser.add_argument("--prefixes", action="store_true", help="only what is computed twice")
    args = parser.parse_args()
    shared = prefixes(args.trees, args.rollouts, args.strategy, args.model)
    figures = {} if args.prefixes else asyncio.run(measure(args.trees, args.rollouts, args.model))
    figures |= asyncio.run(shared)
    for name, value in figures.items():
        print(f"{name:38} {value:12.3f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
