"""Particle filtering: sequential Monte Carlo over reasoning steps, weighted by a scorer.

Source: Puri et al., arXiv:2502.01618 ("Rollout Roulette"), and its code its_hub: the scorer's value
of a prefix, as a probability r in (0, 1), is the likelihood that the prefix is right. A particle is
a path. In each layer, every unfinished particle is extended by one sampled step, its weight is
multiplied by the odds r / (1 - r), and particles are resampled in proportion to their weights.
Good paths are thus continued several times, and no path is cut off for certain, unlike in a beam.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from rstar_math.concurrency import gather
from rstar_math.config.sections import SearchConfig
from rstar_math.search.budget import TokenBudget, spent_tokens, track_tree_cost
from rstar_math.search.expansion import Expansion, SearchComponents, add_children, expand
from rstar_math.search.tree import ROOT, Tree
from rstar_math.seeding import derive

MAX_LOG_ODDS = 16.0
"""Largest weight of a step, as log(r / (1 - r)): the scores -1 and 1 (its_hub: r in [1e-7,
1 - 1e-7])."""


@dataclass(frozen=True, slots=True)
class Particles:
    """All particles at one node. They have one history, and therefore one weight each."""

    node: int
    count: int
    """Number of particles, at least 1."""
    log_weight: float = 0.0
    """Logarithm of the weight of each particle, up to a constant."""


async def particle_filter(
    tree: Tree, particles: int, *, parts: SearchComponents, config: SearchConfig
) -> None:
    """Grow a tree by particle filtering with a number of particles.

    The particles at one node share it: their next steps are one request, and equal steps one child,
    so the tree is append-only and each node is expanded once. A particle whose sample has no step,
    or whose path fails, dies; the next resampling replaces it. A finished particle is not extended,
    but still takes part in resampling, as in its_hub. The search ends when all particles are
    finished or dead, and after the layer that spends `config.token_budget`. If the budget is too
    small for a layer, the particles with the highest weights are extended first.

    Resampling is systematic (Kitagawa 1996; its_hub: multinomial, which varies more). It happens
    if the effective number of particles is at most `config.resample_below` times their number.
    Departure: a step without a score counts as -1.
    """
    budget = TokenBudget(config.token_budget)
    population = [Particles(ROOT, particles)]
    with track_tree_cost(tree):
        for layer in range(config.max_depth):
            open_ones = [each for each in population if not tree.nodes[each.node].answered]
            if not open_ones or budget.exhausted:
                break
            finished = [each for each in population if tree.nodes[each.node].answered]
            extended = await _extend(tree, open_ones, budget, parts, config)
            population = [*finished, *extended]
            if effective_size(population) <= config.resample_below * particles + 1e-9:
                seed = derive(config.seed, tree.question.id, "resample", layer)
                population = resample(population, particles, seed / 2**31)
        tree.rollouts += sum(each.count for each in population if tree.nodes[each.node].answered)


async def _extend(
    tree: Tree,
    open_ones: Sequence[Particles],
    budget: TokenBudget,
    parts: SearchComponents,
    config: SearchConfig,
) -> list[Particles]:
    """Extend particles by one step each, and return the living ones at their new nodes."""
    ranked = sorted(open_ones, key=lambda each: (-each.log_weight, each.node))
    requests = [
        (each, k)
        for rank, each in enumerate(ranked)
        if (k := budget.reserve(each.count, minimum=rank == 0))
    ]
    expansions = await gather(_expand(tree, each.node, parts, config, k) for each, k in requests)
    extended: list[Particles] = []
    for (each, k), expansion in zip(requests, expansions, strict=True):
        children = add_children(tree, each.node, expansion, config)
        budget.commit(k, spent_tokens(expansion.cost, config))
        for child in children:
            node = tree.nodes[child]
            if node.failure is None:
                weight = each.log_weight + log_odds(node.score) / config.particle_temperature
                extended.append(Particles(child, node.count, weight))
    return extended


async def _expand(
    tree: Tree, node: int, parts: SearchComponents, config: SearchConfig, k: int
) -> Expansion:
    """Sample the next steps of `k` particles at a node."""
    seed = derive(config.seed, tree.question.id, node)
    prefix, duplicates = tree.prefix(node), config.duplicates
    return await expand(tree.question, prefix, parts, k, seed, duplicates=duplicates)


def log_odds(score: float | None) -> float:
    """Return log(r / (1 - r)) of a score in [-1, 1] as the probability r = (1 + score) / 2.

    The result is at most `MAX_LOG_ODDS` in absolute value; None counts as -1.
    """
    r = 0.0 if score is None else (1 + score) / 2
    if r in (0.0, 1.0):
        return MAX_LOG_ODDS if r else -MAX_LOG_ODDS
    return max(-MAX_LOG_ODDS, min(MAX_LOG_ODDS, log(r / (1 - r))))


def weights_of(population: Sequence[Particles]) -> list[float]:
    """Return the weight of all particles of each entry together; the weights sum to 1."""
    highest = max(each.log_weight for each in population)
    weights = [each.count * exp(each.log_weight - highest) for each in population]
    total = sum(weights)
    return [weight / total for weight in weights]


def effective_size(population: Sequence[Particles]) -> float:
    """Return the effective number of particles, 1 / sum w^2 (Kish 1965); 0 if there is none."""
    if not population:
        return 0.0
    pairs = zip(population, weights_of(population), strict=True)
    return 1 / sum(weight * weight / each.count for each, weight in pairs)


def resample(population: Sequence[Particles], size: int, offset: float) -> list[Particles]:
    """Return `size` particles of equal weight, drawn by systematic resampling.

    The particles are laid out on [0, 1) by weight, and those at (offset + i) / size are drawn, with
    one `offset` in [0, 1). An entry of weight w gets floor(size w) or ceil(size w) particles.
    Returns [] without particles.
    """
    if not population:
        return []
    drawn: list[Particles] = []
    end, taken = 0.0, 0
    weights = weights_of(population)
    for each, weight in zip(population, weights, strict=True):
        end += weight
        # The last entry takes the rest, whatever the rounding of the sum.
        last = each is population[-1]
        upto = size if last else min(size, max(taken, _points_below(end * size - offset)))
        if upto > taken:
            drawn.append(Particles(each.node, upto - taken))
        taken = upto
    return drawn


def _points_below(position: float) -> int:
    """Return the number of integers i >= 0 with i < position."""
    whole = int(position)
    return max(0, whole + (position > whole))
