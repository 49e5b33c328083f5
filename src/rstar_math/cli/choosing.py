"""Whether a preference model chooses better than votes do, on what a run has recorded."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar_math.errors import InputError

if TYPE_CHECKING:
    from rstar_math.evolution.store import RunStore
    from rstar_math.grading import Grader
    from rstar_math.protocols import Scorer, Verifier
    from rstar_math.search import Tree


async def against_votes(
    scorer: "Scorer", run_file: Path, strategy: str | None, limit: int | None
) -> dict[str, Any]:
    """The figures of `evaluation.choosing` on the first `limit` problems of a run, with the tokens
    that the scorer read. Raises `InputError` where the run has no samples to choose from."""
    from rstar_math.evaluation.choosing import choose
    from rstar_math.evolution.store import RunStore
    from rstar_math.grading import Grader
    from rstar_math.meter import metering

    async def work(store: "RunStore", name: str) -> dict[str, Any]:
        async with Grader() as grader:
            with metering() as cost:
                found = await choose(_judged(store, name, limit, grader), scorer, grader.group)
            return {
                "run": str(run_file),
                "strategy": name,
                **found.as_json(),
                "scorer_tokens": cost.scorer_tokens,
            }

    with RunStore.read(run_file) as store:
        return await work(store, _samples(store, strategy))


def _samples(store: "RunStore", strategy: str | None) -> str:
    """The strategy whose results are chosen from: the one that is named, or the only one that
    sampled whole solutions."""
    there = store.strategies()
    chains = [name for name in there if name.startswith(("sc@", "bon@"))]
    if strategy is not None and strategy in there:
        return strategy
    if strategy is None and len(chains) == 1:
        return chains[0]
    what = ", ".join(there) or "nothing"
    raise InputError(
        f"{store.path} has {what}; name one with --strategy, or sample solutions first: "
        f"rstar eval FILE --strategy sc@8 --run {store.path}."
    )


async def _judged(
    store: "RunStore", name: str, limit: int | None, grader: "Grader"
) -> "AsyncIterator[tuple[Tree, Verifier]]":
    """The trees of problems that have a reference, each with its judge."""
    done = store.done(name)
    there = [p for p in store.problems() if p.id in done and p.reference is not None]
    for problem in there[:limit]:
        assert problem.reference is not None
        yield store.tree(problem.id, name), grader.verifier(problem.reference)
