"""Reads results from run files for a report and grades every path."""

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

from rstar_math.errors import ConfigError, InputError
from rstar_math.evaluation.metrics import Attempt, Summary, summarise
from rstar_math.protocols import AnswerGrouper
from rstar_math.runs.results import Result
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import parse_strategies
from rstar_math.search.tree import ROOT, Tree
from rstar_math.search.voting import RULES, Vote, top_k_of_runs, votes_of
from rstar_math.types import Problem, Verdict

JudgeAnswer = Callable[[str, str], Awaitable[Verdict]]
"""(answer, reference) -> verdict."""
_POINTS = 40
"""Most moments at which a tree's answer so far is looked up."""
TOP = "top-of-runs"
_BY_VOTES = ("majority", "paths")
"""The rules that ask for no values."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What was thought of a step, and what came of it."""

    q: float | None
    """The chance of being right that its Q stands for, in [0, 1]: (Q + 1) / 2 where ends are worth
    -1 or 1; Q itself, at most 1, in rStar's trees, where they are worth the share that agrees."""
    score: float | None
    """In [-1, 1]."""
    right: float
    """Share of the answers below it, or of its own, that are right, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class GradedResult:
    """A result with everything that a report asks of its tree."""

    problem: Problem
    result: Result
    right: bool
    any_right: bool
    """Whether any path found is right: what a perfect choice would reach."""
    attempts: tuple[Attempt, ...]
    """Independent attempts: chains, or runs of a search; () where they were not fixed beforehand
    (the search stopped early, or went on until its tokens were spent)."""
    course: tuple[tuple[float, bool, bool], ...]
    """(tokens, answer right, any path right) as the search went on; the last is the result."""
    steps: tuple[StepRecord, ...]
    by_rule: dict[str, bool]
    """Whether the answer would have been right by each rule to choose it from what was found; those
    that go by values only where there are some; empty where there is but one answer or none."""


@dataclass(frozen=True, slots=True)
class AnswerJudge:
    """How answers are told equal and right."""

    group: AnswerGrouper
    judge: JudgeAnswer


@dataclass(frozen=True, slots=True)
class RunTerms:
    """What a strategy's results were made under."""

    chains: int | None
    """Chains that were asked for; None for a tree search."""
    rule: str
    keep: int = 4
    budgeted: bool = False
    """Whether a budget of tokens decided how many attempts there are."""
    by_action: bool = False
    """Whether paths are sequences of rStar's actions."""


