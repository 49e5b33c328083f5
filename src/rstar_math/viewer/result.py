"""Renders one result: the answer, why it won, the chosen path, the cost."""

from collections.abc import Mapping
from contextlib import suppress
from html import escape
from typing import Any

from rstar_math.config.sections import SearchConfig
from rstar_math.errors import RstarError
from rstar_math.runs.results import Result
from rstar_math.search.strategies import answer_rule, parse_strategies
from rstar_math.search.tree import ROOT, Tree
from rstar_math.search.voting import VOTE_WEIGHTS, Vote, best_path_per_run, votes_of
from rstar_math.text import sanitize
from rstar_math.types import Problem
from rstar_math.viewer.sources import mark, state
from rstar_math.viewer.steps import answer_html, bar, chosen_path, prose_html, short, step_html
from rstar_math.viewer.tree_svg import MAX_NODES, tree_svg

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
_COUNTED = {**VOTE_WEIGHTS, "best": VOTE_WEIGHTS["majority"]}
_KEEP = "search.top_k"


def rule_of(result: Result, tree: Tree, conditions: Mapping[str, Any]) -> str:
    """The rule that chose a result's answer, as the run's options and its tree say."""
    if tree.has_discriminator_votes:
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
    for vote in _cast(tree, rule, conditions):
        below[vote.node] += _COUNTED.get(rule, VOTE_WEIGHTS["paths"])(vote)
    for index in range(len(tree) - 1, ROOT, -1):
        below[tree.nodes[index].parent] += below[index]
    if not below[ROOT]:
        return None
    return [weight / below[ROOT] for weight in below]


def _cast(tree: Tree, rule: str, conditions: Mapping[str, Any]) -> list[Vote]:
    """The votes that a rule counts (`search.voting.top_k_of_runs`: the best of the best of each
    run)."""
    cast = votes_of(tree)
    if rule != "top-of-runs":
        return cast
    keep = conditions.get(_KEEP)
    return best_path_per_run(cast, keep if isinstance(keep, int) else SearchConfig().top_k)


_ANSWERS = 12
"""Answers that are listed with their votes."""
_SMALLEST_PICTURE, _OPEN_PICTURE = 4, 120
"""Nodes from which a picture says something, and up to which it is shown unasked."""


def problem_html(problem: Problem) -> str:
    """A problem's question and reference."""
    facts = [f"<bdi>{escape(sanitize(problem.id))}</bdi>"]
    facts += [escape(sanitize(fact)) for fact in (problem.source, problem.level) if fact]
    reference = ""
    if problem.reference is not None:
        held = answer_html(problem.reference)
        reference = f'<p class="reference">Reference answer <strong>{held}</strong></p>'
    return (
        f'<h2 class="id" tabindex="-1">{" · ".join(facts)}</h2>'
        f'<p class="question" dir="auto">{prose_html(problem.question.text[:20000])}</p>{reference}'
    )


def result_html(result: Result, tree: Tree, conditions: Mapping[str, Any]) -> str:
    """A result, without the outline of its tree."""
    choice = result.choice
    sign, words = mark(result)
    answer = "no answer" if choice.answer is None else answer_html(choice.answer)
    return (
        f'<p class="answer">Answer <strong>{answer}</strong> '
        f'<span class="verdict {state(result)}">{sign} {words}</span></p>'
        f"{_why(result, tree, conditions)}{_path(result, tree)}{_picture(result, tree)}"
        f"{_cost(result, tree)}"
    )


def _why(result: Result, tree: Tree, conditions: Mapping[str, Any]) -> str:
    """Why this answer won: the rule, and what all answers had."""
    choice = result.choice
    if choice.answer is None:
        reasons = ", ".join(f"{n} {short(r, 80)}" for r, n in result.failures.items())
        ended = f" How paths ended: {reasons}." if reasons else ""
        said = f"<h3>Why there is no answer</h3><p>No path came to one.{ended}</p>"
        return f'<div class="why">{said}</div>'
    rule = rule_of(result, tree, conditions)
    said = _sentence(result, tree, rule)
    return (
        f'<div class="why"><h3>Why this answer won</h3><p>{said} '
        f'<span class="dim">{RULES[rule]}</span></p>{_table(result, tree, rule)}</div>'
    )


