"""Expands a node: `expand` samples, runs, scores and judges next steps; `add_children` adds them
to the tree and backs up their values.

`expand` does everything that can fail, wait or be cancelled, and touches no tree; `add_children`
changes the tree at once, without an `await`. So a tree is valid at every moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rstar_math.concurrency import gather
from rstar_math.config.sections import Duplicates, SearchConfig
from rstar_math.costs import add_cost, track_cost
from rstar_math.errors import ContextLengthError, ModelError, RequestError
from rstar_math.protocols import Executor, Policy, Scorer, Verifier
from rstar_math.search.programs import step_key
from rstar_math.search.tree import Node, Tree
from rstar_math.search.voting import track_tree_cost
from rstar_math.seeding import derive
from rstar_math.types import Cost, Question, Step, Verdict

PATH_ERRORS: dict[type[BaseException], str] = {
    ContextLengthError: "context exceeded",
    RequestError: "request failed",
}
"""Errors that end the path that a request was for, with the reason that is written down."""
_REWARD = {Verdict.RIGHT: 1.0, Verdict.WRONG: -1.0}


@dataclass(frozen=True, slots=True)
class SearchComponents:
    """What a search works with."""

    policy: Policy
    executor: Executor
    scorer: Scorer | None = None
    verifier: Verifier | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A next step that was run and valued, not yet in a tree."""

    step: Step
    count: int
    score: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Expansion:
    """What asking for next steps at one node brought."""

    candidates: tuple[Candidate, ...]
    failure: str | None
    """Why there are none; None where there are some."""
    cost: Cost
    guided: bool
    """Whether a verifier judged the ends."""


async def expand(
    question: Question,
    prefix: tuple[Step, ...],
    parts: SearchComponents,
    k: int,
    seed: int,
    *,
    duplicates: Duplicates = "text",
) -> Expansion:
    """Ask for up to `k` next steps in one request, merge equal ones (`search.duplicates`), run
    their code, score and judge them. Raises `ModelError` where the policy or the scorer cannot be
    asked at all."""
    guided = parts.verifier is not None
    with track_cost() as cost:
        try:
            samples = await parts.policy.propose(question, prefix, k, seed=seed)
        except tuple(PATH_ERRORS) as error:
            return Expansion((), PATH_ERRORS[type(error)], cost, guided)
        unique = merge_equal(samples, duplicates)
        steps = await gather(run_code(parts.executor, prefix, step) for step, _ in unique)
        scores = await score_prefixes(question, parts.scorer, [(*prefix, step) for step in steps])
        verdicts = await gather(judge_step(parts.verifier, step) for step in steps)
    counts = [count for _, count in unique]
    rows = zip(steps, counts, scores, verdicts, strict=True)
    candidates = tuple(Candidate(*row) for row in rows)
    return Expansion(candidates, None if candidates else "no next step", cost, guided)


def merge_equal(samples: Sequence[Step], duplicates: Duplicates) -> list[tuple[Step, int]]:
    """The samples that differ, the first of each kind, and how many there were of it."""
    counts: dict[object, int] = {}
    first: dict[object, Step] = {}
    for step in samples:
        key = step_key(step) if duplicates == "program" else step
        counts[key] = counts.get(key, 0) + 1
        first.setdefault(key, step)
    return [(step, counts[key]) for key, step in first.items()]


def add_children(tree: Tree, index: int, found: Expansion, config: SearchConfig) -> list[int]:
    """Put an expansion's steps below a node, close what ended, back up what has a value, and
    return the new nodes."""
    tree.nodes[index].expanded = True
    if found.failure is not None:
        fail_path(tree, index, found.failure)
    children = [tree.add(index, one.step, one.count) for one in found.candidates]
    for child, one in zip(children, found.candidates, strict=True):
        tree.nodes[child].score, tree.nodes[child].verdict = one.score, one.verdict
        _close_or_value(tree, child, config, guided=found.guided)
    return children


def fail_path(tree: Tree, index: int, reason: str) -> None:
    """End a path without an answer. Its value stays unknown: only answers are backed up."""
    tree.nodes[index].failure = reason
    tree.close(index)


