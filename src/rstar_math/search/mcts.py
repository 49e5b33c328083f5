"""Monte Carlo tree search over reasoning steps (rStar-Math, arXiv:2501.04519, section 3).

A rollout descends from the root to a leaf by the selection rule. If the leaf is not expanded, K
next steps are sampled, executed and scored, and the descent goes on until nothing is left to
expand. rStar-Math has no separate simulation phase: every answer that is found is backed up. In
rStar (arXiv:2408.06195, section 3.2) the part of a rollout below the known tree is its simulation,
with random moves, and only the answer it ends at is backed up (`search.tie_break`,
`search.backup`).

Several rollouts may be in flight at once. Each continues in the order in which the rollouts began
to wait, never in the order in which answers arrive: the tree depends on the answers and on the
number of rollouts in flight, and on no clock.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rstar_math.config.sections import SearchConfig
from rstar_math.protocols import Executor, Policy, Scorer, Verifier
from rstar_math.search.expansion import Expansion, SearchComponents, add_children, end_value, expand
from rstar_math.search.selection import SelectionRule, best_children, selection_rule
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
    select: SelectionRule | None = None,
    on_rollout: RolloutCallback | None = None,
    enough: StopCondition | None = None,
) -> None:
    """Add `config.rollouts` rollouts to a tree, new or loaded; fewer where nothing is left to
    explore, `config.token_budget` are sampled, or `enough` says so.

    With a verifier a path's end is worth +1 (right) or -1 (wrong), the terminal-guided values of
    the paper's first rounds; a verifier is for making training data, never for evaluation.
    Without one it is worth its score, else the share of votes behind it, else 0. With a scorer a
    new node starts with its score as first value (PPM-augmented, the paper's later rounds).
    `select` takes the place of the rule that `config.selection` names. A
    `ModelError` leaves the tree valid and as far as it got, and so does cancellation. What was
    asked for when the search stops is still put into the tree: it is paid for.
    """
    search = _Search(tree, SearchComponents(policy, executor, scorer, verifier), config, select)
    waiting: deque[_InFlight] = deque()
    with track_tree_cost(tree):
        try:
            while True:
                while search.may_start(len(waiting)):
                    rollout = search.rollout(search.start())
                    waiting.append(_InFlight(rollout, next(rollout)))
                if not waiting:
                    return
                one = waiting.popleft()
                await search.expand(one.leaf)
                done = search.done
                leaf = next(one.rollout, None)
                if leaf is not None:
                    waiting.append(_InFlight(one.rollout, leaf))
                elif search.done > done:
                    if on_rollout is not None:
                        on_rollout(tree)
                    if enough is not None and await search.is_decided(enough):
                        search.stopping = True
        finally:
            await search.cancel_pending()


class _InFlight(NamedTuple):
    """A rollout under way."""

    rollout: Iterator[int]
    leaf: int
    """The node whose expansion it waits for."""


class _Search:
    """One call of `grow`: select, expand, back up."""

    def __init__(
        self,
        tree: Tree,
        parts: SearchComponents,
        config: SearchConfig,
        select: SelectionRule | None,
    ) -> None:
        valued = parts.scorer is not None or parts.verifier is not None
        self.rule = select or selection_rule(config.selection, valued=valued)
        self.tree, self.parts, self.config = tree, parts, config
        self.stopping = False
        self.before = tree.rollouts
        self.started = 0
        self.done = 0
        self.budget = TokenBudget(config.token_budget)
        self.in_flight_visits: Counter[int] = Counter()
        """Rollouts in flight through a node, for virtual loss."""
        self.expansions: dict[int, tuple[int, asyncio.Task[Expansion]]] = {}
        """By node: the number of steps asked for, and the request."""

    def may_start(self, in_flight: int) -> bool:
        """Whether another rollout may start beside those in flight."""
        return (
            in_flight < self.config.parallel_rollouts
            and self.started < self.config.rollouts
            and not self.stopping
            and not self.tree.nodes[ROOT].closed
        )

    def start(self) -> int:
        """The number of a new rollout, counted from 0 over all calls of `grow`."""
        self.started += 1
        return self.before + self.started - 1

    def rollout(self, number: int) -> Iterator[int]:
        """One rollout from the root to an end. Yields each leaf to expand, and continues once it
        is expanded; it is dropped where the search stops meanwhile."""
        path = [ROOT]
        self.in_flight_visits[ROOT] += 1
        self.descend(number, path)
        while True:
            yield path[-1]
            if self.stopping or not self.descend(number, path):
                break
        self.in_flight_visits.subtract(path)
        if not self.stopping:
            self.back_up(path)

    def descend(self, number: int, path: list[int]) -> bool:
        """Extend a path by the selection rule to a leaf, and request its expansion; False where
        the path has come to its end."""
        # A rollout whose own end counts may revisit a known end; others look for new ones.
        revisits = self.config.backup == "rollout"
        while (node := self.tree.nodes[path[-1]]).expanded:
            children = [c for c in node.children if revisits or not self.tree.nodes[c].closed]
            if not children:
                return False
            child = self.choose(number, path[-1], children)
            self.in_flight_visits[child] += 1
            path.append(child)
        if node.closed:
            return False
        self.request(path[-1])
        return True

    def choose(self, number: int, index: int, children: list[int]) -> int:
        """The child of a node to descend to."""
        best = best_children(
            self.tree,
            index,
            children,
            self.rule,
            in_flight=self.in_flight_visits,
            exploration=self.config.exploration,
        )
        if len(best) == 1 or self.config.tie_break == "first":
            return best[0]
        return best[derive(self.config.seed, self.tree.question.id, number, index) % len(best)]

    def request(self, index: int) -> None:
        """Ask for the next steps of a leaf, once; the seed depends on the tree alone."""
        if index in self.expansions:
            return
        k = self.budget.reserve(self.config.candidates)
        question = self.tree.question
        seed = derive(self.config.seed, question.id, index)
        prefix, duplicates = self.tree.prefix(index), self.config.duplicates
        steps = expand(question, prefix, self.parts, k, seed, duplicates=duplicates)
        self.expansions[index] = (k, asyncio.create_task(steps))

    async def expand(self, index: int) -> None:
        """Wait for the requested steps of a leaf and add them to the tree, unless another rollout
        has done so."""
        if index in self.expansions:
            k, task = self.expansions[index]
            found = await task
            del self.expansions[index]
            add_children(self.tree, index, found, self.config)
            self.budget.settle(k, spent_tokens(found.cost, self.config))
        if self.budget.exhausted:
            self.stopping = True

    def back_up(self, path: list[int]) -> None:
        """Count a finished rollout; with backup = "rollout", back up the value of its end."""
        for index in path:
            self.tree.nodes[index].rollouts += 1
        if self.config.backup == "rollout":
            end = path[-1]
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

    async def cancel_pending(self) -> None:
        """End the requests that no rollout waits for any more."""
        tasks = [task for _, task in self.expansions.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
