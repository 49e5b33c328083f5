"""Reviews finished searches: a discriminator or a scorer checks the paths and chooses an answer."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rstar_math.config.sections import MutualConfig
from rstar_math.costs import as_discriminator_cost, reclassify_cost
from rstar_math.protocols import AnswerGrouper, Discriminator, Scorer
from rstar_math.search.budget import track_tree_cost
from rstar_math.search.expansion import score_prefixes
from rstar_math.search.mutual import Segments, check_solutions, choose_by_agreement
from rstar_math.search.tree import Tree
from rstar_math.search.voting import Choice, best, votes_of
from rstar_math.types import Question


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A second pass over a searched tree that chooses the answer."""

    review: Callable[[Tree, int | None], Awaitable[Choice]]
    """Checks the paths that were not checked before, adds the cost to the tree, and returns the
    choice. The number is an approximate limit of sampled tokens; None is no limit."""
    budget_share: float = 0.0
    """Share of a token budget that is reserved for the review, in [0, 1)."""


def discriminator_review(
    discriminator: Discriminator,
    segments: Segments,
    *,
    group: AnswerGrouper,
    config: MutualConfig,
    seed: int,
) -> Reviewer:
    """Return rStar's review: it prefers answers that the discriminator reaches as well.

    `segments` splits solutions for masking. Source: Qi et al. 2024, arXiv:2408.06195, section 3.3.
    """

    async def review(tree: Tree, max_tokens: int | None) -> Choice:
        await check_solutions(
            tree,
            discriminator=_DiscriminatorCost(discriminator),
            segments=segments,
            group=group,
            config=config,
            seed=seed,
            max_tokens=max_tokens,
        )
        return await choose_by_agreement(tree, group, config)

    return Reviewer(review, config.budget_share)


def scorer_review(scorer: Scorer, *, group: AnswerGrouper) -> Reviewer:
    """Return a review that chooses the answer of the whole solution with the highest score.

    With the policy's own model as the scorer, it is rStar's "self-verification" (table 5). Its cost
    is counted as `scorer_tokens`, which do not count against a token budget.
    """

    async def review(tree: Tree, max_tokens: int | None) -> Choice:
        ends = [end for end in tree.answer_nodes() if tree.nodes[end].score is None]
        with track_tree_cost(tree):
            values = await score_prefixes(tree.question, scorer, [tree.prefix(end) for end in ends])
        for end, value in zip(ends, values, strict=True):
            tree.nodes[end].score = value
        return await best(votes_of(tree), group)

    return Reviewer(review)


class _DiscriminatorCost:
    """Wraps a discriminator so that its tokens also count as `discriminator_tokens`."""

    def __init__(self, discriminator: Discriminator) -> None:
        self._discriminator = discriminator

    async def complete_answers(
        self, question: Question, partial: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Discriminator`."""
        with reclassify_cost(as_discriminator_cost):
            return await self._discriminator.complete_answers(question, partial, n, seed=seed)
