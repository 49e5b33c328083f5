"""Renders one result: the answer, why it won, the chosen path, the cost."""

from collections.abc import Mapping
from contextlib import suppress
from html import escape
from typing import Any

from rstar_math.config.sections import SearchConfig
from rstar_math.errors import RstarError
from rstar_math.runs.results import Result, confidence_options
from rstar_math.search.node_states import NodeState, node_states
from rstar_math.search.strategies import answer_rule_name, parse_strategies
from rstar_math.search.tree import ROOT, Tree
from rstar_math.search.tree_svg import MAX_NODES, tree_svg
from rstar_math.search.voting import VOTE_WEIGHTS, Vote, best_path_per_run, votes_of
from rstar_math.task_records import image_uri
from rstar_math.tasks import Kind
from rstar_math.text import count_noun, sanitize
from rstar_math.types import Problem, Step
from rstar_math.viewer.sources import result_state, state_mark
from rstar_math.viewer.steps import (
    answer_html,
    bar,
    chosen_path,
    code_html,
    prose_html,
    shorten_html,
    step_html,
)

RULE_DESCRIPTIONS = {
    "majority": "The answer with the most votes wins. Each vote is weighted by the probability "
    "of its path under the model.",
    "paths": "The answer at the end of the most paths wins.",
    "weighted": "The answer with the highest sum of votes wins. Each vote is weighted by the "
    "value of its path.",
    "confidence": "The answer with the highest sum of votes wins. Each vote is weighted by the "
    "model's confidence in its path.",
    "best": "The answer of the path with the highest value wins.",
    "top-of-runs": "The path with the highest value wins. With several independent runs, the best "
    "path of each run votes.",
    "review": "A second model reviews the solutions. The score is highest if it finds the same "
    "answer.",
}
"""A description of each rule."""
PARTIAL_VOTES = ("top-of-runs", "review")
"""Rules where not every path with an answer has a vote."""
_VOTE_WEIGHTS = {**VOTE_WEIGHTS, "best": VOTE_WEIGHTS["majority"]}
_TOP_K = "search.top_k"


def rule_of(result: Result, tree: Tree, conditions: Mapping[str, Any]) -> str:
    """The rule that chose a result's answer, from the run's options and the tree."""
    if tree.has_discriminator_votes:
        return "review"
    with suppress(RstarError, ValueError):
        config = SearchConfig(answer=conditions.get("search.answer"))
        (strategy,) = parse_strategies(result.strategy)
        return answer_rule_name(strategy, config, scored=any(n.score is not None for n in tree))
    return "majority"


def vote_shares(tree: Tree, rule: str, conditions: Mapping[str, Any]) -> list[float] | None:
    """The share in [0, 1] of all votes that paths through each node have; None without votes."""
    weights = [0.0] * len(tree)
    for vote in _counted_votes(tree, rule, conditions):
        weights[vote.node] += _VOTE_WEIGHTS.get(rule, VOTE_WEIGHTS["paths"])(vote)
    for index in range(len(tree) - 1, ROOT, -1):
        weights[tree.nodes[index].parent] += weights[index]
    if not weights[ROOT]:
        return None
    return [weight / weights[ROOT] for weight in weights]


def _counted_votes(tree: Tree, rule: str, conditions: Mapping[str, Any]) -> list[Vote]:
    """The votes that a rule counts. The rule top-of-runs counts the best paths of each run."""
    votes = votes_of(tree, confidence_options(conditions))
    if rule != "top-of-runs":
        return votes
    top_k = conditions.get(_TOP_K)
    return best_path_per_run(votes, top_k if isinstance(top_k, int) else SearchConfig().top_k)


