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

PINNED = ("model", "discriminator", "prompts", "prompting")
"""Facts in which runs must agree."""
BATCH = 500
"""Results that are written at a time."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `of`-th problem from the `number`-th on, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """What I/N means. Raises `ConfigError`."""
        match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
        if match is None or int(match[1]) > int(match[2]):
            raise ConfigError(f"--shard {text!r} is not I/N with I from 1 to N; for example 2/4.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def positions(self, count: int) -> range:
        """Places of its problems among so many, counted from 1."""
        return range(self.number, count + 1, self.of)


def pin_shard(store: RunStore, shard: Shard | None) -> None:
    """Keep a run to its part of the problems. Raises `ConfigError` where it holds another one."""
    before = store.metadata().get("shard")
    if before == (shard and str(shard)):
        return
    if before is not None or store.strategies():
        now = f"--shard {shard}" if shard else "all problems"
        had = f"with --shard {before}" if before else "without --shard"
        raise ConfigError(
            f"{store.path} was begun {had} and now {now} are asked for; change it back, or give "
            "a new --run."
        )
    store.require_fact("shard", str(shard))


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge came to."""

    problems: int
    results: int
    added: int
    """Of the results, those that OUT had not."""
    twice: int
    """Results that were there already when another run brought them too."""
    differing: int
    """Of these, those with another tree; the first is kept."""


def merge(out: Path, runs: Sequence[Path], on_batch: Callable[[int], None] | None = None) -> Merged:
    """Put the problems and results of runs into one, which is made or gone on with.

    Problems of shards get their places in the whole back; those of other runs follow in the order
    of the runs. Done again, or killed and done again, it comes to the same. Raises `ConfigError`
    where the runs were made under different conditions, and `InputError` where they hold different
    problems under one id, before anything of such a run is taken. `on_batch` is told how many more
    results were read.
    """
    if not runs:
        raise InputError("There is nothing to merge; name the runs after OUT.")
    if any(run.resolve() == out.resolve() for run in runs):
        raise InputError(f"{out} is both OUT and a run to merge; give OUT another name.")
    conditions = _common_conditions(out, runs)
    added = twice = differing = 0
    with RunStore.open(out, conditions, default_conditions()) as store:
        for path in runs:
            with RunStore.read(path) as run:
                _agree(store, run)
                _require_facts(store, run)
                _take_problems(store, run)
                for batch in _batches(run):
                    new, other = store.import_rows(batch)
                    added += new
                    twice += len(batch) - new
                    differing += other
                    if on_batch is not None:
                        on_batch(len(batch))
        results = sum(len(store.done(name)) for name in store.strategies())
        return Merged(len(store.problems()), results, added, twice, differing)


def _common_conditions(out: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """The conditions of all runs, and of OUT where it has results; nothing is written before they
    are known to agree. Raises `ConfigError` where they do not."""
    with RunStore.read(runs[0]) as first:
        for path in runs[1:]:
            with RunStore.read(path) as run:
                _agree(first, run)
        if out.is_file() and out.stat().st_size:
            with RunStore.read(out) as there:
                if there.strategies():
                    _agree(there, first)
        return first.conditions()


def _agree(before: RunStore, run: RunStore) -> None:
    """Raise `ConfigError` where a run cannot be one with another."""
    wanted, found = before.conditions(), run.conditions()
    defaults = default_conditions()
    for key in sorted(wanted.keys() | found.keys()):
        one, other = (side.get(key, defaults.get(key)) for side in (wanted, found))
        if one != other:
            raise ConfigError(
                f"{run.path} was made with {key} = {other!r} and {before.path} with {one!r}; "
                "merge only runs of one configuration, into a file of their own."
            )
    there, facts = before.metadata(), run.metadata()
    for key in PINNED:
        if key in facts and there.get(key, facts[key]) != facts[key]:
            raise ConfigError(
                f"{run.path} was made with the {key} {facts[key]!r} and {before.path} with "
                f"{there[key]!r}; merge only runs of one {key}, into a file of their own."
            )


def _require_facts(store: RunStore, run: RunStore) -> None:
    """Take over what a run says of its models and libraries."""
    facts = run.metadata()
    for key in PINNED:
        if key in facts:
            store.require_fact(key, facts[key])
    if "libraries" in facts:
        store.set_default_fact("libraries", json.dumps(json.loads(facts["libraries"])))


def _take_problems(store: RunStore, run: RunStore) -> None:
    """Add a run's problems, those of a shard at their places."""
    places = run.positions() if "shard" in run.metadata() else None
    store.add_problems(run.problems(), places)


def _batches(run: RunStore) -> Iterator[list[tuple[Any, ...]]]:
    """A run's rows of results, some at a time."""
    batch: list[tuple[Any, ...]] = []
    for row in run.rows():
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
