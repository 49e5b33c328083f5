"""A second look at a finished search, after which its answer is chosen."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rstar_math.config import MutualConfig
from rstar_math.meter import as_peer, rebilled
from rstar_math.protocols import Grouper, Peer, Scorer
from rstar_math.search.answers import Choice, ballots, best
from rstar_math.search.expansion import scored
from rstar_math.search.mutual import Units, examine, mutual_choice
from rstar_math.search.stopping import on_the_bill_of
from rstar_math.search.tree import Tree
from rstar_math.types import Question


@dataclass(frozen=True, slots=True)
class Review:
    """A second look."""

    look: Callable[[Tree, int | None], Awaitable[Choice]]
    """Checks what a search found and was not checked yet, on the tree's bill and with about so many
    sampled tokens (None: as many as it takes), and chooses."""
    reserve: float = 0.0
    """Share in [0, 1) of a budget of sampled tokens that is left to it."""


def by_peer(peer: Peer, units: Units, *, group: Grouper, config: MutualConfig, seed: int) -> Review:
    """rStar's discriminator: what a second model completes to the same answer is trusted (Qi et al.
    2024, arXiv:2408.06195, section 3.3)."""

    async def review(tree: Tree, tokens: int | None) -> Choice:
        billed = _Billed(peer)
        await examine(
            tree,
            peer=billed,
            units=units,
            group=group,
            config=config,
            seed=seed,
            tokens=tokens,
        )
        return await mutual_choice(tree, group, config)

    return Review(review, config.reserve)


def by_scorer(scorer: Scorer, *, group: Grouper) -> Review:
    """The answer of the solution that a scorer, asked about whole solutions alone, values most:
    rStar's "self-verification" where the scorer is the policy's model (its table 5). What it costs
    is `scorer_tokens`, beside the budget as of every scorer."""

    async def review(tree: Tree, tokens: int | None) -> Choice:
        ends = [end for end in tree.answers() if tree.nodes[end].score is None]
        with on_the_bill_of(tree):
            values = await scored(tree.question, scorer, [tree.prefix(end) for end in ends])
        for end, value in zip(ends, values, strict=True):
            tree.nodes[end].score = value
        return await best(ballots(tree), group)

    return Review(review)


class _Billed:
    """A peer whose tokens are told apart on the bill."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def answers(
        self, question: Question, begun: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Peer`."""
        with rebilled(as_peer):
            return await self._peer.answers(question, begun, n, seed=seed)
