"""The result of a search, and its form in a notebook: answer, votes, chosen path and tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from rstar_math.search.tree import Tree
from rstar_math.search.tree_svg import tree_svg
from rstar_math.search.voting import Choice
from rstar_math.text import sanitize
from rstar_math.types import Question, Step

MAX_VOTES = 5
"""Maximum number of answers in the table of votes."""
MAX_CHARS = 4000
"""Maximum number of characters of a step's text or output."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The result of a search: the tree and the chosen answer."""

    question: Question
    tree: Tree
    choice: Choice

    @property
    def answer(self) -> str | None:
        """The chosen answer, or None if no path ended with an answer."""
        return self.choice.answer

    def __repr__(self) -> str:
        steps, tokens = len(self.tree) - 1, self.tree.cost.sampled_tokens
        return (
            f"Solution(answer={self.answer!r}, share={self.choice.share:.2f}, steps={steps}, "
            f"answers={len(self.tree.answer_nodes())}, sampled_tokens={tokens})"
        )

    def _repr_html_(self) -> str:
        """The answer, the votes, the chosen path and the tree, for notebooks."""
        return solution_html(self.tree, self.choice)


def solution_html(tree: Tree, choice: Choice) -> str:
    """Return a fragment of HTML. All texts are escaped; it holds no script and loads nothing."""
    answer = "No answer was found." if choice.answer is None else f"Answer: {choice.answer}"
    parts = [
        f"<p>{_escaped(tree.question.text)}</p>",
        f"<p><strong>{_escaped(answer)}</strong></p>",
        *_votes(choice),
    ]
    if failures := ", ".join(f"{count} {reason}" for reason, count in tree.failures().items()):
        parts.append(f"<p>Paths without an answer: {_escaped(failures)}</p>")
    if choice.node is not None:
        steps = "".join(_step(step) for step in tree.prefix(choice.node))
        parts.append(f"<details open><summary>Chosen path</summary>{steps}</details>")
    if picture := tree_svg(tree, choice, standalone=True):
        parts.append(
            f"<details><summary>Tree of {len(tree) - 1} steps</summary>"
            f'<div style="overflow:auto;max-height:30em">{picture}</div></details>'
        )
    return f'<div class="rstar-solution">{"".join(parts)}</div>'


def _votes(choice: Choice) -> Iterator[str]:
    """Yield the table of votes, if there are any."""
    total = sum(choice.votes.values())
    if total <= 0:
        return
    rows = "".join(
        f"<tr><td>{_escaped(answer)}</td><td>{votes / total:.0%}</td></tr>"
        for answer, votes in [*choice.votes.items()][:MAX_VOTES]
    )
    yield f"<table><tr><th>answer</th><th>votes</th></tr>{rows}</table>"


def _step(step: Step) -> str:
    """Return one step: its text, and the output of its code."""
    block = f"<pre>{_escaped(step.text.strip())}</pre>"
    if step.execution is None:
        return block
    output = step.execution.message if step.failed else step.execution.stdout
    label = "failed" if step.failed else "output"
    return block + (f"<pre>{label}: {_escaped(output.strip())}</pre>" if output else "")


def _escaped(text: str) -> str:
    """Return a text without control characters, shortened to `MAX_CHARS`, as HTML."""
    text = sanitize(text)
    return escape(text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…")
