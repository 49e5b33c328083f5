"""Solves the problems of a run that are not done yet, and stores each result."""

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Protocol

from rstar_math.config.sections import Config
from rstar_math.prompts.families import load_action_prompts
from rstar_math.runs.results import PackedResult
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.types import Problem

ResultCallback = Callable[[Problem, PackedResult], None]


class Searcher(Protocol):
    """Whoever searches problems: a solver in this process (`LocalSearcher`), or the workers of a
    cluster."""

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
        """How the policy's model is asked (`prompts.rendering.Renderer.description`); empty for a
        policy of one's own."""
        ...

    @property
    def servers(self) -> dict[str, Any]:
        """The replicas of those models that run on servers this process knows."""
        ...

    def library_versions(self) -> dict[str, str]:
        """Versions of what model-written code runs with."""
        ...

    def iter_results(
        self, problems: Iterable[Problem], strategy: Strategy, *, guided: bool
    ) -> AsyncGenerator[tuple[Problem, PackedResult], None]:
        """Searches as they are finished and judged; no more are begun than are asked for."""
        ...


async def solve_problems(
    searchers: Searcher,
    store: RunStore,
    strategy: Strategy,
    problems: Iterable[Problem],
    *,
    guided: bool = False,
    on_done: ResultCallback | None = None,
) -> None:
    """Solve those of the run's problems that the strategy has not finished, keeping each result.

    Killed at any moment, a second call does what is left. The reference answer is used after a
    search to judge the choice, and in it only where `guided`. Raises the first `RstarError`,
    results before it kept.
    """
    if searchers.model_name is not None:
        store.require_fact("model", searchers.model_name)
    if strategy.spec.uses_discriminator and searchers.discriminator_name is not None:
        store.require_fact("discriminator", searchers.discriminator_name)
    if strategy.spec.uses_prompt_set:
        store.require_fact(
            "prompts", load_action_prompts(searchers.config.actions.prompt_set).digest
        )
    if searchers.prompting:
        store.require_fact("prompting", json.dumps(searchers.prompting, sort_keys=True))
    store.set_default_fact("libraries", json.dumps(searchers.library_versions()))
    done = store.done(strategy.name)
    todo = (problem for problem in problems if problem.id not in done)
    found = searchers.iter_results(todo, strategy, guided=guided)
    try:
        async for problem, one in found:
            store.save_packed(one)
            if on_done is not None:
                on_done(problem, one)
    finally:
        await found.aclose()