_MAX_IMAGE_BYTES = 4 << 20
"""Maximum size of the pictures of one question in a page, in bytes."""
_SHOWN_IMAGES = frozenset(["image/png", "image/jpeg", "image/gif", "image/webp"])
_MAX_REJECTED = 20
"""Maximum number of rejected samples in a page."""
_MAX_ANSWERS = 12
"""Maximum number of answers in the table of votes."""
_MIN_PICTURE_NODES, _MAX_OPEN_PICTURE_NODES = 4, 120
"""Trees in this range have an open picture. Larger ones have a folded picture."""


def problem_html(problem: Problem) -> str:
    """The question and the reference answer of a problem."""
    facts = [f"<bdi>{escape(sanitize(problem.id))}</bdi>"]
    facts += [escape(sanitize(fact)) for fact in (problem.source, problem.level) if fact]
    reference = ""
    if problem.reference is not None:
        answer = answer_html(problem.reference_text or "")
        reference = f'<p class="reference">Reference answer <strong>{answer}</strong></p>'
    return (
        f'<h2 class="id" tabindex="-1">{" · ".join(facts)}</h2>'
        f'<p class="question" dir="auto">{prose_html(problem.question.shown[:20000])}</p>'
        f"{_pictures(problem)}{reference}"
    )


def _pictures(problem: Problem) -> str:
    """The pictures of a question, as data in the page. Large ones are only named."""
    parts: list[str] = []
    room = _MAX_IMAGE_BYTES
    for number, image in enumerate(problem.question.images, 1):
        label = f"Picture {number} of the question"
        if len(image.data) > room or image.media_type not in _SHOWN_IMAGES:
            parts.append(f"<p>{label}: {len(image.data)} bytes, not shown.</p>")
            continue
        room -= len(image.data)
        parts.append(
            f'<figure><img class="picture" src="{image_uri(image)}" alt="{label}"></figure>'
        )
    return "".join(parts)


def result_html(
    result: Result, tree: Tree, conditions: Mapping[str, Any], *, finished: bool = True
) -> str:
    """The page section of a result, without the tree's outline.

    Of an unfinished search (`finished=False`) it shows the votes so far.
    """
    choice = result.choice
    if not finished:
        return _unfinished(result, tree, conditions)
    symbol, description = state_mark(result_state(result))
    verdict = f'<span class="verdict {result_state(result)}">{symbol} {description}</span>'
    if choice.answer is None:
        answer = f'<p class="answer">Answer <strong>no answer</strong> {verdict}</p>'
    elif tree.question.kind is Kind.CODE:
        program = code_html(Step(code=choice.answer))
        answer = f'<p class="answer">Answer: the program {verdict}</p>{program}'
    else:
        text = answer_html(choice.answer)
        answer = f'<p class="answer">Answer <strong>{text}</strong> {verdict}</p>'
    return (
        f"{answer}"
        f"{_why(result, tree, conditions)}{_path(result, tree)}{_picture(result, tree)}"
        f"{_rejected(tree)}{_cost(result, tree)}"
    )


def _unfinished(result: Result, tree: Tree, conditions: Mapping[str, Any]) -> str:
    """The votes, the picture and the cost of a search that is not finished."""
    symbol, description = state_mark("growing")
    answer, table = "no answer", ""
    if result.choice.answer is not None:
        answer = answer_html(result.choice.answer)
        votes = _vote_table(result, tree, rule_of(result, tree, conditions))
        table = f'<div class="why"><h3>Votes so far</h3>{votes}</div>'
    return (
        f'<p class="answer">So far <strong>{answer}</strong> '
        f'<span class="verdict growing">{symbol} {description}</span></p>'
        f"{table}{_picture(result, tree)}{_rejected(tree)}{_cost(result, tree)}"
    )


