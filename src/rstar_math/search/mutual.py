"""rStar's mutual consistency (arXiv:2408.06195, section 3.3).

The discriminator, a second model, completes partly hidden solutions. Solutions that it completes to
the same answer are kept.

    await check_solutions(tree, discriminator=discriminator, segments=segments, group=group,
                          config=config, seed=seed)
    choice = await choose_by_agreement(tree, group, config)

`check_solutions` calls the discriminator and stores the result in the tree. `choose_by_agreement`
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
from rstar_math.search.budget import track_tree_cost
from rstar_math.search.expansion import PATH_ERRORS
from rstar_math.search.tree import ROOT, PathFailure, Tree
from rstar_math.search.voting import NO_CHOICE, Choice, Vote, one_vote_per_path, votes_of
from rstar_math.seeding import derive
from rstar_math.types import Cost, Question, Step

MAX_ANSWER_CHARS = 100
"""Maximum length of a candidate's answer (rStar's code)."""
_REQUEST_FAILED = ""
"""Stands for the answer of a request that the server could not serve."""
_CANDIDATES_PER_BATCH = 4
"""Number of candidates checked concurrently under a token limit."""
UNANIMOUS = 0.999
"""If more than this share of the candidates agree, they are not checked (rStar's code)."""
Segments = Callable[[Question, Sequence[Step]], list[str]]
"""Splits the text of a solution into segments between which it may be cut. Each segment includes
the whitespace after it."""
_WORD = re.compile(r"\S+\s*")
_TOLERANCE = 1e-9
"""Tolerance for floating-point products: a share computed as 0.2 + 0.6 * 2 / 3, which is slightly
above 0.6, of 5 segments is 3 segments, not 4."""


def visible_prefix(segments: Sequence[str], share: float) -> str:
    """Return the beginning of a solution that the discriminator sees, without trailing whitespace.

    It holds `share` of the segments, rounded up, at least one and at most all but one. A solution
    of one segment is cut between words. A solution of one word is hidden completely, so that the
    discriminator solves the problem alone. Segments without whitespace between them are joined with
    a blank.
    """
    pieces = [segment for segment in segments if segment.strip()]
    if len(pieces) == 1:
        pieces = _WORD.findall(pieces[0])
    visible = min(max(1, ceil(share * len(pieces) - _TOLERANCE)), len(pieces) - 1)
    text = ""
    for piece in pieces[: max(0, visible)]:
        separated = not text or text[-1].isspace() or piece[0].isspace()
        text += piece if separated else f" {piece}"
    return text.rstrip()


def visible_shares(config: MutualConfig, seed: int) -> list[float]:
    """Return the visible share of a candidate per split, in [`min_visible`, `max_visible`].

    One split is drawn uniformly (the paper). Several splits are evenly spaced over the range
    (rStar's code). The paper's shares are of steps, the code's of words.
    """
    low, high = config.min_visible, config.max_visible
    if config.splits == 1:
        return [low + (high - low) * Random(seed).random()]
    return [low + (high - low) * split / (config.splits - 1) for split in range(config.splits)]


def excluded_paths(tree: Tree) -> dict[int, str]:
    """Return why paths with an answer are not candidates, by their last node.

    The reasons are "blank answer" and "long answer" (more than `MAX_ANSWER_CHARS` characters). Long
    answers are not excluded if there are no shorter ones.
    """
    reasons: dict[int, str] = {}
    for vote in votes_of(tree):
        if not vote.answer.strip():
            reasons[vote.node] = "blank answer"
        elif len(vote.answer) > MAX_ANSWER_CHARS:
            reasons[vote.node] = "long answer"
    if len(reasons) == len(tree.answer_nodes()):
        reasons = {node: reason for node, reason in reasons.items() if reason == "blank answer"}
    return reasons


def solution_votes(tree: Tree) -> list[Vote]:
    """Return one vote of weight 1 per candidate solution, in order of creation."""
    excluded = excluded_paths(tree)
    return [replace(vote, weight=1.0) for vote in votes_of(tree) if vote.node not in excluded]


async def check_solutions(
    tree: Tree,
    *,
    discriminator: Discriminator,
    segments: Segments,
    group: AnswerGrouper,
    config: MutualConfig,
    seed: int,
    max_tokens: int | None = None,
) -> dict[str, int]:
    """Check all unchecked candidates of a tree, and store the result in `Node.agreement`.

    Returns the number of completions without an answer, by reason. Each candidate is cut at its
    shares, and the discriminator completes each beginning once. Identical beginnings share one
    request, even across candidates. A completion agrees if `group` puts its answer into the class
    of the candidate's answer. A failed request (`PATH_ERRORS`) is not counted as requested; it is
    recorded as `Cost.unscorable`. If all candidates have one answer, nothing is requested, because
    no check could change the choice.

    All requests of a tree run concurrently. With `max_tokens`, four candidates are checked at a
    time until that many tokens are sampled; the others stay unchecked. The requests depend only on
    the tree and the seed. Costs are added to the tree. Raises `ModelError` if the discriminator
    cannot be called. After an error or a cancellation, results so far are kept, and a second call
    checks the rest.
    """
    votes, failures = solution_votes(tree), Counter[str]()
    if not votes or _unanimous(await group([vote.answer for vote in votes])):
        return {}
    unchecked = [
        (vote, _visible_prefixes(tree, vote.node, segments, config, seed))
        for vote in votes
        if tree.nodes[vote.node].agreement is None
    ]
    batch_size = len(unchecked) if max_tokens is None else _CANDIDATES_PER_BATCH
    requests: dict[str, asyncio.Task[str | None]] = {}

    async def check(vote: Vote, prefixes: Sequence[str]) -> None:
        results = [await requests[prefix] for prefix in prefixes]
        answers = [answer for answer in results if answer is not _REQUEST_FAILED]
        groups = await group([vote.answer, *(answer for answer in answers if answer is not None)])
        if answers:
            tree.nodes[vote.node].agreement = (groups.count(groups[0]) - 1, len(answers))

    with track_tree_cost(tree), track_cost() as cost:
        try:
            while unchecked and (max_tokens is None or cost.sampled_tokens < max_tokens):
                batch, unchecked = unchecked[:batch_size], unchecked[batch_size:]
                for prefix in dict.fromkeys(p for _, prefixes in batch for p in prefixes):
                    if prefix not in requests:
                        request = _complete(discriminator, tree.question, prefix, seed, failures)
                        requests[prefix] = asyncio.create_task(request)
                await gather(check(vote, prefixes) for vote, prefixes in batch)
        finally:
            for task in requests.values():
                task.cancel()
            await asyncio.gather(*requests.values(), return_exceptions=True)
    return dict(sorted(failures.items()))


async def choose_by_agreement(tree: Tree, group: AnswerGrouper, config: MutualConfig) -> Choice:
    """Return the answer on which the search and the discriminator agree.

    A candidate is kept if enough completions agree with it (`is_kept`). If no candidate was
    checked, all are kept. The answer with the highest score wins; ties go to the answer with more
    kept candidates, then to the one found first. If no candidate is kept, the choice is the
    majority of all candidates, one vote each.

    The score of an answer depends on `config.score`:

    - "paper": the highest product of reward and confidence over its kept candidates. The paper does
      not define the two further. Here, the reward is the mean Q over the path's nodes with a Q; if
      there are none, the root's Q; if the tree has no values, 1. The confidence is that of the last
      step if it was chosen by a vote, else the share of the candidates with this answer. Negative
      rewards would rank confident candidates last; rStar has none.
    - "code": the answer's share of the kept candidates, plus the share of its candidates that were
      kept. (rStar's code intends to weight each candidate by a reward, but the reward is always 1.)

    `Choice.votes` holds the scores of all answers with a kept candidate. `Choice.share` is the
    leader's share of their sum.
    """
    votes = solution_votes(tree)
    if not votes:
        return NO_CHOICE
    groups = await group([vote.answer for vote in votes])
    unchecked = all(tree.nodes[vote.node].agreement is None for vote in votes)
    kept = [
        i
        for i, vote in enumerate(votes)
        if unchecked or is_kept(tree.nodes[vote.node].agreement, config.min_agreement)
    ]
    if not kept:
        return await one_vote_per_path(votes, group)
    kept_count = Counter(groups[i] for i in kept)
    if config.score == "paper":
        values = {i: _value(tree, votes[i], groups.count(groups[i]) / len(votes)) for i in kept}
        scores = {g: max(values[i] for i in kept if groups[i] == g) for g in kept_count}
    else:
        values = {i: votes[i].value_or_lowest for i in kept}
        scores = {g: n / len(kept) + n / groups.count(g) for g, n in kept_count.items()}
    leader = max(kept_count, key=lambda g: (round(scores[g], 12), kept_count[g]))
    shown = votes[max((i for i in kept if groups[i] == leader), key=lambda i: values[i])]
    ranking = sorted(kept_count, key=lambda g: -scores[g])
    return Choice(
        answer=shown.answer,
        node=shown.node,
        share=_share(leader, scores, kept_count),
        votes={votes[groups.index(g)].answer: scores[g] for g in ranking},
    )


def is_kept(
    agreement: tuple[int, int] | None, min_agreement: Literal["one", "half", "all"]
) -> bool:
    """Return whether a candidate with an (agreeing, requested) count is kept.

    At least one, half or all of the completions must agree, and at least one in any case. An
    unchecked candidate (None) is not kept.
    """
    if agreement is None:
        return False
    agreeing, requested = agreement
    required = {"one": 1, "half": ceil(requested / 2), "all": requested}[min_agreement]
    return agreeing >= max(1, required)


def _visible_prefixes(
    tree: Tree, node: int, segments: Segments, config: MutualConfig, seed: int
) -> list[str]:
    """Return the distinct beginnings of a candidate that the discriminator completes."""
    pieces = segments(tree.question, tree.prefix(node))
    shares = visible_shares(config, derive(seed, tree.question.id, "split", node))
    return list(dict.fromkeys(visible_prefix(pieces, share) for share in shares))


async def _complete(
    discriminator: Discriminator,
    question: Question,
    partial: str,
    seed: int,
    failures: Counter[str],
) -> str | None:
    """Return the discriminator's answer for a partial solution.

    Returns None if the completion has no answer, and `_REQUEST_FAILED` if the request failed. Both
    are counted in `failures`, by reason.
    """
    try:
        answers = await discriminator.complete_answers(
            question, partial, 1, seed=derive(seed, question.id, "peer", partial)
        )
    except tuple(PATH_ERRORS) as error:
        failures[PATH_ERRORS[type(error)]] += 1
        add_cost(Cost(unscorable=1))
        return _REQUEST_FAILED
    if not answers or not answers[0]:
        failures[PathFailure.NO_ANSWER_STATED] += 1
        return None
    return answers[0]


def _unanimous(groups: Sequence[int]) -> bool:
    """Return whether almost all candidates have the same answer."""
    return max(Counter(groups).values()) / len(groups) > UNANIMOUS


def _value(tree: Tree, vote: Vote, answer_share: float) -> float:
    """Return a trajectory's reward times its confidence (see `choose_by_agreement`)."""
    values = [q for node in tree.path(vote.node) if (q := tree.nodes[node].q) is not None]
    reward = sum(values) / len(values) if values else tree.nodes[ROOT].q
    step = tree.nodes[vote.node].step
    confidence = answer_share if step is None or step.confidence is None else step.confidence
    return (1.0 if reward is None else reward) * confidence


def _share(leader: int, scores: Mapping[int, float], kept_count: Mapping[int, int]) -> float:
    """Return the leader's share of all scores, in [0, 1].

    If no score is above 0, return its share of the kept candidates.
    """
    total = sum(max(0.0, score) for score in scores.values())
    if total:
        return max(0.0, scores[leader]) / total
    return kept_count[leader] / sum(kept_count.values())
