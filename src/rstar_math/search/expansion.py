"""Expands a node: samples, runs, scores and judges next steps, and adds them to the tree.

`expand` does everything that can fail, wait or be cancelled, and does not change the tree.
`add_children` changes the tree without an `await`. A tree is therefore valid at every moment.

Backup also happens here, unless `search.backup` is "rollout": `_close_or_value` backs up the value
of each new answer ("answers", the default) and, with "all", the score of each new node. With
"rollout", `mcts._Search.finish_rollout` backs up instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rstar_math.concurrency import gather
from rstar_math.config.sections import Duplicates, SearchConfig
from rstar_math.costs import add_cost, track_cost
from rstar_math.errors import ContextLengthError, ModelError, RequestError
from rstar_math.protocols import Executor, Policy, Scorer, Verifier
from rstar_math.search.equivalence import step_key
from rstar_math.search.tree import Node, PathFailure, Tree
from rstar_math.types import Cost, Question, Step, Verdict

PATH_ERRORS: dict[type[BaseException], PathFailure] = {
    ContextLengthError: PathFailure.CONTEXT_EXCEEDED,
    RequestError: PathFailure.REQUEST_FAILED,
}
"""Errors that end only one path, each with the reason stored in `Node.failure`."""
_REWARD = {Verdict.RIGHT: 1.0, Verdict.WRONG: -1.0}


@dataclass(frozen=True, slots=True)
class SearchComponents:
    """The components of a search."""

    policy: Policy
    executor: Executor
    scorer: Scorer | None = None
    verifier: Verifier | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sampled next step after execution and scoring, not yet in a tree."""

    step: Step
    count: int
    """Number of equal samples."""
    score: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Expansion:
    """The result of expanding one node."""

    candidates: tuple[Candidate, ...]
    failure: PathFailure | None
    """Why there are no candidates; None if there are some."""
    cost: Cost
    guided: bool
    """Whether a verifier judged the answers."""


async def expand(
    question: Question,
    prefix: tuple[Step, ...],
    parts: SearchComponents,
    k: int,
    seed: int,
    *,
    duplicates: Duplicates = "text",
) -> Expansion:
    """Sample up to `k` next steps in one request, then run, score and judge them.

    Equal samples are merged as `search.duplicates` defines. Raises `ModelError` if the policy or
    the scorer cannot be called. An error in `PATH_ERRORS` becomes `Expansion.failure` instead.
    """
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
    columns = zip(steps, counts, scores, verdicts, strict=True)
    candidates = tuple(Candidate(*values) for values in columns)
    failure = None if candidates else PathFailure.NO_NEXT_STEP
    return Expansion(candidates, failure, cost, guided)


def merge_equal(samples: Sequence[Step], duplicates: Duplicates) -> list[tuple[Step, int]]:
    """Return the distinct samples in order, each with the number of samples equal to it."""
    counts: dict[object, int] = {}
    first: dict[object, Step] = {}
    for step in samples:
        key = step_key(step) if duplicates == "program" else step
        counts[key] = counts.get(key, 0) + 1
        first.setdefault(key, step)
    return [(step, counts[key]) for key, step in first.items()]


def add_children(tree: Tree, index: int, expansion: Expansion, config: SearchConfig) -> list[int]:
    """Add an expansion's candidates below a node and return the indices of the new nodes.

    Ended paths are closed, and known values are recorded or backed up (see `_close_or_value`).
    """
    tree.nodes[index].expanded = True
    if expansion.failure is not None:
        fail_path(tree, index, expansion.failure)
    children = [tree.add(index, c.step, c.count) for c in expansion.candidates]
    for child, candidate in zip(children, expansion.candidates, strict=True):
        node = tree.nodes[child]
        node.score, node.verdict = candidate.score, candidate.verdict
        _close_or_value(tree, child, config, guided=expansion.guided)
    return children


def fail_path(tree: Tree, index: int, reason: PathFailure) -> None:
    """End a path without an answer. Its value stays unknown, because only answers have values."""
    tree.nodes[index].failure = reason
    tree.close(index)


async def score_prefixes(
    question: Question, scorer: Scorer | None, prefixes: Sequence[tuple[Step, ...]]
) -> list[float] | list[None]:
    """Return one score in [-1, 1] per prefix, or None per prefix without a scorer.

    Raises `ModelError` if the scorer returns another number of values or a value out of range.
    """
    if scorer is None or not prefixes:
        return [None] * len(prefixes)
    scores = await scorer.score(question, prefixes)
    if len(scores) != len(prefixes):
        raise ModelError(
            f"The scorer returned {len(scores)} values for {len(prefixes)} prefixes; "
            "return one value per prefix."
        )
    for score in scores:
        if not -1.0 <= score <= 1.0:
            raise ModelError(f"The scorer returned {score}; return values in [-1, 1].")
    return scores


async def judge_step(verifier: Verifier | None, step: Step) -> Verdict | None:
    """Return the verdict on a step's answer; None without a verifier or without an answer."""
    if verifier is None or step.answer is None:
        return None
    return await verifier.judge(step.answer)


def _close_or_value(tree: Tree, index: int, config: SearchConfig, *, guided: bool) -> None:
    """Close a new node if its path ends there, and record or back up its value if it has one.

    The default backup of rStar-Math happens here: an answer's value goes up to the root.
    """
    node = tree.nodes[index]
    step = node.step
    assert step is not None
    if step.answer is not None:
        value = end_value(node, guided=guided)
        if value is not None and config.backup != "rollout":
            tree.backup(index, value, config.discount)
        tree.close(index)
    elif step.kind == "answer":
        fail_path(tree, index, PathFailure.NO_ANSWER_STATED)
    elif _consecutive_failures(tree, index) >= config.max_code_errors:
        fail_path(tree, index, PathFailure.CODE_FAILED)
    elif node.depth >= config.max_depth:
        fail_path(tree, index, PathFailure.TOO_DEEP)
    elif node.score is not None and config.backup == "all":
        tree.backup(index, node.score, config.discount)
    elif node.score is not None:
        node.visits, node.value_sum = 1, node.score


def end_value(node: Node, *, guided: bool) -> float | None:
    """Return the value of the end of a path, in [-1, 1], or None if it is unknown.

    With a verifier (`guided`), an answer has the value +1 (right), -1 (wrong) or None (undecided).
    Without one, the value is the score, else the share of votes for the answer, else 0. A path
    without an answer has the value 0.
    """
    step = node.step
    if step is None or step.answer is None:
        return 0.0
    if guided:
        return None if node.verdict is None else _REWARD.get(node.verdict)
    if node.score is not None:
        return node.score
    return 0.0 if step.confidence is None else step.confidence


def _consecutive_failures(tree: Tree, index: int) -> int:
    """Return the number of consecutive failed steps at the end of a path."""
    count = 0
    while (step := tree.nodes[index].step) is not None and step.failed:
        count += 1
        index = tree.nodes[index].parent
    return count


async def run_code(executor: Executor, prefix: Sequence[Step], step: Step) -> Step:
    """Run a step's code after its prefix and return the step with its execution.

    A step without code is returned unchanged. A run counts in the cost even if the executor returns
    a cached result. The cost of a search thus does not depend on earlier searches.
    """
    if not step.code:
        return step
    execution = await executor.run(prefix, step)
    add_cost(Cost(code_runs=1, code_failures=0 if execution.ok else 1))
    return replace(step, execution=execution)