def _why(result: Result, tree: Tree, conditions: Mapping[str, Any]) -> str:
    """Why this answer won: the rule, and the votes of all answers."""
    choice = result.choice
    if choice.answer is None:
        reasons = ", ".join(f"{n} {shorten_html(r, 80)}" for r, n in result.failures.items())
        ends = f" How the paths ended: {reasons}." if reasons else ""
        html = f"<h3>Why there is no answer</h3><p>No path ended with an answer.{ends}</p>"
        return f'<div class="why">{html}</div>'
    rule = rule_of(result, tree, conditions)
    summary = _vote_summary(result, tree, rule)
    return (
        f'<div class="why"><h3>Why this answer won</h3><p>{summary} '
        f'<span class="dim">{RULE_DESCRIPTIONS[rule]}</span></p>'
        f"{_vote_table(result, tree, rule)}</div>"
    )


def _vote_summary(result: Result, tree: Tree, rule: str) -> str:
    """One sentence: the winner's share of the votes, and the runner-up."""
    choice, unit = result.choice, _unit(rule)
    total = sum(choice.votes.values())
    paths, answers = len(tree.answer_nodes()), len(choice.votes)
    text = f"The answer has {choice.share:.0%} of the {unit}"
    if rule in PARTIAL_VOTES:
        same = sum(_final_answer(tree, end) == _winner(result) for end in tree.answer_nodes())
        text += f"; {same} of {paths} paths end with it"
    elif answers == 1:
        every = {1: "the only path", 2: "both paths"}.get(paths, f"all {paths} paths")
        return f"{text}: {every} with an answer {'ends' if paths == 1 else 'end'} with it."
    else:
        text += f"; {paths} paths end with {answers} different answers"
    others = [(a, v) for a, v in choice.votes.items() if a != choice.answer]
    if others and total:
        text += f". The next answer is {answer_html(others[0][0], 60)} with "
        text += f"{others[0][1] / total:.0%}"
        if others[0][1] > choice.share * total + 1e-9:
            text += "; it has more votes, but no path with as high a value"
        elif others[0][1] >= choice.share * total - 1e-9:
            text += "; it has as many votes, but was found later or has a lower value"
    return f"{text}."


def _vote_table(result: Result, tree: Tree, rule: str) -> str:
    """A table of the votes by answer, with the paths that end with exactly this text and their best
    value. For rules in `PARTIAL_VOTES` it includes the answers without votes."""
    votes = dict(result.choice.votes)
    paths: dict[str, int] = {}
    values: dict[str, float] = {}
    for end in tree.answer_nodes():
        node, answer = tree.nodes[end], _final_answer(tree, end)
        paths[answer] = paths.get(answer, 0) + 1
        value = node.q if node.score is None else node.score
        if value is not None:
            values[answer] = max(values.get(answer, -2.0), value)
    if rule in PARTIAL_VOTES:
        votes |= {answer: 0.0 for answer in paths if answer not in votes}
    total = sum(votes.values()) or 1.0
    rows = []
    for answer, count in list(votes.items())[:_MAX_ANSWERS]:
        won = ' class="won"' if answer == _winner(result) else ""
        shown = f"{values[answer]:+.2f}" if answer in values else "–"
        rows.append(
            f'<tr{won}><th scope="row">{answer_html(answer, 80)}</th>'
            f"<td>{bar(count / total)} {count / total:.0%}</td>"
            f'<td class="number">{count:.3g}</td><td class="number">{paths.get(answer, 0)}</td>'
            f'<td class="number">{shown}</td></tr>'
        )
    more = len(votes) - len(rows)
    rest = f'<p class="dim">and {count_noun(more, "more answer")}</p>' if more > 0 else ""
    return (
        '<div class="scroll"><table class="votes"><thead><tr><th>answer</th>'
        f'<th>share</th><th class="number">{_unit(rule)}</th>'
        '<th class="number" title="paths that end with exactly this text">paths</th>'
        '<th class="number" title="highest value of these paths, -1 to 1">best value</th>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{rest}"
    )


def _unit(rule: str) -> str:
    """The unit of a rule's votes."""
    return "score" if rule == "review" else "votes"


def _final_answer(tree: Tree, end: int) -> str:
    """The answer at the end of a path."""
    step = tree.nodes[end].step
    return (step.answer if step else None) or ""


