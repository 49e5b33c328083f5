"""A lock-step scheduler, as in the public rStar-Math code: all trees that are in a rollout ask for
their next steps together, wait for the last one, run all code, wait for the last one, score all,
select, and go on one step deeper; the next rollout begins when the last tree has ended this one.

It is made of barriers around the parts that a search is given, so the search itself is the
project's own `grow`, and both schedulers do exactly the same work.
"""

import asyncio
from collections.abc import Mapping, Sequence

from rstar_math.protocols import Policy, Scorer
from rstar_math.search import Tree
from rstar_math.types import Question, Step


class LockStep:
    """Barriers that hold some trees together; a Policy and a Scorer around the given ones.

    Each tree must be grown with one rollout in flight, and `finished` be called for it at the end.
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
        """See `protocols.Policy`: comes back when all trees have their next steps."""
        if self._trees[question.id].rollouts != self._rollout[question.id]:
            self._rollout[question.id] = self._trees[question.id].rollouts
            await self._next_rollout()
        steps = await self._inner_policy.propose(question, prefix, k, seed=seed)
        await self._all()
        return steps

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`: begins when all code has run, comes back when all is scored."""
        await self._all()
        scores = await self._inner_scorer.score(question, prefixes)
        await self._all()
        return scores

    def finished(self) -> None:
        """Go on without one of the trees."""
        self._walking -= 1
        self._check()

    async def _all(self) -> None:
        """Wait for all trees that are in this rollout."""
        barrier = self._barrier
        self._arrived += 1
        self._check()
        await barrier.wait()

    async def _next_rollout(self) -> None:
        """Wait for all trees to end this rollout."""
        gate = self._gate
        self._walking -= 1
        self._between += 1
        self._check()
        await gate.wait()

    def _check(self) -> None:
        """Open what nobody is missing at any more."""
        if self._walking == 0:
            self._walking, self._between = self._between, 0
            self._gate.set()
            self._gate = asyncio.Event()
        elif self._arrived == self._walking:
            self._arrived = 0
            self._barrier.set()
            self._barrier = asyncio.Event()
