"""One step of a tree: its line in the outline, and all of it."""

from html import escape

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from rstar_math.foreign import plain
from rstar_math.search import Node
from rstar_math.serve.viewer.formulas import answer_html, prose_html
from rstar_math.steps.actions.labels import label
from rstar_math.steps.grammar import thought
from rstar_math.types import Step

LONGEST = 4000
"""Characters of one step's words, code or output that are shown."""
_LINE = 120
_LEXER, _FORMATTER = PythonLexer(), HtmlFormatter(cssclass="code")


def code_styles() -> str:
    """Colours of highlighted code, light and dark."""
    light, dark = (
        HtmlFormatter(style=name).get_style_defs(".code")  # type: ignore[no-untyped-call]
        for name in ("friendly", "github-dark")
    )
    return f"{light}@media (prefers-color-scheme: dark) {{{dark}}}"


def line_html(index: int, node: Node, share: float | None, *, chosen: bool) -> str:
    """A node's line in the outline: what it says and its figures. `share` is the part of the votes
    that ends below it, in [0, 1]."""
    kind, word = _kind(node)
    mark = f"{'chosen ' if chosen else ''}{kind}"
    said = f"{'on the chosen path, ' if chosen else ''}{word}"
    return (
        f'<span class="dot {mark}" role="img" aria-label="{said}" title="{said}"></span>'
        f'<span class="what">{_first_words(index, node)}</span>'
        f'<span class="figures">{_figures(node, share)}</span>'
    )


def step_html(node: Node) -> str:
    """All of a step: words, code, output or error, and what else is known of it."""
    step = node.step or Step()
    facts = [made] if (made := label(step)) else []
    if node.copies > 1:
        facts.append(f"sampled {node.copies} times")
    if node.peers is not None:
        facts.append(f"{node.peers[0]} of {node.peers[1]} second looks agree")
    known = f'<p class="facts">{escape(" · ".join(facts))}</p>' if facts else ""
    failure = ""
    if node.failure is not None:
        failure = f'<p class="failure">The path ended here: {escape(plain(node.failure))}</p>'
    said = thought(step)
    words = f'<p class="words" dir="auto">{prose_html(_cut(said))}</p>' if said else ""
    thoughts = _reasoning(step)
    return f'<div class="step">{thoughts}{words}{_code(step)}{_output(step)}{failure}{known}</div>'


def _reasoning(step: Step) -> str:
    """What a reasoning model thought before a step, folded."""
    if not step.reasoning:
        return ""
    text = escape(plain(_cut(step.reasoning)))
    return f'<details class="reasoning"><summary>Thoughts</summary><p>{text}</p></details>'


def bar(share: float) -> str:
    """A share in [0, 1] as a small bar."""
    width = round(40 * min(max(share, 0.0), 1.0), 1)
    return (
        '<svg class="bar" viewBox="0 0 40 6" aria-hidden="true"><rect class="whole" width="40" '
        f'height="6" rx="2"/><rect class="part" width="{width}" height="6" rx="2"/></svg>'
    )


def short(text: str, most: int) -> str:
    """A foreign text on one line of at most `most` characters, escaped."""
    flat = " ".join(plain(text[: 4 * most]).split())
    return escape(flat if len(flat) <= most else f"{flat[: most - 1]}…")


def _kind(node: Node) -> tuple[str, str]:
    """A node's class, and the word for it."""
    if node.answered:
        verdict = "" if node.verdict is None else f", {node.verdict.value}"
        return "answer", f"answer{verdict}"
    if node.failure is not None:
        return "failed", "ended without an answer"
    return "inner", "step"


def _first_words(index: int, node: Node) -> str:
    """The beginning of a step, or its answer."""
    step = node.step or Step()
    if node.answered and step.answer is not None:
        return f'<span class="box">{answer_html(step.answer, 60)}</span> {_tail(step)}'
    if words := thought(step):
        return f'<bdi class="text">{short(words, _LINE)}</bdi>'
    if step.code.strip():
        return f"<code>{short(step.code, _LINE)}</code>"
    return f'<span class="text">step {index}</span>'


def _tail(step: Step) -> str:
    """The words beside an answer."""
    said = thought(step).replace(f"\\boxed{{{step.answer}}}", step.answer or "")
    return f'<bdi class="text dim">{short(said, 80)}</bdi>'


def _figures(node: Node, share: float | None) -> str:
    """N, Q, score and share of the votes."""
    shown = []
    if node.failure is not None:
        shown.append(f'<span class="failure">{short(node.failure, 24)}</span>')
    if node.copies > 1:
        shown.append(f'<span title="equal samples">×{node.copies}</span>')
    shown.append(f'<span title="visits">N {node.visits}</span>')
    if node.q is not None:
        sign = "up" if node.q > 0 else "down" if node.q < 0 else "zero"
        shown.append(f'<span class="{sign}" title="mean value, -1 to 1">Q {node.q:+.2f}</span>')
    if node.score is not None:
        shown.append(f'<span title="the scorer\'s value, -1 to 1">PPM {node.score:+.2f}</span>')
    if share is not None:
        votes = "&lt;1%" if 0 < share < 0.005 else f"{share:.0%}"
        shown.append(f'<span class="share" title="share of the votes">{bar(share)}{votes}</span>')
    return " ".join(shown)


def _code(step: Step) -> str:
    """Highlighted code."""
    if not step.code.strip():
        return ""
    html: str = highlight(plain(_cut(step.code.strip("\n"))), _LEXER, _FORMATTER)
    return html


def _output(step: Step) -> str:
    """What the code printed or how it failed."""
    run = step.execution
    if run is None:
        return ""
    parts = []
    if run.stdout.strip():
        printed = escape(plain(_cut(run.stdout.rstrip())))
        parts.append(f'<pre class="output" aria-label="output">{printed}</pre>')
    if not run.ok:
        said = f"{run.error_type}: {run.message}" if run.error_type else run.message or ""
        status = escape(run.status.value)
        text = escape(plain(_cut(said)))
        parts.append(f'<pre class="output failure" aria-label="error">{status} {text}</pre>')
    return "".join(parts)


def _cut(text: str) -> str:
    """At most `LONGEST` characters of a text."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n[{len(text) - LONGEST} more characters]"