def _sentence(result: Result, tree: Tree, rule: str) -> str:
    """What won, by how much, before what."""
    choice, unit = result.choice, _unit(rule)
    total = sum(choice.votes.values())
    ends, many = len(tree.answers()), len(choice.votes)
    if rule in SOME_VOTE:
        same = sum(_said(tree, end) == _leader(result) for end in tree.answers())
        text = f"It had {choice.share:.0%} of the {unit}; {same} of {ends} paths end in its words"
    elif many == 1:
        paths = {1: "the one path", 2: "both paths"}.get(ends, f"all {ends} paths")
        return (
            f"It had {choice.share:.0%} of the {unit}: {paths} that came to an answer came to "
            "this one."
        )
    else:
        text = f"It had {choice.share:.0%} of the {unit}, of {many} different answers at the ends "
        text += f"of {ends} paths"
    others = [(a, v) for a, v in choice.votes.items() if a != choice.answer]
    if others and total:
        text += f"; next came {answer_html(others[0][0], 60)} with {others[0][1] / total:.0%}"
        if others[0][1] > choice.share * total + 1e-9:
            text += ", which had more votes but no path of as high a value"
        elif others[0][1] >= choice.share * total - 1e-9:
            text += ", which had as many and was found later or valued less"
    return f"{text}."


def _table(result: Result, tree: Tree, rule: str) -> str:
    """The votes by answer, with the paths that end in its very words and their best value; by a
    rule that asks not all paths, also the answers without a vote."""
    votes = dict(result.choice.votes)
    paths: dict[str, int] = {}
    values: dict[str, float] = {}
    for end in tree.answers():
        node, answer = tree.nodes[end], _said(tree, end)
        paths[answer] = paths.get(answer, 0) + 1
        value = node.q if node.score is None else node.score
        if value is not None:
            values[answer] = max(values.get(answer, -2.0), value)
    if rule in SOME_VOTE:
        votes |= {answer: 0.0 for answer in paths if answer not in votes}
    total = sum(votes.values()) or 1.0
    rows = []
    for answer, count in list(votes.items())[:_ANSWERS]:
        won = ' class="won"' if answer == _leader(result) else ""
        shown = f"{values[answer]:+.2f}" if answer in values else "–"
        rows.append(
            f'<tr{won}><th scope="row">{answer_html(answer, 80)}</th>'
            f"<td>{bar(count / total)} {count / total:.0%}</td>"
            f'<td class="number">{count:.3g}</td><td class="number">{paths.get(answer, 0)}</td>'
            f'<td class="number">{shown}</td></tr>'
        )
    more = len(votes) - len(rows)
    rest = f'<p class="dim">and {more} more answers</p>' if more > 0 else ""
    return (
        '<div class="scroll"><table class="votes"><thead><tr><th>answer</th>'
        f'<th>share</th><th class="number">{_unit(rule)}</th>'
        '<th class="number" title="paths that end in these very words">paths</th>'
        '<th class="number" title="the highest value of such a path, -1 to 1">best value</th>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{rest}"
    )


def _unit(rule: str) -> str:
    """What is counted."""
    return "score" if rule == "review" else "votes"


def _said(tree: Tree, end: int) -> str:
    """The answer at the end of a path."""
    step = tree.nodes[end].step
    return (step.answer if step else None) or ""


def _leader(result: Result) -> str | None:
    """The chosen answer in the words in which its votes are listed."""
    choice = result.choice
    if choice.answer in choice.votes:
        return choice.answer
    total = sum(choice.votes.values())
    alike = [a for a, v in choice.votes.items() if total and abs(v / total - choice.share) < 1e-9]
    return alike[0] if alike else None


def _path(result: Result, tree: Tree) -> str:
    """The chosen path, open to read."""
    path = chosen_path(tree, result.choice)
    if not path:
        return ""
    steps = "".join(f"<li>{step_html(tree.nodes[index])}</li>" for index in path)
    return (
        '<details class="chosen-path" open><summary>'
        f"The chosen path: {_many(len(path), 'step')}</summary>"
        f'<ol class="path">{steps}</ol></details>'
    )


def _picture(result: Result, tree: Tree) -> str:
    """The tree drawn, where it is small enough."""
    if not _SMALLEST_PICTURE <= len(tree) <= MAX_NODES:
        return ""
    shown = " open" if len(tree) <= _OPEN_PICTURE else ""
    return (
        f'<details class="drawn"{shown}><summary>Picture</summary>'
        f'<div class="picture" tabindex="0" role="region" aria-label="Picture of the tree">'
        f"{tree_svg(tree, result.choice)}</div></details>"
    )


def _cost(result: Result, tree: Tree) -> str:
    """What the search took."""
    cost = result.cost
    counts = ((len(tree) - 1, "step"), (tree.rollouts, "rollout"), (cost.calls, "call"))
    parts = [_many(count, noun) for count, noun in counts]
    parts.append(f"{_many(cost.sampled_tokens, 'token')} sampled")
    if cost.code_runs:
        parts.append(f"{_many(cost.code_runs, 'program')} run, {cost.code_failures} failed")
    if cost.scorer_tokens:
        parts.append(f"{cost.scorer_tokens} tokens by the scorer")
    parts.append(f"{cost.seconds:.1f} s")
    if tree.stop_reason is not None:
        parts.append(f"stopped early: {escape(sanitize(tree.stop_reason))}")
    return f'<p class="cost">{" · ".join(parts)}</p>'


def _many(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