async def grade_result(
    problem: Problem, result: Result, tree: Tree, grading: AnswerJudge, terms: RunTerms
) -> GradedResult:
    """The reading of one result of a problem with a reference."""
    assert problem.reference is not None
    cast = votes_of(tree)
    groups = await grading.group([vote.answer for vote in cast]) if cast else []
    verdicts: dict[int, bool] = {}
    for vote, group in zip(cast, groups, strict=True):
        if group not in verdicts:
            verdict = await grading.judge(vote.answer, problem.reference)
            verdicts[group] = verdict is Verdict.RIGHT
    right = result.verdict is Verdict.RIGHT
    for vote, group in zip(cast, groups, strict=True):
        if vote.node == result.choice.node:
            verdicts[group] = right
    found = _Found(tree, cast, groups, [verdicts[g] for g in groups])
    return GradedResult(
        problem=problem,
        result=result,
        right=right,
        any_right=right or any(verdicts.values()),
        attempts=_attempts(found, terms),
        course=await _course(found, terms, result, right),
        steps=_steps(found, shares=terms.by_action),
        by_rule=await _by_rule(found, terms),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A tree's answers with what they are worth."""

    tree: Tree
    cast: list[Vote]
    groups: list[int]
    right: list[bool]

    async def right_by(self, rule: str, keep: int, first: int) -> bool:
        """Whether the answer that a rule chooses from the `first` found is right."""
        part = self.cast[:first]
        classes = {vote.answer: group for vote, group in zip(part, self.groups, strict=False)}

        async def group(answers: Sequence[str]) -> list[int]:
            """The classes that are known already: a rule asks about all votes, or those kept."""
            numbers: dict[int, int] = {}
            return [numbers.setdefault(classes[a], len(numbers)) for a in answers]

        if rule == TOP:
            choice = await top_k_of_runs(part, group, keep=keep)
        else:
            choice = await RULES[rule](part, group)
        ends = [vote.node for vote in part]
        return choice.node is not None and self.right[ends.index(choice.node)]


async def _by_rule(found: _Found, terms: RunTerms) -> dict[str, bool]:
    """What each rule comes to."""
    if len(found.cast) < 2:
        return {}
    valued = any(vote.value is not None for vote in found.cast)
    rules = [*RULES, TOP] if valued else _BY_VOTES
    return {rule: await found.right_by(rule, terms.keep, len(found.cast)) for rule in rules}


def _attempts(found: _Found, terms: RunTerms) -> tuple[Attempt, ...]:
    """One attempt a run: its best path where paths are scored, else its majority."""
    tree = found.tree
    if tree.stop_reason is not None or terms.budgeted:
        return ()
    by_run: dict[int, list[int]] = {}
    for at, vote in enumerate(found.cast):
        by_run.setdefault(vote.run, []).append(at)
    scored = any(node.score is not None for node in tree)
    attempts: list[Attempt] = []
    for members in by_run.values():
        votes: dict[int, float] = {}
        for at in members:
            votes[found.groups[at]] = votes.get(found.groups[at], 0.0) + found.cast[at].weight
        if scored:
            lead = max(members, key=lambda at: found.cast[at].rank)
        else:
            lead = max(members, key=lambda at: votes[found.groups[at]])
        value = found.cast[lead].value if scored else None
        attempts.append(Attempt(found.groups[lead], found.right[lead], value))
    planned = tree.runs if terms.chains is None else terms.chains
    silent = max(planned, tree.runs, len(attempts)) - len(attempts)
    return (*attempts, *[Attempt(None)] * silent)


async def _course(
    found: _Found, terms: RunTerms, result: Result, right: bool
) -> tuple[tuple[float, bool, bool], ...]:
    """The answer so far as the tree grew, where the order of its nodes tells it.

    The rules that go by Q do not have it: a tree keeps the last Q, not those before. Tokens are
    those of the whole tree, shared out by the length of its steps.
    """
    tree, cast = found.tree, found.cast
    total = float(result.cost.sampled_tokens)
    last = (total, right, right or any(found.right))
    scored = any(node.score is not None for node in tree)
    known = terms.rule in RULES or terms.rule == TOP
    if not cast or not known or not (scored or terms.rule in _BY_VOTES):
        return (last,)
    spent = _spent(tree, total)
    points: list[tuple[float, bool, bool]] = []
    for so_far in _moments(len(cast)):
        good = await found.right_by(terms.rule, terms.keep, so_far)
        points.append((spent[cast[so_far - 1].node], good, any(found.right[:so_far])))
    return (*points, last)


def _moments(n: int) -> list[int]:
    """At most `_POINTS` numbers from 1 to n, all where there are few."""
    return sorted({1 + round(i * (n - 1) / (_POINTS - 1)) for i in range(_POINTS)})


def _spent(tree: Tree, total: float) -> list[float]:
    """Tokens sampled when each node was there, by the length of the steps up to it."""
    lengths = [0.0]
    lengths += [n.count * (1 + len(n.step.text if n.step else "")) for n in tree.nodes[1:]]
    whole = sum(lengths) or 1.0
    return [total * length / whole for length in accumulate(lengths)]


def _steps(found: _Found, *, shares: bool) -> tuple[StepRecord, ...]:
    """The valued steps that led to answers; `shares` tells values in [0, 1] from those in
    [-1, 1]."""
    tree = found.tree
    right, every = [0.0] * len(tree), [0.0] * len(tree)
    for vote, good in zip(found.cast, found.right, strict=True):
        right[vote.node] += good
        every[vote.node] += 1
    for index in range(len(tree) - 1, ROOT, -1):
        parent = tree.nodes[index].parent
        right[parent] += right[index]
        every[parent] += every[index]
    valued = any(node.value_sum for node in tree)
    return tuple(
        StepRecord(_chance(node.q, shares) if valued else None, node.score, right[i] / every[i])
        for i, node in enumerate(tree)
        if i != ROOT and every[i] and (node.score is not None or (valued and node.q is not None))
    )


def _chance(q: float | None, shares: bool) -> float | None:
    if q is None:
        return None
    return min(1.0, max(0.0, q if shares else (q + 1) / 2))


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
    readings: tuple[GradedResult, ...]
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


async def load_runs(paths: Sequence[Path], grading: AnswerJudge) -> tuple[list[Run], list[Series]]:
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


async def _readings(
    store: RunStore, run: Run, name: str, grading: AnswerJudge
) -> list[GradedResult]:
    """The graded results of a strategy."""
    found = []
    for result in store.results(name):
        problem = run.problems[result.problem]
        if result.verdict is not None and problem.reference is not None:
            tree = store.tree(problem.id, name)
            scored = any(node.score is not None for node in tree)
            terms = terms_of(name, run.conditions, scored=scored)
            found.append(await grade_result(problem, result, tree, grading, terms))
    return found


def terms_of(strategy: str, conditions: dict[str, Any], *, scored: bool) -> RunTerms:
    """How a strategy chose and how often it tried, by the conditions of its run; as
    `search.strategies.answer_rule` has it. A strategy that is unknown here gives an unknown
    rule."""
    rule = conditions.get("search.answer")
    keep = int(conditions.get("search.top_k") or 4)
    budgeted = conditions.get("search.token_budget") is not None
    try:
        (parsed,) = parse_strategies(strategy)
        spec = parsed.spec
    except ConfigError:
        return RunTerms(None, str(rule or "unknown"), keep, budgeted)
    if rule is None:
        rule = spec.scored_rule if scored and spec.scored_rule else "majority"
    chains = (parsed.n or 1) if spec.is_chain else None
    return RunTerms(chains, str(rule), keep, budgeted, spec.policy == "actions")


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
        facts=store.metadata(),
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
