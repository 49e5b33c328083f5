"""Reads the results of run files and grades every path, as the input of reports."""

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

from rstar_math.config.sections import SearchConfig
from rstar_math.errors import ConfigError, InputError
from rstar_math.evaluation.metrics import Attempt, Summary, summarize
from rstar_math.protocols import QuestionGrouper
from rstar_math.runs.results import Result, confidence_options
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import answer_rule_name, parse_strategies
from rstar_math.search.tree import ROOT, Tree
from rstar_math.search.voting import ANSWER_RULES, Vote, top_k_of_runs, votes_of
from rstar_math.task_records import dump_reference, task_entry
from rstar_math.types import Problem, Verdict

JudgeAnswer = Callable[[Problem, str], Awaitable[Verdict]]
"""(problem, answer) -> verdict."""
_MAX_POINTS = 40
"""Maximum number of points at which the intermediate answer of a tree is computed."""
TOP_OF_RUNS = "top-of-runs"
"""The rule of rStar-Math: the majority of the best runs (`search.voting.top_k_of_runs`)."""
_RULES_WITHOUT_VALUES = ("majority", "paths")


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The predicted values of a step, and the share of right answers below it."""

    q: float | None
    """The probability of a right answer that Q predicts, in [0, 1]. It is (Q + 1) / 2 if terminal
    rewards are -1 and +1. In rStar's trees, where rewards are shares of agreeing answers, it is Q
    itself, at most 1."""
    score: float | None
    """The scorer's value, in [-1, 1]."""
    right: float
    """Share of right answers among the answers below the step, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """The state of a search at one moment."""

    tokens: float
    """Sampled tokens so far."""
    right: bool
    """Whether the answer chosen from the paths so far is right."""
    any_right: bool
    """Whether any path so far is right."""


@dataclass(frozen=True, slots=True)
class GradedResult:
    """A graded result of a problem, with the grades of all paths in its tree."""

    problem: Problem
    result: Result
    right: bool
    any_right: bool
    """Whether any path is right: the upper bound of every answer rule."""
    attempts: tuple[Attempt, ...]
    """Independent attempts: chains, or runs of a search. Empty if their number was not fixed
    beforehand, because the search stopped early or spent a token budget."""
    progress: tuple[ProgressPoint, ...]
    """The states of the search in order; the last one is the result."""
    steps: tuple[StepOutcome, ...]
    by_rule: dict[str, bool]
    """Whether each answer rule would choose a right answer from this tree. Rules that need values
    are included only if there are values. Empty for fewer than two answers."""


@dataclass(frozen=True, slots=True)
class AnswerJudge:
    """Decides whether answers are equal and whether they are right."""

    grouper: QuestionGrouper
    judge: JudgeAnswer


@dataclass(frozen=True, slots=True)
class RunTerms:
    """The settings of a strategy that determine its attempts and its answer."""

    chains: int | None
    """Number of requested chains; None for a tree search."""
    rule: str
    """The answer rule."""
    keep: int = 4
    """Number of runs that `TOP_OF_RUNS` keeps."""
    budgeted: bool = False
    """Whether a token budget determined the number of attempts."""
    by_action: bool = False
    """Whether paths are sequences of rStar's actions."""
    confidence: SearchConfig | None = None
    """Options that select the measure of confidence."""


async def grade_result(
    problem: Problem, result: Result, tree: Tree, grading: AnswerJudge, terms: RunTerms
) -> GradedResult:
    """The graded result of a problem that has a reference."""
    votes = votes_of(tree, terms.confidence)
    group_answers = grading.grouper(problem.question)
    groups = await group_answers([vote.answer for vote in votes]) if votes else []
    right_groups: dict[int, bool] = {}
    for vote, group in zip(votes, groups, strict=True):
        if group not in right_groups:
            verdict = await grading.judge(problem, vote.answer)
            right_groups[group] = verdict is Verdict.RIGHT
    right = result.verdict is Verdict.RIGHT
    # The stored verdict takes precedence over a new one.
    for vote, group in zip(votes, groups, strict=True):
        if vote.node == result.choice.node:
            right_groups[group] = right
    graded = _GradedTree(tree, votes, groups, [right_groups[group] for group in groups])
    return GradedResult(
        problem=problem,
        result=result,
        right=right,
        any_right=right or any(right_groups.values()),
        attempts=_attempts(graded, terms),
        progress=await _progress(graded, terms, result, right),
        steps=_step_outcomes(graded, q_is_share=terms.by_action),
        by_rule=await _right_by_rule(graded, terms),
    )


