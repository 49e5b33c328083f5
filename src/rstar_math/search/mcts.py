"""Monte Carlo tree search over reasoning steps (rStar-Math, arXiv:2501.04519, section 3).

A rollout is one walk from the root that expands one layer per depth until nothing is left to go
on with; there is no separate simulation phase. Values come from the paths' ends.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from rstar_math.config import SearchConfig
from rstar_math.errors import ContextExceeded, ModelError
from rstar_math.meter import metering
from rstar_math.protocols import Executor, Policy, Scorer, Verifier
from rstar_math.search.running import executed
from rstar_math.search.selection import uct, uct_zero
from rstar_math.search.tree import ROOT, Node, Tree
from rstar_math.seeding import derive
from rstar_math.tasks import together
from rstar_math.types import Question, Step, Verdict

_RULES = {"first": uct, "zero": uct_zero}
_REWARD = {Verdict.RIGHT: 1.0, Verdict.WRONG: -1.0}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a search works with."""

    policy: Policy
    executor: Executor
    scorer: Scorer | None = None
    verifier: Verifier | None = None


async def grow(
    tree: Tree,
    *,
    policy: Policy,
    executor: Executor,
    scorer: Scorer | None = None,
    verifier: Verifier | None = None,
    config: SearchConfig,
    on_rollout: Callable[[Tree], None] | None = None,
) -> None:
    """Add `config.rollouts` rollouts to a tree, new or loaded; fewer where nothing is left to
    explore.

    With a verifier a path's end is worth +1 (right) or -1 (wrong), the terminal-guided values of
    the paper's first rounds; a verifier is for making training data, never for evaluation.
    Without one it is worth its score, or 0 where there is no scorer. A `ModelError` leaves the
    tree valid and as far as it got, and so does cancellation.
    """
    parts = Parts(policy, executor, scorer, verifier)
    started = monotonic()
    with metering(tree.cost):
        try:
            for _ in range(config.rollouts):
                if tree.nodes[ROOT].closed:
                    break
                await _rollout(tree, parts, config)
                tree.rollouts += 1
                if on_rollout is not None:
                    on_rollout(tree)
        finally:
            tree.cost.seconds += monotonic() - started


async def _rollout(tree: Tree, parts: Parts, config: SearchConfig) -> None:
    """Walk from the root to where nothing is left to go on with, expanding on the way."""
    index = ROOT
    while not tree.nodes[index].closed:
        if not tree.nodes[index].expanded:
            await _expand(tree, index, parts, config)
        tree.nodes[index].walks += 1
        open_children = [c for c in tree.nodes[index].children if not tree.nodes[c].closed]
        if not open_children:
            return
        index = select(tree, index, open_children, config)


def select(tree: Tree, index: int, children: list[int], config: SearchConfig) -> int:
    """The child with the highest UCT; of equal ones the first.

    A child that was walked to and led to nothing that has a value counts as -1 here, so that the
    search turns to its siblings; its Q stays unknown.
    """
    rule = _RULES[config.unvisited]
    total = max(tree.nodes[index].visits, tree.nodes[index].walks)

    def worth(child: int) -> float:
        node = tree.nodes[child]
        q = -1.0 if node.q is None and node.walks else node.q
        return rule(q, max(node.visits, node.walks), total, config.c)

    return max(children, key=worth)


async def _expand(tree: Tree, index: int, parts: Parts, config: SearchConfig) -> None:
    """Ask for next steps, drop repeated ones, run their code, score them and back up what ended.

    Everything that can fail or be cancelled comes first; the tree changes at the end, at once.
    """
    prefix = tree.prefix(index)
    seed = derive(config.seed, tree.question.id, index)
    try:
        samples = await parts.policy.propose(tree.question, prefix, config.candidates, seed=seed)
    except ContextExceeded:
        _give_up(tree, index, "context exceeded")
        return
    counts = Counter(samples)
    steps = await together(executed(parts.executor, prefix, step) for step in counts)
    scores = await _scores(tree.question, parts.scorer, [(*prefix, step) for step in steps])
    verdicts = await together(_verdict(parts.verifier, step) for step in steps)
    tree.nodes[index].expanded = True
    if not steps:
        _give_up(tree, index, "no next step")
    children = [
        tree.add(index, step, counts[plain]) for plain, step in zip(counts, steps, strict=True)
    ]
    for child, score, verdict in zip(children, scores, verdicts, strict=True):
        tree.nodes[child].score, tree.nodes[child].verdict = score, verdict
        _settle(tree, child, config, guided=parts.verifier is not None)


async def _scores(
    question: Question, scorer: Scorer | None, prefixes: list[tuple[Step, ...]]
) -> list[float] | list[None]:
    """The scorer's values, checked; None for each where there is no scorer."""
    if scorer is None or not prefixes:
        return [None] * len(prefixes)
    scores = await scorer.score(question, prefixes)
    for score in scores:
        if not -1.0 <= score <= 1.0:
            raise ModelError(f"The scorer gave {score}, and scores lie in [-1, 1]; correct it.")
    return scores


async def _verdict(verifier: Verifier | None, step: Step) -> Verdict | None:
    """The verifier's word on the answer that a step states, if both are there."""
    if verifier is None or step.answer is None:
        return None
    return await verifier.judge(step.answer)


def _settle(tree: Tree, index: int, config: SearchConfig, *, guided: bool) -> None:
    """Close a new node if its path ends there, and record its value if it has one."""
    node = tree.nodes[index]
    step = node.step
    assert step is not None
    if step.answer is not None:
        value = _reward(node) if guided else node.score or 0.0
        if value is not None:
            tree.backup(index, value)
        tree.close(index)
    elif step.kind == "answer":
        _give_up(tree, index, "no answer stated")
    elif _failed_in_a_row(tree, index) >= config.code_errors:
        _give_up(tree, index, "code failed")
    elif node.depth >= config.depth:
        _give_up(tree, index, "too deep")
    elif node.score is not None:
        node.visits, node.value_sum = 1, node.score


def _reward(node: Node) -> float | None:
    """+1 for a right end, -1 for a wrong one; None where the verifier cannot tell."""
    return None if node.verdict is None else _REWARD.get(node.verdict)


def _failed_in_a_row(tree: Tree, index: int) -> int:
    """How many of a path's last steps failed, without a break."""
    count = 0
    for step in reversed(tree.prefix(index)):
        if not step.failed:
            break
        count += 1
    return count


def _give_up(tree: Tree, index: int, reason: str) -> None:
    """End a path without an answer. Its value stays unknown: only answers are backed up."""
    tree.nodes[index].failure = reason
    tree.close(index)
