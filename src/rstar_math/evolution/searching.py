"""The searches of a round: its problems once, then those that no path solved with more rollouts and
new seeds (rStar-Math, arXiv:2501.04519, section 3.4)."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rstar_math.cluster import searching
from rstar_math.config import Config
from rstar_math.errors import StoreError
from rstar_math.evolution.fill import conditions, default_conditions, fill
from rstar_math.evolution.journal import Facts
from rstar_math.evolution.packing import Packed, is_solved
from rstar_math.evolution.store import RunStore
from rstar_math.problems.difficulty import THRESHOLDS, UNSOLVED, label, of_tree
from rstar_math.search.record import CIRCUMSTANCES
from rstar_math.search.strategy import Strategy
from rstar_math.training.curation import Searched
from rstar_math.types import Cost, Problem

OnProblem = Callable[[Problem, Packed], None]


async def search(
    path: Path,
    problems: Sequence[Problem],
    strategies: Sequence[Strategy],
    config: Config,
    *,
    made_by: dict[str, str],
    guided: bool = False,
    on_done: OnProblem | None = None,
    cluster: str | None = None,
) -> None:
    """Search problems into a run, or do what is left of it. `made_by` names the models by what they
    are (hashes), since their places may move; `cluster` says whose workers search, by default this
    process. Raises the first `RstarError`."""
    how = conditions(config, guided=guided) | {"model.name": None, "search.ppm": None} | made_by
    with RunStore.open(path, how, default_conditions()) as store:
        store.add_problems(problems)
        wanted = {problem.id for problem in problems}
        if all(wanted <= store.done(s.name) for s in strategies):
            return
        async with searching(config, cluster) as searchers:
            for strategy in strategies:
                await fill(searchers, store, strategy, problems, guided=guided, on_done=on_done)


def finished_in(path: Path, strategy: Strategy) -> set[str]:
    """Ids of the problems that a strategy has finished in a run, which need not be there yet; of
    one that was only just begun, or is damaged, none: whoever opens it next is told."""
    if path.is_file():
        with suppress(StoreError), RunStore.read(path) as store:
            return store.done(strategy.name)
    return set()


def solved_in(path: Path) -> dict[str, bool]:
    """For each searched problem of a run whether any path solved it."""
    found: dict[str, bool] = {}
    with RunStore.read(path) as store:
        for name in store.strategies():
            for result in store.results(name):
                solved = is_solved(store.tree(result.problem, name))
                found[result.problem] = found.get(result.problem, False) or solved
    return found


def by_success(path: Path) -> dict[str, int]:
    """How many of a guided run's problems are easy, medium, hard and unsolved for the policy, by
    how likely it is to come to the reference (`problems.difficulty`)."""
    found = dict.fromkeys((*(name for _, name in THRESHOLDS), UNSOLVED), 0)
    with RunStore.read(path) as store:
        for name in store.strategies():
            for result in store.results(name):
                success = of_tree(store.tree(result.problem, name))
                found[label(success.rate if success else 0.0)] += 1
    return found


def searched(paths: Sequence[Path]) -> Iterator[Searched]:
    """The problems of several runs, each once, with the trees of all of them; the trees of the nth
    run (from 2) are named `STRATEGY/n`."""
    stores = [RunStore.read(path) for path in paths]
    try:
        names = [[(name, store.done(name)) for name in store.strategies()] for store in stores]
        for problem in stores[0].problems():
            trees = tuple(
                (name if number == 1 else f"{name}/{number}", store.tree(problem.id, name))
                for number, store in enumerate(stores, 1)
                for name, done in names[number - 1]
                if problem.id in done
            )
            if trees:
                yield Searched(problem, trees)
    finally:
        for store in stores:
            store.close()


def account(path: Path) -> Facts:
    """What a run came to: counts, cost without the clock, and a hash of its problems and trees."""
    costs: list[Cost] = []
    failures: Counter[str] = Counter()
    with RunStore.read(path) as store:
        for name in store.strategies():
            for result in store.results(name):
                costs.append(result.cost)
                failures.update(result.failures)
        digest = store.digest()
    return {
        "searches": len(costs),
        "cost": of_the_search(Cost.total(costs)),
        "failures": dict(sorted(failures.items())),
        "digest": digest,
    }


def of_the_search(cost: Cost) -> dict[str, float]:
    """The parts of a cost that say what a search did, and not how its servers fared."""
    parts = asdict(cost)
    return {k: v for k, v in parts.items() if v and k not in CIRCUMSTANCES}