@dataclass(frozen=True, slots=True)
class _GradedTree:
    """A tree with its graded votes. `groups` and `right` are parallel to `votes`."""

    tree: Tree
    votes: list[Vote]
    groups: list[int]
    """Classes of equal answers."""
    right: list[bool]

    @property
    def scored(self) -> bool:
        """Whether any node has a score."""
        return any(node.score is not None for node in self.tree)

    async def chooses_right(self, rule: str, keep: int, count: int) -> bool:
        """Whether a rule chooses a right answer from the first `count` votes."""
        votes = self.votes[:count]
        classes = {vote.answer: group for vote, group in zip(votes, self.groups, strict=False)}

        async def group(answers: Sequence[str]) -> list[int]:
            """The known classes of some of the answers, numbered from 0."""
            numbers: dict[int, int] = {}
            return [numbers.setdefault(classes[answer], len(numbers)) for answer in answers]

        if rule == TOP_OF_RUNS:
            choice = await top_k_of_runs(votes, group, keep=keep)
        else:
            choice = await ANSWER_RULES[rule](votes, group)
        nodes = [vote.node for vote in votes]
        return choice.node is not None and self.right[nodes.index(choice.node)]


async def _right_by_rule(graded: _GradedTree, terms: RunTerms) -> dict[str, bool]:
    """Whether each applicable rule chooses a right answer."""
    count = len(graded.votes)
    if count < 2:
        return {}
    valued = any(vote.value is not None for vote in graded.votes)
    rules = [*ANSWER_RULES, TOP_OF_RUNS] if valued else [*_RULES_WITHOUT_VALUES, "confidence"]
    if all(vote.confidence is None for vote in graded.votes):
        rules.remove("confidence")
    return {rule: await graded.chooses_right(rule, terms.keep, count) for rule in rules}


def _attempts(graded: _GradedTree, terms: RunTerms) -> tuple[Attempt, ...]:
    """One attempt per run: its best path if paths are scored, else its majority."""
    tree, votes, groups = graded.tree, graded.votes, graded.groups
    if tree.stop_reason is not None or terms.budgeted:
        return ()
    by_run: dict[int, list[int]] = {}
    for index, vote in enumerate(votes):
        by_run.setdefault(vote.run, []).append(index)
    scored = graded.scored
    attempts: list[Attempt] = []
    for indices in by_run.values():
        weights: dict[int, float] = {}
        for index in indices:
            weights[groups[index]] = weights.get(groups[index], 0.0) + votes[index].weight
        if scored:
            chosen = max(indices, key=lambda index: votes[index].value_or_lowest)
        else:
            chosen = max(indices, key=lambda index: weights[groups[index]])
        value = votes[chosen].value if scored else None
        attempts.append(Attempt(groups[chosen], graded.right[chosen], value))
    planned = tree.runs if terms.chains is None else terms.chains
    unanswered = max(planned, tree.runs, len(attempts)) - len(attempts)
    return (*attempts, *[Attempt(None)] * unanswered)


async def _progress(
    graded: _GradedTree, terms: RunTerms, result: Result, right: bool
) -> tuple[ProgressPoint, ...]:
    """The intermediate answers of the search, in the order of the tree's nodes.

    Only the final state is known for rules that use Q, because a tree does not store earlier Qs.
    The tokens of the whole tree are divided among the nodes by the length of their steps.
    """
    votes = graded.votes
    total = float(result.cost.sampled_tokens)
    final = ProgressPoint(total, right, right or any(graded.right))
    known = terms.rule in ANSWER_RULES or terms.rule == TOP_OF_RUNS
    if (
        not votes
        or not known
        or not (graded.scored or terms.rule in (*_RULES_WITHOUT_VALUES, "confidence"))
    ):
        return (final,)
    tokens = _tokens_by_node(graded.tree, total)
    points: list[ProgressPoint] = []
    for count in _spread(len(votes)):
        chosen_right = await graded.chooses_right(terms.rule, terms.keep, count)
        any_right = any(graded.right[:count])
        points.append(ProgressPoint(tokens[votes[count - 1].node], chosen_right, any_right))
    return (*points, final)


def _spread(n: int) -> list[int]:
    """At most `_MAX_POINTS` evenly spaced numbers from 1 to n."""
    return sorted({1 + round(i * (n - 1) / (_MAX_POINTS - 1)) for i in range(_MAX_POINTS)})


def _tokens_by_node(tree: Tree, total: float) -> list[float]:
    """Estimated tokens sampled up to each node, in proportion to the length of the steps."""
    lengths = [0.0]
    lengths += [n.count * (1 + len(n.step.text if n.step else "")) for n in tree.nodes[1:]]
    length_sum = sum(lengths) or 1.0
    return [total * length / length_sum for length in accumulate(lengths)]


def _step_outcomes(graded: _GradedTree, *, q_is_share: bool) -> tuple[StepOutcome, ...]:
    """The outcomes of all steps that have a value and lead to an answer.

    `q_is_share` states that Q is in [0, 1] instead of [-1, 1].
    """
    tree = graded.tree
    right, total = [0.0] * len(tree), [0.0] * len(tree)
    for vote, is_right in zip(graded.votes, graded.right, strict=True):
        right[vote.node] += is_right
        total[vote.node] += 1
    for index in range(len(tree) - 1, ROOT, -1):
        parent = tree.nodes[index].parent
        right[parent] += right[index]
        total[parent] += total[index]
    has_q = any(node.value_sum for node in tree)
    return tuple(
        StepOutcome(
            q=_probability(node.q, q_is_share) if has_q else None,
            score=node.score,
            right=right[i] / total[i],
        )
        for i, node in enumerate(tree)
        if i != ROOT and total[i] and (node.score is not None or (has_q and node.q is not None))
    )


