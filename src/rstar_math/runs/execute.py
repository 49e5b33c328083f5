"""Solves the unfinished problems of a run and stores each result."""

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Protocol

from rstar_math.config.sections import Config
from rstar_math.prompts.families import load_action_prompts
from rstar_math.runs.journal import GrowingTrees
from rstar_math.runs.results import PackedResult
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.types import Problem

ResultCallback = Callable[[Problem, PackedResult], None]
"""Receives each result after it is stored."""


class Searcher(Protocol):
    """Searches problems: a solver in this process (`LocalSearcher`), or a cluster's workers."""

    @property
    def config(self) -> Config:
        """The configuration of the searches."""
        ...

    @property
    def model_name(self) -> str | None:
        """Name of the policy's model, as reported by its server; None if unknown."""
        ...

    @property
    def discriminator_name(self) -> str | None:
        """Name of the discriminator's model, as reported by its server; None if unknown."""
        ...

    @property
    def prompting(self) -> dict[str, str]:
        """Prompt, step format and mode of the policy (`prompts.rendering.Renderer.description`);
        empty for a custom policy."""
        ...

    @property
    def servers(self) -> dict[str, Any]:
        """Replicas of the models on servers that this process connects to, by use."""
        ...

    def library_versions(self) -> dict[str, str]:
        """Return the versions of the libraries that model-written code can use."""
        ...

    def iter_results(
        self,
        problems: Iterable[Problem],
        strategy: Strategy,
        *,
        guided: bool,
        growing: GrowingTrees | None = None,
    ) -> AsyncGenerator[tuple[Problem, PackedResult], None]:
        """Solve problems concurrently, and yield each with its judged result as it finishes.

        `problems` is consumed lazily, as searches start. With `growing`, a search that was killed
        continues where it was (not on a cluster, whose workers write no files).
        """
        ...


async def solve_problems(
    searcher: Searcher,
    store: RunStore,
    strategy: Strategy,
    problems: Iterable[Problem],
    *,
    guided: bool = False,
    on_done: ResultCallback | None = None,
) -> None:
    """Solve all problems that the strategy has not finished in the run, and store each result.

    If the process is killed, a second call continues the searches that were under way, without
    repeating requests that were answered, and solves the remaining problems. A reference answer is
    used to judge the chosen answer after a search, and during the search only if `guided`. Raises
    the first `RstarError`; results before it are stored.
    """
    if searcher.model_name is not None:
        store.require_fact("model", searcher.model_name)
    if strategy.spec.uses_discriminator and searcher.discriminator_name is not None:
        store.require_fact("discriminator", searcher.discriminator_name)
    if strategy.spec.uses_prompt_set:
        store.require_fact(
            "prompts", load_action_prompts(searcher.config.actions.prompt_set).digest
        )
    if searcher.prompting:
        store.require_fact("prompting", json.dumps(searcher.prompting, sort_keys=True))
    store.set_default_fact("libraries", json.dumps(searcher.library_versions()))
    done = store.done(strategy.name)
    unfinished = (problem for problem in problems if problem.id not in done)
    growing = store.growing_trees()
    growing.discard_finished(done, strategy.name)
    results = searcher.iter_results(unfinished, strategy, guided=guided, growing=growing)
    try:
        async for problem, result in results:
            store.save_packed(result)
            if on_done is not None:
                on_done(problem, result)
    finally:
        await results.aclose()
