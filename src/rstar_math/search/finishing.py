"""An answer where a budget was spent before any path had ended."""

from rstar_math.config import SearchConfig
from rstar_math.search.expansion import Parts, attach, expansion
from rstar_math.search.stopping import on_the_bill_of
from rstar_math.search.tree import Tree
from rstar_math.seeding import derive


async def finish(tree: Tree, *, parts: Parts, config: SearchConfig) -> None:
    """Follow the open path that is furthest, of those the one with the highest score, a step at a
    time until a path ends with an answer; nothing where one has. A path that fails is left for the
    next one, with at most `config.depth` steps in all. Raises `ModelError`."""
    with on_the_bill_of(tree):
        for _ in range(config.depth):
            at = None if tree.answers() else _furthest(tree)
            if at is None:
                return
            seed = derive(config.seed, tree.question.id, at)
            found = await expansion(tree.question, tree.prefix(at), parts, 1, seed)
            for child in attach(tree, at, found, config):
                tree.rollouts += tree.nodes[child].answered


def _furthest(tree: Tree) -> int | None:
    """The node to go on from; None where every path has come to nothing."""
    open_ = [i for i, node in enumerate(tree) if not node.expanded and not node.closed]

    def rank(index: int) -> tuple[int, float, int]:
        node = tree.nodes[index]
        return node.depth, -1.0 if node.worth is None else node.worth, -index

    return max(open_, key=rank, default=None)
