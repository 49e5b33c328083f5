"""Stores the values of further scorers in a finished tree."""

from collections.abc import Mapping

from rstar_math.concurrency import gather
from rstar_math.protocols import Scorer
from rstar_math.search.budget import track_tree_cost
from rstar_math.search.expansion import score_prefixes
from rstar_math.search.tree import Tree


async def record_scores(tree: Tree, scorers: Mapping[str, Scorer]) -> None:
    """Give each node the value of each scorer, by name, that it does not have yet.

    Called after a search, which these values therefore cannot influence. Only nodes that the search
    scored are scored, or those with an answer if there are none. Raises `ModelError`.
    """
    if not scorers:
        return
    scored = [i for i, node in enumerate(tree.nodes) if node.step and node.score is not None]
    nodes = scored or tree.answer_nodes()

    async def record(name: str, scorer: Scorer) -> None:
        missing = [i for i in nodes if name not in tree.nodes[i].other_scores]
        prefixes = [tree.prefix(index) for index in missing]
        values = await score_prefixes(tree.question, scorer, prefixes)
        for index, value in zip(missing, values, strict=True):
            if value is not None:
                tree.nodes[index].other_scores[name] = value

    with track_tree_cost(tree):
        await gather(record(name, scorer) for name, scorer in scorers.items())