async def score_prefixes(
    question: Question, scorer: Scorer | None, prefixes: Sequence[tuple[Step, ...]]
) -> list[float] | list[None]:
    """The scorer's values, checked; None for each where there is no scorer."""
    if scorer is None or not prefixes:
        return [None] * len(prefixes)
    scores = await scorer.score(question, prefixes)
    if len(scores) != len(prefixes):
        raise ModelError(f"The scorer gave {len(scores)} values for {len(prefixes)}; correct it.")
    for score in scores:
        if not -1.0 <= score <= 1.0:
            raise ModelError(f"The scorer gave {score}, and scores lie in [-1, 1]; correct it.")
    return scores


async def judge_step(verifier: Verifier | None, step: Step) -> Verdict | None:
    """The verifier's word on the answer that a step states, if both are there."""
    if verifier is None or step.answer is None:
        return None
    return await verifier.judge(step.answer)


def _close_or_value(tree: Tree, index: int, config: SearchConfig, *, guided: bool) -> None:
    """Close a new node if its path ends there, and record its value if it has one."""
    node = tree.nodes[index]
    step = node.step
    assert step is not None
    if step.answer is not None:
        value = end_value(node, guided=guided)
        if value is not None and config.backup != "rollout":
            tree.backup(index, value, config.discount)
        tree.close(index)
    elif step.kind == "answer":
        fail_path(tree, index, "no answer stated")
    elif _failed_in_a_row(tree, index) >= config.max_code_errors:
        fail_path(tree, index, "code failed")
    elif node.depth >= config.max_depth:
        fail_path(tree, index, "too deep")
    elif node.score is not None and config.backup == "all":
        tree.backup(index, node.score, config.discount)
    elif node.score is not None:
        node.visits, node.value_sum = 1, node.score


def end_value(node: Node, *, guided: bool) -> float | None:
    """What a path's end is worth: an answer with a verifier +1 (right), -1 (wrong) or None (it
    cannot tell); else its score, else the share of the votes behind it, else 0. Without an answer
    it is worth 0."""
    step = node.step
    if step is None or step.answer is None:
        return 0.0
    if guided:
        return None if node.verdict is None else _REWARD.get(node.verdict)
    if node.score is not None:
        return node.score
    return 0.0 if step.confidence is None else step.confidence


def _failed_in_a_row(tree: Tree, index: int) -> int:
    """How many of a path's last steps failed, without a break."""
    count = 0
    while (step := tree.nodes[index].step) is not None and step.failed:
        count += 1
        index = tree.nodes[index].parent
    return count


async def run_code(executor: Executor, prefix: Sequence[Step], step: Step) -> Step:
    """The step with what running it after its prefix did; a step without code as it is.

    Counts one program run, also where the executor answers from its memory: what a search costs
    does not depend on what ran before it.
    """
    if not step.code:
        return step
    execution = await executor.run(prefix, step)
    add_cost(Cost(code_runs=1, code_failures=0 if execution.ok else 1))
    return replace(step, execution=execution)


async def complete_best_path(tree: Tree, *, parts: SearchComponents, config: SearchConfig) -> None:
    """Follow the open path that is furthest, of those the one with the highest score, a step at a
    time until a path ends with an answer; nothing where one has. A path that fails is left for the
    next one, with at most `config.max_depth` steps in all. Raises `ModelError`."""
    with track_tree_cost(tree):
        for _ in range(config.max_depth):
            at = None if tree.answers() else _deepest_open(tree)
            if at is None:
                return
            seed = derive(config.seed, tree.question.id, at)
            found = await expand(tree.question, tree.prefix(at), parts, 1, seed)
            for child in add_children(tree, at, found, config):
                tree.rollouts += tree.nodes[child].answered


def _deepest_open(tree: Tree) -> int | None:
    """The node to go on from; None where every path has come to nothing."""
    open_ = [i for i, node in enumerate(tree) if not node.expanded and not node.closed]

    def rank(index: int) -> tuple[int, float, int]:
        node = tree.nodes[index]
        return node.depth, -1.0 if node.leaf_value is None else node.leaf_value, -index

    return max(open_, key=rank, default=None)
