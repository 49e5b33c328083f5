"""Samples independent chains of steps: greedy decoding, self-consistency and best-of-N."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from rstar_math.concurrency import gather
from rstar_math.confidence import lowest_of
from rstar_math.config.sections import SearchConfig
from rstar_math.costs import track_cost
from rstar_math.protocols import BlockPolicy
from rstar_math.search.budget import (
    MAX_EMPTY_RUNS,
    record_savings,
    spent_tokens,
    track_tree_cost,
)
from rstar_math.search.confidence import quantile
from rstar_math.search.equivalence import step_key
from rstar_math.search.expansion import (
    PATH_ERRORS,
    SearchComponents,
    end_value,
    judge_step,
    run_code,
    score_prefixes,
)
from rstar_math.search.stopping import StopCondition
from rstar_math.search.tree import ROOT, PathFailure, Tree
from rstar_math.search.voting import confidence_of
from rstar_math.seeding import derive
from rstar_math.types import Cost, Question, Step, Verdict


async def sample_chains(
    tree: Tree,
    n: int | None,
    *,
    parts: SearchComponents,
    config: SearchConfig,
    stop_condition: StopCondition | None = None,
) -> None:
    """Add `n` independent chains to a tree, each a separate run below the root.

    With n = None, `config.token_budget` determines the number of chains. All chains are requested
    at once. If a token budget or `stop_condition` may end the sampling, they are requested in
    batches of at most `config.candidates`. A chain ends at its answer, at the first step whose code
    fails, or after `config.max_depth` steps. With a scorer, answers are scored. Chains that
    finished before an error or a cancellation are kept. The tree is closed, so `grow` cannot
    continue it.

    With n = 1 and a policy at temperature 0, this is greedy decoding. A majority over n chains is
    self-consistency (Wang et al., arXiv:2203.11171). The best chain by score is best-of-N.

    With `config.chain_stop`, the first `config.warmup_chains` chains set a threshold, and a later
    chain ends ("unlikely") as soon as a window of its tokens is below it. Chains are then sampled
    step by step. Source: DeepConf, Fu et al., arXiv:2508.15260, section 3.3, "online"; there a
    chain may end within a step.

    With a verifier (for training data), each answer is judged, and its value (+1 right, -1 wrong)
    is backed up. Chains then share the nodes of equal first steps (`step_key`). A node's Q is the
    mean value of the chains that begin with it. Without a verifier, equal chains are kept separate.
    """
    started, tokens, empty_batches, runs_before = 0, 0, 0, tree.runs
    tree.nodes[ROOT].expanded = tree.nodes[ROOT].closed = True
    with track_tree_cost(tree):
        while n is None or started < n:
            size = _batch_size(started, tokens, n, config, stoppable=stop_condition is not None)
            threshold = None
            if config.chain_stop != "none" and started >= config.warmup_chains:
                threshold = _threshold(tree, runs_before, config)
            limits = _Limits(config, threshold)
            cost = await _sample_batch(tree, runs_before + started, size, parts, limits)
            started += size
            tokens += spent_tokens(cost, config)
            empty_batches = 0 if cost.sampled_tokens else empty_batches + 1
            if config.token_budget is not None and (
                tokens >= config.token_budget or empty_batches == MAX_EMPTY_RUNS
            ):
                return
            remaining = inf if n is None else n - started
            if stop_condition is not None and remaining and await stop_condition(tree, remaining):
                record_savings(remaining, config.token_budget, finished=started, spent=tokens)
                return


def _batch_size(
    started: int, tokens: int, n: int | None, config: SearchConfig, *, stoppable: bool
) -> int:
    """Return the number of chains to request next.

    With a token budget, the first batch is one chain, whose cost sizes the next batch.
    """
    remaining = config.candidates if n is None else n - started
    if config.chain_stop != "none" and started < config.warmup_chains:
        remaining = min(remaining, config.warmup_chains - started)
    if config.token_budget is not None:
        if not started:
            return 1
        tokens_per_chain = max(1, tokens // started)
        affordable = (config.token_budget - tokens) // tokens_per_chain
        return max(1, min(remaining, config.candidates, affordable))
    return min(remaining, config.candidates) if stoppable else remaining


@dataclass(frozen=True, slots=True)
class _Limits:
    """When chains end before their answer."""

    config: SearchConfig
    threshold: float | None = None
    """Confidence below which a chain ends, in [0, 1]; None while chains are not stopped."""

    @property
    def by_step(self) -> bool:
        """Whether each request samples one step only."""
        return self.config.chain_stop != "none"

    def is_unlikely(self, steps: Sequence[Step]) -> bool:
        """Return whether the lowest window of a chain is below the threshold."""
        found = None if self.threshold is None else _lowest_confidence(steps, self.config)
        return found is not None and self.threshold is not None and found < self.threshold


def _lowest_confidence(steps: Sequence[Step], config: SearchConfig) -> float | None:
    """Return the confidence of the lowest window of a chain."""
    measure = lowest_of(config.confidence_measure)
    return confidence_of(steps, measure, config.confidence_window)


def _threshold(tree: Tree, first_run: int, config: SearchConfig) -> float | None:
    """Return the threshold that the warm-up chains set; None without log-probabilities.

    "low" keeps the best 10 % of them, "high" the best 90 %.
    """
    parents = {node.parent for node in tree}
    runs = range(first_run, first_run + config.warmup_chains)
    ends = [i for i, node in enumerate(tree) if i and i not in parents and node.run in runs]
    found = [_lowest_confidence(tree.prefix(end), config) for end in ends]
    values = [value for value in found if value is not None]
    return quantile(values, 0.9 if config.chain_stop == "low" else 0.1) if values else None


async def _sample_batch(
    tree: Tree, first_run: int, size: int, parts: SearchComponents, limits: _Limits
) -> Cost:
    """Add up to `size` chains to a tree, numbered from `first_run`, and return their cost."""
    question, config = tree.question, limits.config
    chains: list[_Chain | None] = []
    drafts: list[list[Step]] = []

    async def complete(index: int, first_steps: Sequence[Step]) -> None:
        seed = derive(config.seed, question.id, first_run + index)
        chains[index] = await _complete_chain(
            question, parts, drafts[index], first_steps, limits=limits, seed=seed
        )

    with track_cost() as cost:
        try:
            seed = derive(config.seed, question.id, "chains", first_run)
            beginnings, failure = await _continuations(
                question, parts, (), size, seed, by_step=limits.by_step
            )
            root = tree.nodes[ROOT]
            root.failure = None if beginnings or root.children else failure
            chains.extend([None] * len(beginnings))
            drafts.extend([] for _ in beginnings)
            tree.in_progress = [partial(_draft_tree, question, draft) for draft in drafts]
            await gather(complete(index, steps) for index, steps in enumerate(beginnings))
        finally:
            tree.in_progress = []
            ends = [
                _add_chain(
                    tree, chain, first_run + index, config, guided=parts.verifier is not None
                )
                for index, chain in enumerate(chains)
                if chain is not None
            ]
        ends = [end for end in ends if tree.nodes[end].answered]
        scores = await score_prefixes(question, parts.scorer, [tree.prefix(end) for end in ends])
        for end, score in zip(ends, scores, strict=True):
            tree.nodes[end].score = score
    return cost


@dataclass(frozen=True, slots=True)
class _Chain:
    """A finished chain."""

    steps: list[Step]
    failure: PathFailure | None
    """Why the chain ended without an answer; None if it has one."""
    verdict: Verdict | None = None


async def _complete_chain(
    question: Question,
    parts: SearchComponents,
    steps: list[Step],
    first_steps: Sequence[Step],
    *,
    limits: _Limits,
    seed: int,
) -> _Chain:
    """Run and extend a chain until it ends. Its steps are appended to `steps`."""
    block = first_steps
    while True:
        if limits.is_unlikely([*steps, *block]):
            steps.extend(block)
            return _Chain(steps, PathFailure.UNLIKELY)
        for step in block:
            steps.append(await run_code(parts.executor, steps, step))
            if step.answer is not None:
                return _Chain(steps, None, await judge_step(parts.verifier, steps[-1]))
            failure = _failure(steps[-1], len(steps), limits.config.max_depth)
            if failure is not None:
                return _Chain(steps, failure)
        blocks, failure = await _continuations(
            question, parts, steps, 1, derive(seed, len(steps)), by_step=limits.by_step
        )
        if not blocks:
            return _Chain(steps, failure)
        block = blocks[0]


def _draft_tree(question: Question, steps: Sequence[Step]) -> Tree:
    """Return a tree with the steps of an unfinished chain."""
    tree, index = Tree(question), ROOT
    for step in steps:
        index = tree.add(index, step)
    return tree


def _add_chain(tree: Tree, chain: _Chain, run: int, config: SearchConfig, *, guided: bool) -> int:
    """Add a chain below the root and return its last node.

    With `guided`, the chain shares the existing nodes of equal steps.
    """
    index = ROOT
    for step in chain.steps:
        last = step is chain.steps[-1]
        shared = _equal_child(tree, index, step, last=last) if guided else None
        if shared is not None:
            index = shared
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
    """Return a child with the same `step_key` as a step, or None.

    Only an end (`last`) equals an end, and only an inner node equals an inner node.
    """
    key = step_key(step)
    for child in tree.nodes[parent].children:
        node = tree.nodes[child]
        if node.expanded != last and node.step is not None and step_key(node.step) == key:
            return child
    return None


def _failure(step: Step, depth: int, max_depth: int) -> PathFailure | None:
    """Return why a chain ends at a step without an answer, or None if it continues."""
    if step.kind == "answer":
        return PathFailure.NO_ANSWER_STATED
    if step.failed:
        return PathFailure.CODE_FAILED
    return PathFailure.TOO_DEEP if depth >= max_depth else None


async def _continuations(
    question: Question,
    parts: SearchComponents,
    prefix: Sequence[Step],
    n: int,
    seed: int,
    *,
    by_step: bool,
) -> tuple[list[Sequence[Step]], PathFailure | None]:
    """Return up to `n` continuations of a prefix, or the reason why there are none.

    A `BlockPolicy` samples each continuation up to the next code execution, any other policy, and
    any with `by_step`, one step.
    """
    blocks: list[Sequence[Step]]
    try:
        if isinstance(parts.policy, BlockPolicy) and not by_step:
            blocks = [*await parts.policy.propose_blocks(question, tuple(prefix), n, seed=seed)]
        else:
            steps = await parts.policy.propose(question, tuple(prefix), n, seed=seed)
            blocks = [[step] for step in steps]
    except tuple(PATH_ERRORS) as error:
        return [], PATH_ERRORS[type(error)]
    return blocks, None if blocks else PathFailure.NO_NEXT_STEP
