"""From problems to results in a run: the loop that `rstar search` and `rstar eval` share."""

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Protocol

from rstar_math.config import Config
from rstar_math.config.servers import VLLM
from rstar_math.evolution.packing import Packed, packed
from rstar_math.evolution.store import RunStore
from rstar_math.search.strategy import WORDS, Strategy
from rstar_math.solver import Solver
from rstar_math.steps.actions import family
from rstar_math.types import Problem

OnDone = Callable[[Problem, Packed], None]

_CONNECTION = {"url", "api_key_env", "concurrency", "timeout_s", "retries", "affinity"}
FREE = {
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
            if key not in FREE.get(section, set()):
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


class Searchers(Protocol):
    """Whoever searches problems: a solver in this process (`Here`), or the workers of a cluster."""

    @property
    def config(self) -> Config:
        """What is searched with."""
        ...

    @property
    def model_name(self) -> str | None:
        """The model's name as its server gives it."""
        ...

    @property
    def discriminator_name(self) -> str | None:
        """The same of the discriminator's."""
        ...

    @property
    def prompting(self) -> dict[str, str]:
        """How the policy's model is asked (`steps.rendering.Renderer.description`); empty for a
        policy of one's own."""
        ...

    @property
    def servers(self) -> dict[str, Any]:
        """The replicas of those models that run on servers this process knows."""
        ...

    def library_versions(self) -> dict[str, str]:
        """Versions of what model-written code runs with."""
        ...

    def finished(
        self, problems: Iterable[Problem], strategy: Strategy, *, guided: bool
    ) -> AsyncGenerator[tuple[Problem, Packed], None]:
        """Searches as they are finished and judged; no more are begun than are asked for."""
        ...


class Here:
    """An open solver as `Searchers`."""

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self.config = solver.config
        self.servers = solver.servers
        self.prompting = solver.prompting
        self.library_versions = solver.library_versions

    @property
    def model_name(self) -> str | None:
        """See `Searchers`."""
        return self._solver.model_name

    @property
    def discriminator_name(self) -> str | None:
        """See `Searchers`."""
        return self._solver.discriminator_name

    async def finished(
        self, problems: Iterable[Problem], strategy: Strategy, *, guided: bool
    ) -> AsyncGenerator[tuple[Problem, Packed], None]:
        """See `Searchers`. The reference answer is used after a search to judge the choice, and in
        it only where `guided`."""
        found = self._solver.map(problems, strategy, guided=guided)
        try:
            async for problem, solution in found:
                verdict = None
                if problem.reference is not None:
                    verdict = await self._solver.judge(solution.answer, problem.reference)
                yield problem, packed(strategy.name, solution.tree, solution.choice, verdict)
        finally:
            await found.aclose()


async def fill(
    searchers: Searchers,
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
    if searchers.model_name is not None:
        store.pin("model", searchers.model_name)
    if strategy.kind in ("rstar", "peer") and searchers.discriminator_name is not None:
        store.pin("discriminator", searchers.discriminator_name)
    if strategy.kind in WORDS:
        store.pin("prompts", family(searchers.config.actions.family).digest)
    if searchers.prompting:
        store.pin("prompting", json.dumps(searchers.prompting, sort_keys=True))
    store.note("libraries", json.dumps(searchers.library_versions()))
    done = store.done(strategy.name)
    todo = (problem for problem in problems if problem.id not in done)
    found = searchers.finished(todo, strategy, guided=guided)
    try:
        async for problem, one in found:
            store.keep(one)
            if on_done is not None:
                on_done(problem, one)
    finally:
        await found.aclose()