def _winner(result: Result) -> str | None:
    """The chosen answer as spelled in the votes."""
    choice = result.choice
    if choice.answer in choice.votes:
        return choice.answer
    total = sum(choice.votes.values())
    same_share = [
        answer
        for answer, votes in choice.votes.items()
        if total and abs(votes / total - choice.share) < 1e-9
    ]
    return same_share[0] if same_share else None


def _path(result: Result, tree: Tree) -> str:
    """The steps of the chosen path."""
    path = chosen_path(tree, result.choice)
    if not path:
        return ""
    steps = "".join(f"<li>{step_html(tree.nodes[index])}</li>" for index in path)
    return (
        '<details class="chosen-path" open><summary>'
        f"Chosen path: {count_noun(len(path), 'step')}</summary>"
        f'<ol class="path">{steps}</ol></details>'
    )


def _picture(result: Result, tree: Tree) -> str:
    """A picture of the tree, or "" if it is too small or too large."""
    if not _MIN_PICTURE_NODES <= len(tree) <= MAX_NODES:
        return ""
    is_open = " open" if len(tree) <= _MAX_OPEN_PICTURE_NODES else ""
    legend = _legend(result, tree)
    return (
        f'<details class="drawn"{is_open}><summary>Picture of the tree</summary>'
        f'<div class="picture" tabindex="0" role="region" aria-label="Picture of the tree">'
        f"{tree_svg(tree, result.choice, result.verdict)}</div>{legend}</details>"
    )


def _legend(result: Result, tree: Tree) -> str:
    """What the colours of the picture and the outline mean; only those that occur."""
    found = set(node_states(tree, result.choice, result.verdict))
    items = [(str(state), state.description) for state in NodeState if state in found]
    if result.choice.node is not None:
        items.append(("inner chosen", "on the chosen path"))
    spans = "".join(f'<span><i class="dot {name}"></i>{words}</span>' for name, words in items)
    return f'<p class="legend">{spans}</p>'


def _rejected(tree: Tree) -> str:
    """The samples that are no steps, folded: the reason, the text, and the first one's prompt."""
    if not tree.rejected:
        return ""
    count = max(len(tree.rejected), tree.cost.truncated + tree.cost.malformed)
    shown = sorted(tree.rejected)[:_MAX_REJECTED]
    more = f" The first {len(shown)} are shown." if len(shown) < count else ""
    items = "".join(
        f'<li><span class="facts">after {count_noun(each.depth, "step")}: '
        f"{shorten_html(each.reason, 120)}</span>"
        f'<pre class="output">{escape(sanitize(each.text)) or "(nothing)"}</pre></li>'
        for each in shown
    )
    prompt = escape(sanitize(shown[0].prompt))
    return (
        f'<details class="rejected"><summary>{count_noun(count, "rejected sample")}</summary>'
        f'<p class="dim">What the model wrote that is not a step.{more}</p>'
        f"<details><summary>The prompt of the first</summary>"
        f'<pre class="output">{prompt}</pre></details><ul>{items}</ul></details>'
    )


def _cost(result: Result, tree: Tree) -> str:
    """The cost of the search."""
    cost = result.cost
    counts = ((len(tree) - 1, "step"), (tree.rollouts, "rollout"), (cost.calls, "call"))
    parts = [count_noun(count, noun) for count, noun in counts]
    parts.append(f"{count_noun(cost.sampled_tokens, 'token')} sampled")
    if cost.code_runs:
        parts.append(f"{count_noun(cost.code_runs, 'program')} run, {cost.code_failures} failed")
    if cost.scorer_tokens:
        parts.append(f"{cost.scorer_tokens} tokens read by the scorer")
    parts.append(f"{cost.seconds:.1f} s")
    if tree.stop_reason is not None:
        parts.append(f"stopped early: {escape(sanitize(tree.stop_reason))}")
    return f'<p class="cost">{" · ".join(parts)}</p>'
