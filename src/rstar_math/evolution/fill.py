"""From problems to results in a run: the loop that `rstar search` and `rstar eval` share."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from rstar_math.config import Config
from rstar_math.config.servers import VLLM
from rstar_math.evolution.store import RunStore
from rstar_math.search.strategy import WORDS, Strategy
from rstar_math.solver import Solution, Solver
from rstar_math.steps.actions import family
from rstar_math.types import Problem, Verdict

OnDone = Callable[[Problem, Solution, Verdict | None], None]

_CONNECTION = {"url", "api_key_env", "concurrency", "timeout_s", "retries", "affinity"}
_FREE = {
    "model": _CONNECTION,
    "discriminator": _CONNECTION,
    "search": {"trees", "strategy"},
    "sandbox": {"workers"},
    "grading": {"workers"},
    "servers": {"command", "machine", "replicas", "gpus", "ppm_gpus", "start_s", "logs"},
}
"""Options that change how fast a run goes and not what it finds."""


def conditions(config: Config, *, guided: bool) -> dict[str, Any]:
    """What a run's results depend on, as flat `section.key` entries: a run goes on only where
    these are equal."""
    flat: dict[str, Any] = {"guided": guided}
    for section, values in config.model_dump(mode="json").items():
        for key, value in values.items():
            if key not in _FREE.get(section, set()):
                flat[f"{section}.{key}"] = value
    if config.model.embedded:
        flat["model.name"] = config.model.url
    elif config.model.url.startswith(VLLM):
        flat["model.name"] = " ".join(filter(None, (config.model.url, config.model.name)))
    second = config.discriminator.url
    placed = config.discriminator.embedded or second.startswith(VLLM)
    if second != "same" and placed and second != config.model.url:
        flat["discriminator.url"] = second
    return flat


def default_conditions() -> dict[str, Any]:
    """The conditions of a run whose file names none: those of options that were added later."""
    return conditions(Config(), guided=False)


async def fill(
    solver: Solver,
    store: RunStore,
    strategy: Strategy,
    problems: Iterable[Problem],
    *,
    guided: bool = False,
    on_done: OnDone | None = None,
) -> None:
    """Solve those of the run's problems that the strategy has not finished, keeping each result.

    Killed at any moment, a second call does what is left. The reference answer is used after a
    search to judge the choice, and in it only where `guided`. Raises the first `RstarError`,
    results before it kept.
    """
    if solver.model_name is not None:
        store.pin("model", solver.model_name)
    if strategy.kind in ("rstar", "peer") and solver.discriminator_name is not None:
        store.pin("discriminator", solver.discriminator_name)
    if strategy.kind in WORDS:
        store.pin("prompts", family(solver.config.actions.family).digest)
    store.note("libraries", json.dumps(solver.library_versions()))
    done = store.done(strategy.name)
    todo = [problem for problem in problems if problem.id not in done]
    found = solver.map(todo, strategy, guided=guided)
    try:
        async for problem, solution in found:
            verdict = None
            if problem.reference is not None:
                verdict = await solver.judge(solution.answer, problem.reference)
            store.put(strategy.name, solution.tree, solution.choice, verdict)
            if on_done is not None:
                on_done(problem, solution, verdict)
    finally:
        await found.aclose()
