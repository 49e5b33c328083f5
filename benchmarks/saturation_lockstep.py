"""A lock-step scheduler, as in the public rStar-Math code.

All trees request their next steps together and wait for the last response. Then all code runs, all
steps are scored, and all trees select and go one step deeper. The next rollout begins when the last
tree has finished the current one.

The scheduler consists of barriers around the components of the project's own `grow`, so both
schedulers do exactly the same work.
"""

import asyncio
from collections.abc import Mapping, Sequence

from rstar_math.protocols import Policy, Scorer
from rstar_math.search import Tree
from rstar_math.types import Question, Step


class LockStep:
    """A Policy and a Scorer with barriers that synchronize several trees.

    Each tree must be grown with one rollout in flight. Call `finished` for a tree at its end.
    """

    def __init__(self, trees: Mapping[str, Tree], policy: Policy, scorer: Scorer) -> None:
        self._trees, self._inner_policy, self._inner_scorer = trees, policy, scorer
        self._rollout = dict.fromkeys(trees, 0)
        self._walking = len(trees)
        self._arrived = self._between = 0
        self._barrier, self._gate = asyncio.Event(), asyncio.Event()

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`. Returns when all trees have their next steps."""
        if self._trees[question.id].rollouts != self._rollout[question.id]:
            self._rollout[question.id] = self._trees[question.id].rollouts
            await self._next_rollout()
        steps = await self._inner_policy.propose(question, prefix, k, seed=seed)
        await self._all()
        return steps

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. Starts when all code has run, returns when all are scored."""
        await self._all()
        scores = await self._inner_scorer.score(question, prefixes)
        await self._all()
        return scores

    def finished(self) -> None:
        """Remove a tree from all barriers."""
        self._walking -= 1
        self._check()

    async def _all(self) -> None:
        """Wait for all trees that take part in this rollout."""
        barrier = self._barrier
        self._arrived += 1
        self._check()
        await barrier.wait()

    async def _next_rollout(self) -> None:
        """Wait for all trees to finish this rollout."""
        gate = self._gate
        self._walking -= 1
        self._between += 1
        self._check()
        await gate.wait()

    def _check(self) -> None:
        """Open each barrier that all its trees have reached."""
        if self._walking == 0:
            self._walking, self._between = self._between, 0
            self._gate.set()
            self._gate = asyncio.Event()
        elif self._arrived == self._walking:
            self._arrived = 0
            self._barrier.set()
            self._barrier = asyncio.Event()
