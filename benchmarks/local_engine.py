"""How busy a search keeps the embedded model: sampled tokens a second, against the bare engine.

    python benchmarks/local_engine.py [--json] [--trees 16] [--rollouts 2]

One embedded server (SmolLM2-135M, 32 streams) in one run. First a search of 16 trees with the
`laptop` preset, whose requests are written down; then the bare engine is given the very same
requests, as fast as it takes them: prompts, samples and limits are equal, only the search is gone,
and with it all waiting for programs, choices and other requests' results. `free` is the engine at
its best: 8 samples of a first step for each problem, without stop strings, so that all streams end
together. It is measured before and after, since a shared machine changes speed while it runs.
Figures:

    search_over_bare    tokens a second of the search over those of the bare engine
    search_over_free    the same over the mean of `free`
    search, bare, free_before, free_after    tokens a second
"""

import argparse
import asyncio
import json
import time
from typing import Any

from rstar_math.config import Config, load_config
from rstar_math.meter import metering
from rstar_math.models import connect
from rstar_math.models.connect import Connection
from rstar_math.protocols import Completion
from rstar_math.solver import Solver
from rstar_math.steps import GRAMMAR, few_shot_prompt
from rstar_math.types import Cost, Problem, Question

SAMPLES = 8


def problems(n: int) -> list[Problem]:
    """Word problems made here."""
    texts = [
        f"A baker makes {12 + i} rolls each hour and sells {5 + i % 4} of them each hour. "
        f"How many rolls are left after {3 + i % 5} hours?"
        for i in range(n)
    ]
    return [Problem(Question(f"rolls/{i}", text)) for i, text in enumerate(texts)]


class Noting:
    """A Completer that writes down what it is asked, and passes it on."""

    def __init__(self, model: Connection) -> None:
        self._model = model
        self.requests: list[tuple[str, dict[str, Any]]] = []

    async def complete(self, prompt: str, **options: Any) -> list[Completion]:
        """See `protocols.Completer`."""
        self.requests.append((prompt, options))
        return await self._model.complete(prompt, **options)


async def bare(model: Connection, requests: list[tuple[str, dict[str, Any]]]) -> float:
    """Tokens a second of a client that only asks, with everything asked at once."""
    started = time.monotonic()
    with metering() as cost:
        await asyncio.gather(*(model.complete(prompt, **options) for prompt, options in requests))
    return cost.sampled_tokens / (time.monotonic() - started)


def free(config: Config, asked: list[Problem]) -> list[tuple[str, dict[str, Any]]]:
    """Requests that run to the token limit."""
    how = {"max_tokens": config.policy.step_tokens, "temperature": config.policy.temperature}
    return [
        (
            few_shot_prompt(problem.question) + GRAMMAR.opening(()),
            {"n": SAMPLES, "stop": (), "seed": number, **how},
        )
        for number, problem in enumerate(asked)
    ]


async def searched(solver: Solver, asked: list[Problem]) -> tuple[float, Cost]:
    """Tokens a second of a search of all problems, and what it cost."""
    started = time.monotonic()
    costs = [found.tree.cost async for _, found in solver.map(asked)]
    total = Cost.total(costs)
    return total.sampled_tokens / (time.monotonic() - started), total


async def measure(trees: int, rollouts: int) -> dict[str, float]:
    """All figures."""
    config = load_config("laptop", [f"search.rollouts={rollouts}", f"search.trees={trees}"])
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
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--trees", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=2)
    args = parser.parse_args()
    figures = asyncio.run(measure(args.trees, args.rollouts))
    for name, value in figures.items():
        print(f"{name:20} {value:12.3f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
