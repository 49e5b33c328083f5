"""By what rule an answer was chosen, and what each path counted by it."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rstar_math.config import SearchConfig
from rstar_math.errors import RstarError
from rstar_math.evolution.store import Result
from rstar_math.search import ROOT, Tree, ballots
from rstar_math.search.answers import VOTES, Ballot, best_of_runs
from rstar_math.search.pursue import answer_rule
from rstar_math.search.strategy import parse_strategies

RULES = {
    "majority": "The most votes win; a path's vote counts how likely the model is to write it.",
    "paths": "The answer that most paths end in wins.",
    "weighted": "The highest sum of values wins: each vote counts more the better its path's value "
    "is.",
    "best": "The single path with the highest value wins, however few paths agree.",
    "top-of-runs": "The path with the highest value wins; of several independent runs, the best "
    "paths of the best of them vote.",
    "review": "A second look at the solutions decides: the score is highest where it came to the "
    "same answer.",
}
"""What is said of each rule."""
SOME_VOTE = ("top-of-runs", "review")
"""Rules by which not every path with an answer has a vote."""
_COUNTED = {**VOTES, "best": VOTES["majority"]}
_KEEP = "search.keep"


def rule_of(result: Result, tree: Tree, conditions: Mapping[str, Any]) -> str:
    """The rule that chose a result's answer, as the run's options and its tree say."""
    if tree.checked:
        return "review"
    with suppress(RstarError, ValueError):
        config = SearchConfig(answer=conditions.get("search.answer"))
        (strategy,) = parse_strategies(result.strategy)
        return answer_rule(strategy, config, scored=any(n.score is not None for n in tree))
    return "majority"


def vote_shares(tree: Tree, rule: str, conditions: Mapping[str, Any]) -> list[float] | None:
    """For each node, the share in [0, 1] of all votes that the paths through it cast by a rule;
    None where there are none."""
    below = [0.0] * len(tree)
    for ballot in _cast(tree, rule, conditions):
        below[ballot.node] += _COUNTED.get(rule, VOTES["paths"])(ballot)
    for index in range(len(tree) - 1, ROOT, -1):
        below[tree.nodes[index].parent] += below[index]
    if not below[ROOT]:
        return None
    return [weight / below[ROOT] for weight in below]


def _cast(tree: Tree, rule: str, conditions: Mapping[str, Any]) -> list[Ballot]:
    """The ballots that a rule counts (`search.answers.top_of_runs`: the best of the best of each
    run)."""
    cast = ballots(tree)
    if rule != "top-of-runs":
        return cast
    keep = conditions.get(_KEEP)
    return best_of_runs(cast, keep if isinstance(keep, int) else SearchConfig().keep)
