"""Independent chains: greedy decoding, self-consistency and best-of-N, on the same tree type."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from rstar_math.concurrency import gather
from rstar_math.config.sections import SearchConfig
from rstar_math.costs import track_cost
from rstar_math.protocols import BlockPolicy
from rstar_math.search.expansion import (
    PATH_ERRORS,
    SearchComponents,
    end_value,
    judge_step,
    run_code,
    score_prefixes,
)
from rstar_math.search.programs import step_key
from rstar_math.search.tree import ROOT, Tree
from rstar_math.search.voting import (
    MAX_EMPTY_RUNS,
    StopCondition,
    record_savings,
    spent_tokens,
    track_tree_cost,
)
from rstar_math.seeding import derive
from rstar_math.types import Cost, Question, Step, Verdict


async def sample_chains(
    tree: Tree,
    n: int | None,
    *,
    parts: SearchComponents,
    config: SearchConfig,
    enough: StopCondition | None = None,
) -> None:
    """Add `n` independent solutions to a tree, side by side below the root, equal ones kept apart,
    each a run of its own; None for as many as `config.token_budget` allow.

    All are asked for at once; where a token budget or `enough` may end the sampling, in blocks of
    at most `config.candidates` that are sized to what is left. A chain ends at its answer, at the
    first step whose code fails, or at `config.max_depth` steps; with a scorer its end is scored.
    With n = 1 and a policy at temperature 0 this is greedy decoding; a majority over n is
    self-consistency (Wang et al., arXiv:2203.11171), the best by score best-of-N. Chains that were
    finished before an error are kept. The tree is closed: there is nothing in it for `grow` to go
    on with.

    With a verifier, for training data, each answer is judged and its value (+1 right, -1 wrong) is
    backed up, and chains share the nodes of their equal first steps (`step_key`): a node's Q is
    then the mean value of the chains that begin with it.
    """
    started, tokens, empty, before = 0, 0, 0, tree.runs
    tree.nodes[ROOT].expanded = tree.nodes[ROOT].closed = True
    with track_tree_cost(tree):
        while n is None or started < n:
            size = _block(started, tokens, n, config, stoppable=enough is not None)
            cost = await _sample_block(tree, before + started, size, parts, config)
            started += size
            tokens += spent_tokens(cost, config)
            empty = 0 if cost.sampled_tokens else empty + 1
            if config.token_budget is not None and (
                tokens >= config.token_budget or empty == MAX_EMPTY_RUNS
            ):
                return
            left = inf if n is None else n - started
            if enough is not None and left and await enough(tree, left):
                record_savings(left, config.token_budget, done=started, spent=tokens)
                return


def _block(
    started: int, tokens: int, n: int | None, config: SearchConfig, *, stoppable: bool
) -> int:
    """Chains to ask for next."""
    left = config.candidates if n is None else n - started
    if config.token_budget is not None:
        if not started:
            return 1
        each = max(1, tokens // started)
        return max(1, min(left, config.candidates, (config.token_budget - tokens) // each))
    return min(left, config.candidates) if stoppable else left


async def _sample_block(
    tree: Tree, start: int, size: int, parts: SearchComponents, config: SearchConfig
) -> Cost:
    """Add the chains `start` to `start + size` to a tree; what they cost."""
    question = tree.question
    ended: list[_Chain | None] = []

    async def chain(at: int, first: Sequence[Step]) -> None:
        seed = derive(config.seed, question.id, start + at)
        ended[at] = await _follow(_How(question, parts, config.max_depth), first, seed)

    with track_cost() as cost:
        try:
            seed = derive(config.seed, question.id, "chains", start)
            firsts, failure = await _next(question, parts, (), size, seed)
            root = tree.nodes[ROOT]
            root.failure = None if firsts or root.children else failure
            ended.extend([None] * len(firsts))
            await gather(chain(at, first) for at, first in enumerate(firsts))
        finally:
            ends = [
                _add_chain(tree, whole, start + at, config, guided=parts.verifier is not None)
                for at, whole in enumerate(ended)
                if whole is not None
            ]
        ends = [end for end in ends if tree.nodes[end].answered]
        scores = await score_prefixes(question, parts.scorer, [tree.prefix(end) for end in ends])
        for end, score in zip(ends, scores, strict=True):
            tree.nodes[end].score = score
    return cost


@dataclass(frozen=True, slots=True)
class _How:
    """What every chain is made with."""

    question: Question
    parts: SearchComponents
    depth: int


@dataclass(frozen=True, slots=True)
class _Chain:
    """A whole chain, and why it ended without an answer if it did."""

    steps: list[Step]
    failure: str | None
    verdict: Verdict | None = None


async def _follow(how: _How, first: Sequence[Step], seed: int) -> _Chain:
    """Take a chain from its first steps to its end."""
    steps: list[Step] = []
    block = first
    while True:
        for step in block:
            steps.append(await run_code(how.parts.executor, steps, step))
            if step.answer is not None:
                return _Chain(steps, None, await judge_step(how.parts.verifier, steps[-1]))
            failure = _end(steps[-1], len(steps), how.depth)
            if failure is not None:
                return _Chain(steps, failure)
        seed_here = derive(seed, len(steps))
        following, failure = await _next(how.question, how.parts, steps, 1, seed_here)
        if not following:
            return _Chain(steps, failure)
        block = following[0]


def _add_chain(tree: Tree, chain: _Chain, run: int, config: SearchConfig, *, guided: bool) -> int:
    """Put a chain below the root, if `guided` along the nodes of equal steps; its last node."""
    index = ROOT
    for step in chain.steps:
        last = step is chain.steps[-1]
        same = _equal_child(tree, index, step, last=last) if guided else None
        if same is not None:
            index = same
            tree.nodes[index].count += 1
            continue
        index = tree.add(index, step)
        node = tree.nodes[index]
        node.run = run
        node.closed = True
        node.expanded = not last
    end = tree.nodes[index]
    end.failure, end.verdict = chain.failure, chain.verdict
    tree.rollouts += 1
    if guided and end.answered and (value := end_value(end, guided=True)) is not None:
        tree.backup(index, value, config.discount)
    return index


def _equal_child(tree: Tree, parent: int, step: Step, *, last: bool) -> int | None:
    """A child that computes the same as a step, and is an end if that is one."""
    key = step_key(step)
    for child in tree.nodes[parent].children:
        node = tree.nodes[child]
        if node.expanded != last and node.step is not None and step_key(node.step) == key:
            return child
    return None


def _end(step: Step, at: int, depth: int) -> str | None:
    """Why a chain ends at a step that states no answer; None if it goes on."""
    if step.kind == "answer":
        return "no answer stated"
    if step.failed:
        return "code failed"
    return "too deep" if at >= depth else None


async def _next(
    question: Question, parts: SearchComponents, prefix: Sequence[Step], n: int, seed: int
) -> tuple[list[Sequence[Step]], str | None]:
    """Up to n ways to go on, each to the next point at which code has to be run where the policy
    can sample that far at once, else by one step; and the reason where there is none."""
    blocks: list[Sequence[Step]]
    try:
        if isinstance(parts.policy, BlockPolicy):
            blocks = [*await parts.policy.propose_blocks(question, tuple(prefix), n, seed=seed)]
        else:
            steps = await parts.policy.propose(question, tuple(prefix), n, seed=seed)
            blocks = [[step] for step in steps]
    except tuple(PATH_ERRORS) as error:
        return [], PATH_ERRORS[type(error)]
    return blocks, None if blocks else "no next step"
