"""Chains without search: greedy decoding and self-consistency, on the same tree type and through
the same seams."""

from dataclasses import dataclass
from time import monotonic

from rstar_math.errors import ContextExceeded
from rstar_math.meter import metering
from rstar_math.protocols import Executor, Policy
from rstar_math.search.running import executed
from rstar_math.search.tree import ROOT, Tree
from rstar_math.seeding import derive
from rstar_math.tasks import together
from rstar_math.types import Question, Step


@dataclass(frozen=True, slots=True)
class _How:
    """What every chain is made with."""

    question: Question
    policy: Policy
    executor: Executor
    depth: int


async def sample_chains(
    tree: Tree, n: int, *, policy: Policy, executor: Executor, depth: int, seed: int
) -> None:
    """Add `n` independent solutions to a tree, side by side below the root, equal ones kept apart.

    Chains that were finished before an error are kept, in the order of their first steps. A chain
    ends at its answer, at the first step whose code fails, or at `depth` steps. With n = 1 and a
    policy at temperature 0 this is greedy decoding; a majority over n is self-consistency (Wang et
    al., arXiv:2203.11171). The tree is closed: there is nothing in it for `grow` to go on with.
    """
    how = _How(tree.question, policy, executor, depth)
    started = monotonic()
    ended: list[_Chain | None] = []
    tree.nodes[ROOT].expanded = tree.nodes[ROOT].closed = True

    async def chain(at: int, first: Step) -> None:
        ended[at] = await _follow(how, first, derive(seed, tree.question.id, at))

    with metering(tree.cost):
        try:
            firsts, failure = await _next(how, (), n, derive(seed, tree.question.id, "chains"))
            tree.nodes[ROOT].failure = None if firsts else failure
            ended.extend([None] * len(firsts))
            await together(chain(at, first) for at, first in enumerate(firsts))
        finally:
            tree.cost.seconds += monotonic() - started
            for whole in ended:
                if whole is not None:
                    _graft(tree, whole)
                    tree.rollouts += 1


@dataclass(frozen=True, slots=True)
class _Chain:
    """A whole chain, and why it ended without an answer if it did."""

    steps: list[Step]
    failure: str | None


async def _follow(how: _How, first: Step, seed: int) -> _Chain:
    """Take a chain from its first step to its end."""
    steps: list[Step] = []
    step = first
    while True:
        steps.append(await executed(how.executor, steps, step))
        if step.answer is not None:
            return _Chain(steps, None)
        failure = _end(steps[-1], len(steps), how.depth)
        if failure is not None:
            return _Chain(steps, failure)
        following, failure = await _next(how, tuple(steps), 1, derive(seed, len(steps)))
        if not following:
            return _Chain(steps, failure)
        step = following[0]


def _graft(tree: Tree, chain: _Chain) -> None:
    """Put a chain below the root."""
    index = ROOT
    for step in chain.steps:
        index = tree.add(index, step)
        tree.nodes[index].closed = True
        tree.nodes[index].expanded = step is not chain.steps[-1]
    tree.nodes[index].failure = chain.failure


def _end(step: Step, at: int, depth: int) -> str | None:
    """Why a chain ends at a step that states no answer; None if it goes on."""
    if step.kind == "answer":
        return "no answer stated"
    if step.failed:
        return "code failed"
    return "too deep" if at >= depth else None


async def _next(
    how: _How, prefix: tuple[Step, ...], n: int, seed: int
) -> tuple[list[Step], str | None]:
    """Up to n next steps, and the reason where there is none."""
    try:
        steps = await how.policy.propose(how.question, prefix, n, seed=seed)
    except ContextExceeded:
        return [], "context exceeded"
    return steps, None if steps else "no next step"
