"""What a report is made of: for every run and strategy, the readings of its results."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rstar_math.errors import ConfigError, InputError
from rstar_math.evaluation.metrics import Summary, summarise
from rstar_math.evaluation.recorded import Grading, Reading, Terms, read
from rstar_math.evolution.store import RunStore
from rstar_math.search.strategy import parse_strategies
from rstar_math.types import Problem

_CHAINS = ("greedy", "sc", "bon")


@dataclass(frozen=True, slots=True)
class Run:
    """A run file as a report names it."""

    path: Path
    label: str
    conditions: dict[str, Any]
    facts: dict[str, str]
    problems: dict[str, Problem]
    problems_hash: str
    """SHA-256 of ids, questions and references in their order."""


@dataclass(frozen=True, slots=True)
class Series:
    """One strategy of one run."""

    label: str
    run: int
    """Index among the report's runs."""
    strategy: str
    summary: Summary
    """Of all its results, graded or not."""
    readings: tuple[Reading, ...]
    """Of those whose problem has a reference."""

    @property
    def tokens(self) -> float:
        """Mean sampled tokens a problem."""
        return self.summary.cost.sampled_tokens / max(self.summary.problems, 1)

    @property
    def rights(self) -> list[float]:
        """1 for each reading answered right, else 0."""
        return [float(r.right) for r in self.readings]

    @property
    def ceiling(self) -> float | None:
        """Share of readings of which some path is right, in [0, 1]; None where there are none."""
        n = len(self.readings)
        return sum(r.any_right for r in self.readings) / n if n else None


async def gather(paths: Sequence[Path], grading: Grading) -> tuple[list[Run], list[Series]]:
    """Runs and their series, in the order of the paths and of the strategies in them.

    Reads one tree at a time and keeps none. Raises `InputError` for a run without results.
    """
    runs: list[Run] = []
    series: list[Series] = []
    labels = _labels(paths)
    for at, path in enumerate(paths):
        with RunStore.read(path) as store:
            run = _run(store, labels[at])
            runs.append(run)
            names = store.strategies()
            if not names:
                raise InputError(f"{path} has no results yet; fill it with rstar eval --run {path}")
            for name in names:
                label = name if len(paths) == 1 else f"{run.label}: {name}"
                readings = await _readings(store, run, name, grading)
                summary = summarise(name, store.results(name))
                series.append(Series(label, at, name, summary, tuple(readings)))
    return runs, series


async def _readings(store: RunStore, run: Run, name: str, grading: Grading) -> list[Reading]:
    """The graded results of a strategy."""
    found = []
    for result in store.results(name):
        problem = run.problems[result.problem]
        if result.verdict is not None and problem.reference is not None:
            tree = store.tree(problem.id, name)
            scored = any(node.score is not None for node in tree)
            terms = terms_of(name, run.conditions, scored=scored)
            found.append(await read(problem, result, tree, grading, terms))
    return found


def terms_of(strategy: str, conditions: dict[str, Any], *, scored: bool) -> Terms:
    """How a strategy chose and how often it tried, by the conditions of its run; as
    `search.pursue.answer_rule` has it. A name from a later version gives a rule that is unknown."""
    rule = conditions.get("search.answer")
    keep = int(conditions.get("search.keep") or 4)
    budgeted = conditions.get("search.tokens") is not None
    try:
        (parsed,) = parse_strategies(strategy)
    except ConfigError:
        return Terms(strategy, None, str(rule or "unknown"), keep, budgeted)
    if rule is None:
        rule = "majority"
        if scored and parsed.kind not in ("greedy", "sc"):
            rule = {"dvts": "weighted", "rap": "weighted", "mcts": "top-of-runs"}.get(
                parsed.kind, "best"
            )
    n = parsed.n if parsed.kind in _CHAINS else None
    return Terms(parsed.kind, n, str(rule), keep, budgeted)


def seeds_pooled(runs: Sequence[Run], series: Sequence[Series]) -> list[list[Series]]:
    """Groups of two or more series that differ in `search.seed` alone: the same strategy, model,
    problems and other conditions."""
    groups: dict[str, list[Series]] = {}
    for one in series:
        run = runs[one.run]
        others = {k: v for k, v in run.conditions.items() if k != "search.seed"}
        key = [one.strategy, run.facts.get("model"), run.problems_hash, others]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(one)
    return [
        group
        for group in groups.values()
        if len({runs[one.run].conditions.get("search.seed") for one in group}) > 1
    ]


def _run(store: RunStore, label: str) -> Run:
    """What a run file says of itself."""
    problems = store.problems()
    return Run(
        path=store.path,
        label=label,
        conditions=store.conditions(),
        facts=store.facts(),
        problems={problem.id: problem for problem in problems},
        problems_hash=problems_hash(problems),
    )


def problems_hash(problems: Iterable[Problem]) -> str:
    """SHA-256 of ids, questions and references in their order, as hexadecimal."""
    digest = sha256()
    for problem in problems:
        row = [problem.id, problem.question.text, problem.reference]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _labels(paths: Sequence[Path]) -> list[str]:
    """Names that tell the runs apart: the files' stems, numbered where they repeat."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem} ({at})" for at, stem in enumerate(stems, 1)
    ]
