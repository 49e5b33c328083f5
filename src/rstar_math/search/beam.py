"""Step-level beam search and best-first search.

Both use only the scorer's values and do not back up. They require a scorer; a step without a score
counts as -1.
"""

from heapq import heappop, heappush

from rstar_math.concurrency import gather
from rstar_math.config.sections import SearchConfig
from rstar_math.search.budget import TokenBudget, spent_tokens, track_tree_cost
from rstar_math.search.expansion import Expansion, SearchComponents, add_children, expand
from rstar_math.search.tree import ROOT, Tree
from rstar_math.seeding import derive


async def beam(tree: Tree, width: int, *, parts: SearchComponents, config: SearchConfig) -> None:
    """Grow a tree by step-level beam search.

    In each layer, the `width` next steps with the highest scores are kept. Each path that ends
    among them narrows the beam by one. The search stops after the layer that spends
    `config.token_budget`. If the budget is too small for a whole layer, the best paths are expanded
    first.

    Sources: rStar-Math's code ("BS", width 8); AlphaMath's SBS, arXiv:2405.03553. Width 1 is a
    subtree of diverse verifier tree search (Beeching et al. 2024). With a model that judges its own
    steps, it is breadth-first Tree of Thoughts (Yao et al., arXiv:2305.10601).
    """
    frontier, free_width, budget = [ROOT], width, TokenBudget(config.token_budget)
    with track_tree_cost(tree):
        while frontier and free_width and not budget.exhausted:
            requests = [
                (node, k)
                for rank, node in enumerate(frontier)
                if (k := budget.reserve(_sample_count(node, config, width), minimum=rank == 0))
            ]
            expansions = await gather(_expand(tree, node, parts, config, k) for node, k in requests)
            children: list[int] = []
            for (node, k), expansion in zip(requests, expansions, strict=True):
                children += add_children(tree, node, expansion, config)
                budget.commit(k, spent_tokens(expansion.cost, config))
            valid = [c for c in children if tree.nodes[c].failure is None]
            best = sorted(valid, key=lambda c: -_score(tree, c))[:free_width]
            frontier = [c for c in best if not tree.nodes[c].answered]
            free_width -= len(best) - len(frontier)
            tree.rollouts += len(best) - len(frontier)


async def best_first(
    tree: Tree, answers: int, *, parts: SearchComponents, config: SearchConfig
) -> None:
    """Grow a tree by best-first search until it has found `answers` answers.

    The open path with the highest score is expanded next; ties go to the deepest. An answer
    counts once its score is the highest of all open paths. The search also stops with the request
    that spends `config.token_budget`, and after `config.rollouts` x `config.max_depth` expansions
    per answer. Source: MindStar, arXiv:2405.16265.
    """
    frontier, budget, expansions = [(0.0, 0, ROOT)], TokenBudget(config.token_budget), 0
    max_expansions = config.rollouts * config.max_depth * answers
    with track_tree_cost(tree):
        while frontier and tree.rollouts < answers and expansions < max_expansions:
            _, _, node = heappop(frontier)
            if tree.nodes[node].answered:
                tree.rollouts += 1
                continue
            if budget.exhausted:
                return
            k = budget.reserve(config.candidates)
            expansion = await _expand(tree, node, parts, config, k)
            budget.commit(k, spent_tokens(expansion.cost, config))
            expansions += 1
            for child in add_children(tree, node, expansion, config):
                if tree.nodes[child].failure is None:
                    heappush(frontier, (-_score(tree, child), -tree.nodes[child].depth, child))


def _sample_count(node: int, config: SearchConfig, width: int) -> int:
    """Return the number of samples at a node: K, but at the root enough to fill the beam."""
    return max(config.candidates, width) if node == ROOT else config.candidates


async def _expand(
    tree: Tree, node: int, parts: SearchComponents, config: SearchConfig, k: int
) -> Expansion:
    """Sample up to `k` next steps of a node."""
    seed = derive(config.seed, tree.question.id, node)
    prefix, duplicates = tree.prefix(node), config.duplicates
    return await expand(tree.question, prefix, parts, k, seed, duplicates=duplicates)


def _score(tree: Tree, index: int) -> float:
    """Return a node's score, or -1 if it has none."""
    score = tree.nodes[index].score
    return -1.0 if score is None else score
