"""Splits a search into shards and merges run files: `--shard 2/4` and `rstar merge`."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.errors import ConfigError, InputError
from rstar_math.runs.results import default_conditions
from rstar_math.runs.store import RunStore

SHARED_FACTS = ("model", "discriminator", "prompts", "prompting")
"""Facts that must be equal in runs that are merged."""
_BATCH_SIZE = 500
"""Number of results written per transaction."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a list of problems: every `count`-th problem, from `number` on."""

    number: int
    """Number of the part, from 1."""
    count: int
    """Number of parts."""

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse "I/N". Raises `ConfigError`."""
        match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
        if match is None or int(match[1]) > int(match[2]):
            raise ConfigError(f"--shard {text!r} is not I/N with I from 1 to N; for example 2/4.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def positions(self, problem_count: int) -> range:
        """Return the positions of the shard's problems in a list of this length, from 1."""
        return range(self.number, problem_count + 1, self.count)


def pin_shard(store: RunStore, shard: Shard | None) -> None:
    """Record which shard a run holds. Raises `ConfigError` if it already holds another one."""
    before = store.metadata().get("shard")
    if before == (shard and str(shard)):
        return
    if before is not None or store.strategies():
        started, resumed = (
            f"with --shard {number}" if number else "without --shard" for number in (before, shard)
        )
        raise ConfigError(
            f"{store.path} was started {started}, but is now resumed {resumed}; change it back, "
            "or give a new --run."
        )
    store.require_fact("shard", str(shard))


@dataclass(frozen=True, slots=True)
class MergeSummary:
    """Counts of a merge."""

    problems: int
    """Number of problems in OUT after the merge."""
    results: int
    """Number of results in OUT after the merge."""
    added: int
    """Number of results that the merge added."""
    duplicates: int
    """Number of results that were skipped because OUT already had them."""
    differing: int
    """Number of duplicates with a different tree; the first tree is kept."""


def merge(
    out: Path, runs: Sequence[Path], on_batch: Callable[[int], None] | None = None
) -> MergeSummary:
    """Merge the problems and results of several runs into `out`, which may exist.

    Problems of shards are restored to their positions in the whole list. Problems of other runs are
    appended, in the order of the runs. Repeating a merge, also after a kill, gives the same result.
    `on_batch` receives the number of results of each batch.

    Raises `ConfigError` if the runs were made under different conditions, and `InputError` if they
    have different problems under one id. Nothing of the conflicting run is added then.
    """
    if not runs:
        raise InputError("There is nothing to merge; give the runs after OUT.")
    if any(run.resolve() == out.resolve() for run in runs):
        raise InputError(f"{out} is both OUT and a run to merge; give OUT another name.")
    conditions = _common_conditions(out, runs)
    added = duplicates = differing = 0
    with RunStore.open(out, conditions, default_conditions()) as store:
        for path in runs:
            with RunStore.read(path) as run:
                _check_compatible(store, run)
                _merge_facts(store, run)
                _merge_problems(store, run)
                for batch in _batches(run):
                    batch_added, batch_differing = store.import_rows(batch)
                    added += batch_added
                    duplicates += len(batch) - batch_added
                    differing += batch_differing
                    if on_batch is not None:
                        on_batch(len(batch))
        results = sum(len(store.done(name)) for name in store.strategies())
        return MergeSummary(len(store.problems()), results, added, duplicates, differing)


def _common_conditions(out: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """Return the conditions of all runs, and of OUT if it has results. Writes nothing.

    Raises `ConfigError` if the conditions differ.
    """
    with RunStore.read(runs[0]) as first:
        for path in runs[1:]:
            with RunStore.read(path) as run:
                _check_compatible(first, run)
        if out.is_file() and out.stat().st_size:
            with RunStore.read(out) as existing:
                if existing.strategies():
                    _check_compatible(existing, first)
        return first.conditions()


def _check_compatible(first: RunStore, run: RunStore) -> None:
    """Raise `ConfigError` if two runs differ in their conditions or shared facts."""
    first_conditions, conditions = first.conditions(), run.conditions()
    defaults = default_conditions()
    for key in sorted(first_conditions.keys() | conditions.keys()):
        expected = first_conditions.get(key, defaults.get(key))
        value = conditions.get(key, defaults.get(key))
        if value != expected:
            raise ConfigError(
                f"{run.path} was made with {key} = {value!r}, but {first.path} with {expected!r}; "
                "merge only runs of one configuration."
            )
    first_facts, facts = first.metadata(), run.metadata()
    for key in SHARED_FACTS:
        if key in facts and first_facts.get(key, facts[key]) != facts[key]:
            raise ConfigError(
                f"{run.path} was made with the {key} {facts[key]!r}, but {first.path} with "
                f"{first_facts[key]!r}; merge only runs with the same {key}."
            )


def _merge_facts(store: RunStore, run: RunStore) -> None:
    """Copy a run's facts about models and libraries."""
    facts = run.metadata()
    for key in SHARED_FACTS:
        if key in facts:
            store.require_fact(key, facts[key])
    if "libraries" in facts:
        store.set_default_fact("libraries", json.dumps(json.loads(facts["libraries"])))


def _merge_problems(store: RunStore, run: RunStore) -> None:
    """Copy a run's problems. Problems of a shard keep their positions."""
    positions = run.positions() if "shard" in run.metadata() else None
    store.add_problems(run.problems(), positions)


def _batches(run: RunStore) -> Iterator[list[tuple[Any, ...]]]:
    """Yield a run's result rows in batches of `_BATCH_SIZE`."""
    batch: list[tuple[Any, ...]] = []
    for row in run.rows():
        batch.append(row)
        if len(batch) == _BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch
