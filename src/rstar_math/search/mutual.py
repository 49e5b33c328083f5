"""rStar's mutual consistency (arXiv:2408.06195, section 3.3).

The discriminator, a second model, completes partly hidden solutions. Solutions that it completes to
the same answer are kept.

    await check_candidates(tree, discriminator=discriminator, segments=segments, group=group,
                           config=config, seed=seed)
    choice = await choose_by_agreement(tree, group, config)

`check_candidates` calls the discriminator and stores the result in the tree. `choose_by_agreement`
only reads the tree, so another rule can choose again without new requests. Neither uses verdicts or
reference answers.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from random import Random
from typing import Literal

from rstar_math.concurrency import gather
from rstar_math.config.sections import MutualConfig
from rstar_math.costs import add_cost, track_cost
from rstar_math.protocols import AnswerGrouper, Discriminator
from rstar_math.search.expansion import PATH_ERRORS
from rstar_math.search.tree import ROOT, Tree
from rstar_math.search.voting import (
    NO_CHOICE,
    Choice,
    Vote,
    one_vote_per_path,
    track_tree_cost,
    votes_of,
)
from rstar_math.seeding import derive
from rstar_math.types import Cost, Question, Step

MOST_CHARACTERS = 100
"""Of an answer that can be a candidate's (rStar's code)."""
_REFUSED = ""
"""What stands for the answer of a request that could not be served."""
_SIDE_BY_SIDE = 4
"""Candidates checked at once under a budget of tokens."""
UNANIMOUS = 0.999
"""Share of the candidates above which one answer needs no checking (rStar's code)."""
Segments = Callable[[Question, Sequence[Step]], list[str]]
"""The text of a solution in pieces at whose borders it may be cut, each with the white space that
belongs after it."""
_WORD = re.compile(r"\S+\s*")
_ALMOST = 1e-9
"""What a product of shares may be off by: 0.3 of 20 units are 6, not 7."""


def visible_prefix(units: Sequence[str], share: float) -> str:
    """The beginning of a solution that the second model is shown, without white space at its end:
    `share` of its units, rounded up, at least one and at most all but one.

    A solution of a single unit is cut between words; one of a single word is not shown at all: the
    second model then solves the problem on its own. Units that meet without white space between
    them get a blank.
    """
    parts = [unit for unit in units if unit.strip()]
    if len(parts) == 1:
        parts = _WORD.findall(parts[0])
    shown = min(max(1, ceil(share * len(parts) - _ALMOST)), len(parts) - 1)
    text = ""
    for part in parts[: max(0, shown)]:
        apart = not text or text[-1].isspace() or part[0].isspace()
        text += part if apart else f" {part}"
    return text.rstrip()


def mask_fractions(config: MutualConfig, seed: int) -> list[float]:
    """How much of a candidate is shown, each in [`low`, `high`]: for one split a uniform draw (the
    paper), for more evenly spread from `low` to `high` (rStar's code, whose words these are of; the
    paper's are steps)."""
    low, high = config.min_visible, config.max_visible
    if config.splits == 1:
        return [low + (high - low) * Random(seed).random()]
    return [low + (high - low) * at / (config.splits - 1) for at in range(config.splits)]


def dropped(tree: Tree) -> dict[int, str]:
    """Why paths that end with an answer are no candidates, by their last node: "blank answer", or
    "long answer" for one of more than 100 characters, unless there are no shorter ones."""
    reasons: dict[int, str] = {}
    for vote in votes_of(tree):
        if not vote.answer.strip():
            reasons[vote.node] = "blank answer"
        elif len(vote.answer) > MOST_CHARACTERS:
            reasons[vote.node] = "long answer"
    if len(reasons) == len(tree.answers()):
        reasons = {node: why for node, why in reasons.items() if why == "blank answer"}
    return reasons


def candidates(tree: Tree) -> list[Vote]:
    """The solutions among which is chosen, in order of creation, each with one vote."""
    out = dropped(tree)
    return [replace(b, weight=1.0) for b in votes_of(tree) if b.node not in out]


async def check_candidates(
    tree: Tree,
    *,
    peer: Discriminator,
    units: Segments,
    group: AnswerGrouper,
    config: MutualConfig,
    seed: int,
    tokens: int | None = None,
) -> dict[str, int]:
    """Have every candidate of a tree checked that was not yet, write (agreeing, asked) to its
    node's `peers`, and return how many completions came to no answer, by reason.

    A candidate is cut at each of its shares, and the peer completes each beginning once; beginnings
    that are equal, within a candidate or between two, are asked for once and answer for all. A
    completion agrees if `group` takes its answer for the candidate's; one without an answer does
    not. A request that is refused while the server answers others is nobody's word: it is not among
    those asked, and is charged as `unscored`. Where all candidates have one answer nobody is asked:
    no check could change it.

    All requests of a tree are under way together; with a budget of sampled `tokens` those of four
    candidates at a time, until it is spent, and what is left is not checked. What is asked depends
    on the tree and the seed alone. The tree is charged. Raises `ModelError` where the peer cannot
    be asked at all; as when cancelled, what was found by then stays, and a second call asks for the
    rest.
    """
    cast, empty = candidates(tree), Counter[str]()
    if not cast or _unanimous(await group([vote.answer for vote in cast])):
        return {}
    waiting = [
        (vote, _visible_prefixes(tree, vote.node, units, config, seed))
        for vote in cast
        if tree.nodes[vote.node].agreement is None
    ]
    side = len(waiting) if tokens is None else _SIDE_BY_SIDE
    asked: dict[str, asyncio.Task[str | None]] = {}

    async def check(vote: Vote, shown: Sequence[str]) -> None:
        heard = [said for begun in shown if (said := await asked[begun]) is not _REFUSED]
        found = await group([vote.answer, *(answer for answer in heard if answer is not None)])
        if heard:
            tree.nodes[vote.node].agreement = (found.count(found[0]) - 1, len(heard))

    with track_tree_cost(tree), track_cost() as spent:
        try:
            while waiting and (tokens is None or spent.sampled_tokens < tokens):
                turn, waiting = waiting[:side], waiting[side:]
                for begun in dict.fromkeys(begun for _, shown in turn for begun in shown):
                    if begun not in asked:
                        work = _complete(peer, tree.question, begun, seed, empty)
                        asked[begun] = asyncio.create_task(work)
                await gather(check(vote, shown) for vote, shown in turn)
        finally:
            for task in asked.values():
                task.cancel()
            await asyncio.gather(*asked.values(), return_exceptions=True)
    return dict(sorted(empty.items()))


async def choose_by_agreement(tree: Tree, group: AnswerGrouper, config: MutualConfig) -> Choice:
    """The answer that the search and the second model agree on.

    Of the candidates those are kept that enough completions agreed with (`is_kept`); a candidate
    that nobody was asked about only where nobody was asked about any. The answer with the highest
    score among those kept wins, of equal ones the one with more of them, then the one found first.
    Where none is kept it is a majority of all candidates, each counted once.

    - "paper": the trajectory with the highest reward times confidence of its end. The paper defines
      neither further. Here the reward is what the rollouts found on the way: the mean Q over the
      path's nodes that have one; of a path that no rollout took to an end the mean over all (the
      root's Q); 1 where a search has no values at all. The confidence is that of the last step
      where a vote was held on it, else the share of the candidates with its answer. Rewards below
      0, which rStar does not have, turn the order by confidence round. Where all rewards are 0
      the count of those kept decides.
    - "code": an answer's share of those kept, plus the share of its candidates that was kept. (The
      code means to weigh each by a reward, which comes out as 1 always.)

    `Choice.votes` are the scores by answer, of the answers of which a path was kept; `share` is
    the part of their sum.
    """
    cast = candidates(tree)
    if not cast:
        return NO_CHOICE
    groups = await group([vote.answer for vote in cast])
    unasked = all(tree.nodes[vote.node].agreement is None for vote in cast)
    kept = [
        at
        for at, vote in enumerate(cast)
        if unasked or is_kept(tree.nodes[vote.node].agreement, config.min_agreement)
    ]
    if not kept:
        return await one_vote_per_path(cast, group)
    left = Counter(groups[at] for at in kept)
    if config.score == "paper":
        worth = {at: _value(tree, cast[at], groups.count(groups[at]) / len(cast)) for at in kept}
        score = {g: max(worth[at] for at in kept if groups[at] == g) for g in left}
    else:
        worth = {at: -2.0 if (value := cast[at].value) is None else value for at in kept}
        score = {g: left[g] / len(kept) + left[g] / groups.count(g) for g in left}
    leader = max(left, key=lambda g: (round(score[g], 12), left[g]))
    shown = cast[max((at for at in kept if groups[at] == leader), key=lambda at: worth[at])]
    return Choice(
        answer=shown.answer,
        node=shown.node,
        share=_share(leader, score, left),
        votes={
            cast[groups.index(g)].answer: score[g] for g in sorted(left, key=lambda g: -score[g])
        },
    )


def is_kept(peers: tuple[int, int] | None, keep: Literal["one", "half", "all"]) -> bool:
    """Whether a candidate is kept: where at least one, at least half, or all of the completions
    agree, and one in any case."""
    if peers is None:
        return False
    agreeing, asked = peers
    return agreeing >= max(1, {"one": 1, "half": ceil(asked / 2), "all": asked}[keep])


def _visible_prefixes(
    tree: Tree, node: int, units: Segments, config: MutualConfig, seed: int
) -> list[str]:
    """What the peer is shown of a candidate, equal beginnings once."""
    parts = units(tree.question, tree.prefix(node))
    cuts = mask_fractions(config, derive(seed, tree.question.id, "split", node))
    return list(dict.fromkeys(visible_prefix(parts, share) for share in cuts))


async def _complete(
    peer: Discriminator, question: Question, begun: str, seed: int, empty: Counter[str]
) -> str | None:
    """The answer that the peer comes to from a beginning; None, counted in `empty`, where to
    none."""
    try:
        answers = await peer.answers(
            question, begun, 1, seed=derive(seed, question.id, "peer", begun)
        )
    except tuple(PATH_ERRORS) as error:
        empty[PATH_ERRORS[type(error)]] += 1
        add_cost(Cost(unscorable=1))
        return _REFUSED
    if not answers or not answers[0]:
        empty["no answer stated"] += 1
        return None
    return answers[0]


def _unanimous(groups: Sequence[int]) -> bool:
    """Whether (nearly) all candidates have one answer."""
    return max(Counter(groups).values()) / len(groups) > UNANIMOUS


def _value(tree: Tree, vote: Vote, share: float) -> float:
    """A trajectory's reward times the confidence of its end; `share` stands in for the latter."""
    values = [q for at in tree.path(vote.node) if (q := tree.nodes[at].q) is not None]
    mean = sum(values) / len(values) if values else tree.nodes[ROOT].q
    step = tree.nodes[vote.node].step
    confidence = share if step is None or step.confidence is None else step.confidence
    return (1.0 if mean is None else mean) * confidence


def _share(leader: int, score: Mapping[int, float], left: Mapping[int, int]) -> float:
    """The leader's part of all scores, in [0, 1]; of those kept, where no score is above 0."""
    total = sum(max(0.0, value) for value in score.values())
    return max(0.0, score[leader]) / total if total else left[leader] / sum(left.values())
