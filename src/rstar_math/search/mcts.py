"""Monte Carlo tree search over reasoning steps (rStar-Math, arXiv:2501.04519, section 3).

A rollout is one walk from the root that expands one layer per depth until nothing is left to go
on with. rStar-Math has no separate simulation phase, and values come from all ends that are found.
In rStar (arXiv:2408.06195, section 3.2) the part of a walk below what was there is its simulation,
at random moves, and only the end that it comes to counts: `search.tie_break` and `search.backup`.

Several rollouts may be in flight at once. Each takes up its walk again in the order in which the
walks got to wait, never in the order in which answers arrive: the tree depends on the answers and
on how many walks are in flight, and on no clock.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from rstar_math.config.sections import SearchConfig
from rstar_math.protocols import Executor, Policy, Scorer, Verifier
from rstar_math.search.expansion import Expansion, SearchComponents, add_children, end_value, expand
from rstar_math.search.selection import select
from rstar_math.search.tree import ROOT, Tree
from rstar_math.search.voting import (
    StopCondition,
    TokenBudget,
    record_savings,
    spent_tokens,
    track_tree_cost,
    unexplored_probability,
)
from rstar_math.seeding import derive

RolloutCallback = Callable[[Tree], None]


async def grow(
    tree: Tree,
    *,
    policy: Policy,
    executor: Executor,
    scorer: Scorer | None = None,
    verifier: Verifier | None = None,
    config: SearchConfig,
    on_rollout: RolloutCallback | None = None,
    enough: StopCondition | None = None,
) -> None:
    """Add `config.rollouts` rollouts to a tree, new or loaded; fewer where nothing is left to
    explore, `config.token_budget` are sampled, or `enough` says so.

    With a verifier a path's end is worth +1 (right) or -1 (wrong), the terminal-guided values of
    the paper's first rounds; a verifier is for making training data, never for evaluation.
    Without one it is worth its score, else the share of votes behind it, else 0. With a scorer a
    new node starts with its score as first value (PPM-augmented, the paper's later rounds). A
    `ModelError` leaves the tree valid and as far as it got, and so does cancellation. What was
    asked for when the search stops is still put into the tree: it is paid for.
    """
    search = _Search(tree, SearchComponents(policy, executor, scorer, verifier), config)
    with track_tree_cost(tree):
        try:
            while (walk := search.next_rollout()) is not None:
                await search.advance(walk)
                if walk.done:
                    if on_rollout is not None:
                        on_rollout(tree)
                    if enough is not None and await search.is_decided(enough):
                        search.stopping = True
        finally:
            await search.cancel_pending()


@dataclass(slots=True, eq=False)
class _Rollout:
    """A rollout under way: the nodes it went through, the last of which it may be waiting at."""

    number: int
    """Counted from 0 over all calls of `grow`; what its random moves are drawn by."""
    path: list[int] = field(default_factory=lambda: [ROOT])
    done: bool = False


class _Search:
    """One call of `grow`: the walks in flight and the expansions they wait for."""

    def __init__(self, tree: Tree, parts: SearchComponents, config: SearchConfig) -> None:
        if config.selection == "auto":
            valued = parts.scorer is not None or parts.verifier is not None
            config = config.model_copy(update={"selection": "uct" if valued else "puct"})
        self.tree, self.parts, self.config = tree, parts, config
        self.stopping = False
        self.before = tree.rollouts
        self.started = 0
        self.done = 0
        self.budget = TokenBudget(config.token_budget)
        self.rollouts: deque[_Rollout] = deque()
        self.in_flight_visits: Counter[int] = Counter()
        """Walks in flight through a node: what virtual loss is counted by."""
        self.expansions: dict[int, tuple[int, asyncio.Task[Expansion]]] = {}
        """By node: how many steps were asked for, and what brings them."""

    def next_rollout(self) -> _Rollout | None:
        """The walk whose turn it is, after new ones were sent out; None at the end."""
        while (
            len(self.rollouts) < self.config.parallel_rollouts
            and self.started < self.config.rollouts
            and not self.stopping
            and not self.tree.nodes[ROOT].closed
        ):
            walk = _Rollout(self.before + self.started)
            self.started += 1
            self.in_flight_visits[ROOT] += 1
            self.descend(walk)
            self.rollouts.append(walk)
        return self.rollouts.popleft() if self.rollouts else None

    async def advance(self, walk: _Rollout) -> None:
        """Wait for the expansion that a walk stands before, and take the walk to the next one or
        to its end."""
        at = walk.path[-1]
        if at in self.expansions:
            k, task = self.expansions[at]
            found = await task
            del self.expansions[at]
            add_children(self.tree, at, found, self.config)
            self.budget.settle(k, spent_tokens(found.cost, self.config))
        if self.budget.exhausted:
            self.stopping = True
        if self.stopping:
            self.release(walk)
        elif self.descend(walk):
            self.rollouts.append(walk)
        else:
            self.finish(walk)

    def descend(self, walk: _Rollout) -> bool:
        """Go down by the selection rule to a node that is not expanded, and have it expanded;
        False where the walk has come to its end."""
        index = walk.path[-1]
        # A walk whose end counts may go to an end that is known; others look for new ones.
        revisits = self.config.backup == "rollout"
        while True:
            node = self.tree.nodes[index]
            if not node.expanded:
                if node.closed:
                    return False
                if index not in self.expansions:
                    k = self.budget.reserve(self.config.candidates)
                    self.expansions[index] = (k, asyncio.create_task(self.expand(index, k)))
                return True
            children = [c for c in node.children if revisits or not self.tree.nodes[c].closed]
            if not children:
                return False
            index = self.choose(walk, index, children)
            self.in_flight_visits[index] += 1
            walk.path.append(index)

    def choose(self, walk: _Rollout, index: int, children: list[int]) -> int:
        """The child of a node to walk to."""
        best = select(self.tree, index, children, self.in_flight_visits, self.config)
        if len(best) == 1 or self.config.tie_break == "first":
            return best[0]
        return best[derive(self.config.seed, self.tree.question.id, walk.number, index) % len(best)]

    def expand(self, index: int, k: int) -> Coroutine[Any, Any, Expansion]:
        """The expansion of a node to k steps; its seed depends on the tree alone."""
        question = self.tree.question
        seed = derive(self.config.seed, question.id, index)
        prefix, duplicates = self.tree.prefix(index), self.config.duplicates
        return expand(question, prefix, self.parts, k, seed, duplicates=duplicates)

    def finish(self, walk: _Rollout) -> None:
        """Count a walk where it went, also where it came to nothing that has a value."""
        self.release(walk)
        walk.done = True
        for index in walk.path:
            self.tree.nodes[index].rollouts += 1
        if self.config.backup == "rollout":
            end = walk.path[-1]
            guided = self.parts.verifier is not None
            value = end_value(self.tree.nodes[end], guided=guided)
            self.tree.backup(end, value or 0.0, self.config.discount)
        self.tree.rollouts += 1
        self.done += 1

    async def is_decided(self, enough: StopCondition) -> bool:
        """Whether the search may stop."""
        if self.stopping or self.done == self.config.rollouts:
            return False
        left = self.config.rollouts - self.done
        if not await enough(self.tree, unexplored_probability(self.tree)):
            return False
        record_savings(left, self.config.token_budget, done=self.done, spent=self.budget.spent)
        return True

    def release(self, walk: _Rollout) -> None:
        """Take a walk out of the count of those in flight."""
        self.in_flight_visits.subtract(walk.path)

    async def cancel_pending(self) -> None:
        """End the expansions that nothing waits for any more."""
        tasks = [task for _, task in self.expansions.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
