"""Searches that go by the scorer's values alone and never back up: step-level beam search and
best-first search. They need a scorer; a step without a score counts as -1."""

from heapq import heappop, heappush

from rstar_math.concurrency import gather
from rstar_math.config.sections import SearchConfig
from rstar_math.search.expansion import Expansion, SearchComponents, add_children, expand
from rstar_math.search.tree import ROOT, Tree
from rstar_math.search.voting import TokenBudget, spent_tokens, track_tree_cost
from rstar_math.seeding import derive


async def beam(tree: Tree, width: int, *, parts: SearchComponents, config: SearchConfig) -> None:
    """Step-level beam search: of all next steps of a layer the `width` with the highest scores go
    on, and every path that ends among them narrows the beam by one (rStar-Math's code, "BS", there
    with width 8; AlphaMath's SBS, arXiv:2405.03553).

    Width 1 is a subtree of diverse verifier tree search (Beeching et al. 2024); with a model that
    judges itself as the scorer it is Tree of Thoughts, breadth first (Yao et al.,
    arXiv:2305.10601). Stops after the layer that reaches `config.token_budget`; where they are too
    few for all next steps of a layer, the best of the beam have theirs.
    """
    alive, room, allowance = [ROOT], width, TokenBudget(config.token_budget)
    with track_tree_cost(tree):
        while alive and room and not allowance.exhausted:
            asked = [
                (at, k)
                for i, at in enumerate(alive)
                if (k := allowance.reserve(_wanted(at, config, width), least=i == 0))
            ]
            found = await gather(_expand(tree, at, parts, config, k) for at, k in asked)
            children: list[int] = []
            for (at, k), one in zip(asked, found, strict=True):
                children += add_children(tree, at, one, config)
                allowance.settle(k, spent_tokens(one.cost, config))
            living = [c for c in children if tree.nodes[c].failure is None]
            best = sorted(living, key=lambda c: -_score(tree, c))[:room]
            alive = [c for c in best if not tree.nodes[c].answered]
            room -= len(best) - len(alive)
            tree.rollouts += len(best) - len(alive)


async def best_first(
    tree: Tree, ends: int, *, parts: SearchComponents, config: SearchConfig
) -> None:
    """Best-first search: the open path with the highest score, of any depth, is expanded next,
    until `ends` answers were the best of all that was open (MindStar, arXiv:2405.16265); of equal
    ones the deepest. Stops with the request that reaches `config.token_budget`, and after as many
    expansions for each answer as `config.rollouts` walks of `config.max_depth` steps would make."""
    frontier, allowance, expanded = [(0.0, 0, ROOT)], TokenBudget(config.token_budget), 0
    most = config.rollouts * config.max_depth * ends
    with track_tree_cost(tree):
        while frontier and tree.rollouts < ends and expanded < most:
            _, _, at = heappop(frontier)
            if tree.nodes[at].answered:
                tree.rollouts += 1
                continue
            if allowance.exhausted:
                return
            k = allowance.reserve(config.candidates)
            found = await _expand(tree, at, parts, config, k)
            allowance.settle(k, spent_tokens(found.cost, config))
            expanded += 1
            for child in add_children(tree, at, found, config):
                if tree.nodes[child].failure is None:
                    heappush(frontier, (-_score(tree, child), -tree.nodes[child].depth, child))


def _wanted(at: int, config: SearchConfig, width: int) -> int:
    """Next steps of a node: K, and at the root enough to fill the beam."""
    return max(config.candidates, width) if at == ROOT else config.candidates


async def _expand(
    tree: Tree, at: int, parts: SearchComponents, config: SearchConfig, k: int
) -> Expansion:
    """Up to k next steps of a node."""
    seed = derive(config.seed, tree.question.id, at)
    prefix, duplicates = tree.prefix(at), config.duplicates
    return await expand(tree.question, prefix, parts, k, seed, duplicates=duplicates)


def _score(tree: Tree, index: int) -> float:
    """A node's score."""
    score = tree.nodes[index].score
    return -1.0 if score is None else score
