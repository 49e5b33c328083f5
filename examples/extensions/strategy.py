"""A strategy of your own: half of the size as independent programs, then a tree search.

PYTHONPATH=examples rstar solve "..." --strategy extensions.strategy:SPEC@8
"""

from rstar_math.config import SearchConfig
from rstar_math.search import SearchComponents, Tree, grow
from rstar_math.search.sampling import sample_chains
from rstar_math.search.strategies import SearchHooks, StrategySpec


async def chains_then_tree(
    tree: Tree, size: int | None, parts: SearchComponents, config: SearchConfig, hooks: SearchHooks
) -> None:
    """N/2 chains and N/2 rollouts, in one tree."""
    half = max(1, (size or config.rollouts) // 2)
    search = Tree(tree.question)
    await grow(
        search,
        policy=parts.policy,
        executor=parts.executor,
        scorer=parts.scorer,
        verifier=parts.verifier,
        config=config.model_copy(update={"rollouts": half}),
    )
    await sample_chains(tree, half, parts=parts, config=config)
    tree.merge(search)


SPEC = StrategySpec(
    "N/2 independent programs and a tree of N/2 rollouts, majority vote",
    chains_then_tree,
    default_size=8,
    scored_rule="weighted",
)