def _probability(q: float | None, q_is_share: bool) -> float | None:
    """The probability of a right answer that Q predicts, in [0, 1]."""
    if q is None:
        return None
    return min(1.0, max(0.0, q if q_is_share else (q + 1) / 2))


@dataclass(frozen=True, slots=True)
class Run:
    """The contents of a run file except its results."""

    path: Path
    label: str
    conditions: dict[str, Any]
    facts: dict[str, str]
    problems: dict[str, Problem]
    """By id."""
    problems_hash: str
    """SHA-256 of ids, questions and references in order."""


@dataclass(frozen=True, slots=True)
class Series:
    """The results of one strategy of one run."""

    label: str
    run: int
    """Index of the run in the report."""
    strategy: str
    summary: Summary
    """The summary of all results, graded or not."""
    graded: tuple[GradedResult, ...]
    """The results of problems that have a reference."""

    @property
    def tokens(self) -> float:
        """Mean number of sampled tokens per problem."""
        return self.summary.cost.sampled_tokens / max(self.summary.problems, 1)

    @property
    def outcomes(self) -> list[float]:
        """1.0 for each graded result that is right, 0.0 for each other one."""
        return [float(result.right) for result in self.graded]

    @property
    def ceiling(self) -> float | None:
        """Share of graded results with any right path, in [0, 1]; None without graded results."""
        n = len(self.graded)
        return sum(result.any_right for result in self.graded) / n if n else None


async def load_runs(paths: Sequence[Path], grading: AnswerJudge) -> tuple[list[Run], list[Series]]:
    """The runs and the series of their strategies, in order.

    Reads one tree at a time and does not keep it. Raises `InputError` for a run without results.
    """
    runs: list[Run] = []
    series: list[Series] = []
    labels = _labels(paths)
    for index, path in enumerate(paths):
        with RunStore.read(path) as store:
            run = _run(store, labels[index])
            runs.append(run)
            names = store.strategies()
            if not names:
                raise InputError(f"{path} has no results; create them with rstar eval --run {path}")
            for name in names:
                label = name if len(paths) == 1 else f"{run.label}: {name}"
                graded = await _grade_strategy(store, run, name, grading)
                summary = summarize(name, store.results(name))
                series.append(Series(label, index, name, summary, tuple(graded)))
    return runs, series


async def _grade_strategy(
    store: RunStore, run: Run, name: str, grading: AnswerJudge
) -> list[GradedResult]:
    """The graded results of a strategy."""
    graded = []
    for result in store.results(name):
        problem = run.problems[result.problem]
        if result.verdict is not None and problem.reference is not None:
            tree = store.tree(problem.id, name)
            scored = any(node.score is not None for node in tree)
            terms = run_terms(name, run.conditions, scored=scored)
            graded.append(await grade_result(problem, result, tree, grading, terms))
    return graded


def run_terms(strategy: str, conditions: dict[str, Any], *, scored: bool) -> RunTerms:
    """The terms of a strategy under the conditions of its run.

    The answer rule is chosen as in `search.strategies.answer_rule_name`. An unknown strategy gets
    the rule "unknown" unless the conditions name one.
    """
    rule = conditions.get("search.answer")
    keep = int(conditions.get("search.top_k") or 4)
    confidence = confidence_options(conditions)
    budgeted = conditions.get("search.token_budget") is not None
    try:
        (parsed,) = parse_strategies(strategy)
        spec = parsed.spec
    except ConfigError:
        return RunTerms(None, str(rule or "unknown"), keep, budgeted, confidence=confidence)
    if rule is None:
        rule = answer_rule_name(parsed, SearchConfig(), scored=scored)
    chains = (parsed.size or 1) if spec.is_chain else None
    return RunTerms(chains, str(rule), keep, budgeted, spec.uses_actions, confidence)


def group_by_seed(runs: Sequence[Run], series: Sequence[Series]) -> list[list[Series]]:
    """Groups of two or more series that differ only in `search.seed`."""
    groups: dict[str, list[Series]] = {}
    for item in series:
        run = runs[item.run]
        others = {k: v for k, v in run.conditions.items() if k != "search.seed"}
        key = [item.strategy, run.facts.get("model"), run.problems_hash, others]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(item)
    return [
        group
        for group in groups.values()
        if len({runs[item.run].conditions.get("search.seed") for item in group}) > 1
    ]


def _run(store: RunStore, label: str) -> Run:
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
    """The SHA-256 of ids, questions and references in order, in hexadecimal."""
    digest = sha256()
    for problem in problems:
        row: list[Any] = [problem.id, problem.question.text, dump_reference(problem.reference)]
        row += [task_entry(problem.question.task)] if problem.question.task else []
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _labels(paths: Sequence[Path]) -> list[str]:
    """Distinct labels of the runs: the file stems, numbered if they repeat."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem} ({at})" for at, stem in enumerate(stems, 1)
    ]
