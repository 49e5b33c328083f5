"""Monte Carlo tree search over reasoning steps (rStar-Math, arXiv:2501.04519, section 3).

A rollout descends from the root to a leaf by the selection rule. If the leaf is not expanded, K
next steps are sampled, executed and scored, and the descent continues until the path ends.
rStar-Math has no separate simulation phase: every answer that is found is backed up. In rStar
(arXiv:2408.06195, section 3.2), the part of a rollout below the known tree is its simulation, with
random moves. Only the answer at its end is backed up (`search.tie_break`, `search.backup`).

The path of one rollout through the code, `_Search.rollout`:

- select: `descend` walks to a leaf; `choose_child` picks each child by the selection rule.
- expand: `request_expansion` starts `expansion.expand` on the leaf; `add_expansion` waits for it
  and adds the children with `expansion.add_children`.
- back up: `add_children` calls `expansion._close_or_value` for each child, which passes the value
  of an answer up to the root. With `search.backup` = "rollout", `finish_rollout` does it instead.

Several rollouts may be in flight at once. They continue in the order in which they started to wait,
not in the order in which model answers arrive. The tree therefore depends on the model's answers
and on the number of rollouts in flight, but not on timing.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rstar_math.config.sections import SearchConfig
from rstar_math.protocols import Executor, Policy, Scorer, Verifier
from rstar_math.search.budget import (
    TokenBudget,
    record_savings,
    spent_tokens,
    track_tree_cost,
)
from rstar_math.search.expansion import Expansion, SearchComponents, add_children, end_value, expand
from rstar_math.search.selection import SelectionRule, best_children, selection_rule
from rstar_math.search.stopping import StopCondition, unexplored_probability
from rstar_math.search.tree import ROOT, Tree
from rstar_math.seeding import derive

RolloutCallback = Callable[[Tree], None]
"""Receives the tree after each rollout."""


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
    stop_condition: StopCondition | None = None,
) -> None:
    """Add `config.rollouts` rollouts to a tree, which may be new or loaded from a file.

    The search stops earlier if nothing is left to explore, if `config.token_budget` is spent, or if
    `stop_condition` returns true. `select` replaces the rule that `config.selection` names.

    Value of an answer: with a verifier, +1 (right) or -1 (wrong), the terminal-guided values of the
    paper's first rounds. Use a verifier for training data only, never for evaluation. Without one,
    the value is the score, else the share of votes for the answer, else 0. With a scorer, a new
    node's first value is its score (PPM-augmented, the paper's later rounds).

    A `ModelError` or a cancellation leaves the tree valid, with all steps found so far. Steps that
    were already requested when the search stops on its own are awaited and added, since their
    tokens are already spent.
    """
    search = _Search(tree, SearchComponents(policy, executor, scorer, verifier), config, select)
    waiting: deque[_WaitingRollout] = deque()
    with track_tree_cost(tree):
        try:
            while True:
                while search.may_start(len(waiting)):
                    leaves = search.rollout(search.next_number())
                    waiting.append(_WaitingRollout(leaves, next(leaves)))
                if not waiting:
                    return
                rollout = waiting.popleft()
                await search.add_expansion(rollout.leaf)
                finished_before = search.finished
                leaf = next(rollout.leaves, None)
                if leaf is not None:
                    waiting.append(_WaitingRollout(rollout.leaves, leaf))
                elif search.finished > finished_before:
                    if on_rollout is not None:
                        on_rollout(tree)
                    if stop_condition is not None and await search.may_stop(stop_condition):
                        search.stopping = True
        finally:
            await search.cancel_pending()


class _WaitingRollout(NamedTuple):
    """A rollout in flight that waits for an expansion."""

    leaves: Iterator[int]
    """Continues the rollout; yields the next leaf to expand."""
    leaf: int
    """The node whose expansion the rollout waits for."""


class _Search:
    """The state of one call of `grow`: select, expand, back up."""

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
        self.first_number = tree.rollouts
        self.started = 0
        self.finished = 0
        self.budget = TokenBudget(config.token_budget)
        self.in_flight_visits: Counter[int] = Counter()
        """Number of rollouts in flight through each node, for virtual loss."""
        self.expansions: dict[int, tuple[int, asyncio.Task[Expansion]]] = {}
        """Pending expansions by node: the number of samples requested, and the task."""

    def may_start(self, in_flight: int) -> bool:
        """Return whether another rollout may start, given the number in flight."""
        return (
            in_flight < self.config.parallel_rollouts
            and self.started < self.config.rollouts
            and not self.stopping
            and not self.tree.nodes[ROOT].closed
        )

    def next_number(self) -> int:
        """Return the number of a new rollout, counted from 0 over all calls of `grow`."""
        self.started += 1
        return self.first_number + self.started - 1

    def rollout(self, number: int) -> Iterator[int]:
        """Run one rollout from the root to the end of a path.

        Yields each leaf to expand; continue the iterator once the leaf is expanded. If the search
        stops in the meantime, the rollout is dropped and not counted.
        """
        path = [ROOT]
        self.in_flight_visits[ROOT] += 1
        # If the path ends here already (backup = "rollout"), nothing is pending for the node below;
        # the rollout still yields once, and the next `descend` ends it.
        self.descend(number, path)
        while True:
            yield path[-1]
            if self.stopping or not self.descend(number, path):
                break
        self.in_flight_visits.subtract(path)
        if not self.stopping:
            self.finish_rollout(path)

    def descend(self, number: int, path: list[int]) -> bool:
        """Extend `path` to a leaf by the selection rule, and request the leaf's expansion.

        Returns False if the path has ended instead.
        """
        # Rollout backup counts every visit of an end, so closed nodes are visited again.
        visits_closed = self.config.backup == "rollout"
        while (node := self.tree.nodes[path[-1]]).expanded:
            children = [c for c in node.children if visits_closed or not self.tree.nodes[c].closed]
            if not children:
                return False
            child = self.choose_child(number, path[-1], children)
            self.in_flight_visits[child] += 1
            path.append(child)
        if node.closed:
            return False
        self.request_expansion(path[-1])
        return True

    def choose_child(self, number: int, index: int, children: list[int]) -> int:
        """Return the child of node `index` to which rollout `number` descends."""
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

    def request_expansion(self, index: int) -> None:
        """Start the expansion of a leaf, unless it is already pending.

        The seed depends only on the configuration, the question and the node.
        """
        if index in self.expansions:
            return
        k = self.budget.reserve(self.config.candidates)
        question = self.tree.question
        seed = derive(self.config.seed, question.id, index)
        prefix, duplicates = self.tree.prefix(index), self.config.duplicates
        expansion = expand(question, prefix, self.parts, k, seed, duplicates=duplicates)
        self.expansions[index] = (k, asyncio.create_task(expansion))

    async def add_expansion(self, index: int) -> None:
        """Wait for the expansion of a leaf and add its children to the tree.

        Does nothing if another rollout has already added them.
        """
        if index in self.expansions:
            k, task = self.expansions[index]
            expansion = await task
            del self.expansions[index]
            add_children(self.tree, index, expansion, self.config)
            self.budget.commit(k, spent_tokens(expansion.cost, self.config))
        if self.budget.exhausted:
            self.stopping = True

    def finish_rollout(self, path: list[int]) -> None:
        """Count a finished rollout. With backup = "rollout", back up the value of its end."""
        for index in path:
            self.tree.nodes[index].rollouts += 1
        if self.config.backup == "rollout":
            end = path[-1]
            guided = self.parts.verifier is not None
            value = end_value(self.tree.nodes[end], guided=guided)
            self.tree.backup(end, value or 0.0, self.config.discount)
        self.tree.rollouts += 1
        self.finished += 1

    async def may_stop(self, stop_condition: StopCondition) -> bool:
        """Return whether the search may stop early, and record the savings if it may."""
        if self.stopping or self.finished == self.config.rollouts:
            return False
        remaining = self.config.rollouts - self.finished
        if not await stop_condition(self.tree, unexplored_probability(self.tree)):
            return False
        record_savings(
            remaining, self.config.token_budget, finished=self.finished, spent=self.budget.spent
        )
        return True

    async def cancel_pending(self) -> None:
        """Cancel expansions that are still pending after an error or a cancellation."""
        tasks = [task for _, task in self.expansions.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
