"""The second look: a discriminator or a verifier checks the paths of a search and chooses."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rstar_math.config.sections import MutualConfig
from rstar_math.costs import as_discriminator_cost, reclassify_cost
from rstar_math.protocols import AnswerGrouper, Discriminator, Scorer
from rstar_math.search.expansion import score_prefixes
from rstar_math.search.mutual import Segments, check_candidates, choose_by_agreement
from rstar_math.search.tree import Tree
from rstar_math.search.voting import Choice, best, track_tree_cost, votes_of
from rstar_math.types import Question


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A second look."""

    review: Callable[[Tree, int | None], Awaitable[Choice]]
    """Checks what a search found and was not checked yet, on the tree's bill and with about so many
    sampled tokens (None: as many as it takes), and chooses."""
    budget_share: float = 0.0
    """Share in [0, 1) of a budget of sampled tokens that is left to it."""


def discriminator_review(
    peer: Discriminator, units: Segments, *, group: AnswerGrouper, config: MutualConfig, seed: int
) -> Reviewer:
    """rStar's discriminator: what a second model completes to the same answer is trusted (Qi et al.
    2024, arXiv:2408.06195, section 3.3)."""

    async def review(tree: Tree, tokens: int | None) -> Choice:
        billed = _DiscriminatorCost(peer)
        await check_candidates(
            tree,
            peer=billed,
            units=units,
            group=group,
            config=config,
            seed=seed,
            tokens=tokens,
        )
        return await choose_by_agreement(tree, group, config)

    return Reviewer(review, config.budget_share)


def scorer_review(scorer: Scorer, *, group: AnswerGrouper) -> Reviewer:
    """The answer of the solution that a scorer, asked about whole solutions alone, values most:
    rStar's "self-verification" where the scorer is the policy's model (its table 5). What it costs
    is `scorer_tokens`, beside the budget as of every scorer."""

    async def review(tree: Tree, tokens: int | None) -> Choice:
        ends = [end for end in tree.answers() if tree.nodes[end].score is None]
        with track_tree_cost(tree):
            values = await score_prefixes(tree.question, scorer, [tree.prefix(end) for end in ends])
        for end, value in zip(ends, values, strict=True):
            tree.nodes[end].score = value
        return await best(votes_of(tree), group)

    return Reviewer(review)


class _DiscriminatorCost:
    """A peer whose tokens are told apart on the bill."""

    def __init__(self, peer: Discriminator) -> None:
        self._peer = peer

    async def answers(
        self, question: Question, begun: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Discriminator`."""
        with reclassify_cost(as_discriminator_cost):
            return await self._peer.answers(question, begun, n, seed=seed)
