"""Renders steps as HTML: code, prose and formulas, in outline and in full."""

import json
import re
from collections.abc import Sequence
from html import escape

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from rstar_math.prompts.actions import label
from rstar_math.prompts.grammar import comment_text
from rstar_math.search.node_states import NodeState, node_states
from rstar_math.search.tree import ROOT, Node, Tree
from rstar_math.search.voting import Choice
from rstar_math.text import count_noun, sanitize
from rstar_math.types import Step, Verdict
from rstar_math.viewer.formulas import MAX_FORMULA_CHARS, formula

_FORMULA = re.compile(
    r"\$\$(?P<a>[^$]{1,600}?)\$\$|\\\[(?P<b>.{1,600}?)\\\]|\\\((?P<c>.{1,600}?)\\\)"
    r"|(?<![\\$\w])\$(?=[^\s$])(?P<d>[^$\n]*?[^\s$\\])\$(?![\d$])"
    r"|(?P<e>\\(?:boxed|[dt]?frac|sqrt)\{)",
    re.DOTALL,
)
"""Formulas of at most `MAX_FORMULA_CHARS` between TeX delimiters, and the commands that models
often write without delimiters. Dollar signs follow pandoc's rules: "$5 and $6" are prices."""
_TEX_SIGNS = re.compile(r"[\\^]")
"""Characters that show that an answer is a formula."""
_WORDS = re.compile(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}")


def prose_html(text: str) -> str:
    """The text as HTML with only text and formulas. Line breaks are kept: display it with
    `white-space: pre-wrap`."""
    parts: list[str] = []
    at = 0
    text = sanitize(text)
    while (match := _FORMULA.search(text, at)) is not None:
        parts.append(escape(text[at : match.start()]))
        end = match.end() if match["e"] is None else _closing(text, match.end())
        display = "block" if match["a"] or match["b"] else "inline"
        tex = next((t for t in match.group("a", "b", "c", "d") if t), text[match.start() : end])
        is_price = match["d"] is not None and "\\" not in tex and _WORDS.search(tex)
        html = None if is_price else _boxed(tex.strip()) or formula(tex.strip(), display)
        parts.append(escape(text[match.start() : end]) if html is None else html)
        at = end
    parts.append(escape(text[at:]))
    return "".join(parts)


def answer_html(answer: str, max_chars: int = 200) -> str:
    """An answer as HTML, as a formula if it is written in TeX."""
    text = sanitize(answer)
    if len(text) > max_chars:
        return escape(f"{text[: max_chars - 1]}…")
    html = formula(text, "inline") if _TEX_SIGNS.search(text) and "$" not in text else None
    return html or prose_html(text)


def _boxed(tex: str) -> str | None:
    """A single \\boxed{...} as HTML with its content; None for other formulas."""
    inside = tex[7:-1] if tex.startswith("\\boxed{") and tex.endswith("}") else ""
    if not inside or _closing(tex, 7) != len(tex):
        return None
    html = formula(inside, "inline") if _TEX_SIGNS.search(inside) else None
    return f'<span class="box">{escape(inside) if html is None else html}</span>'


def _closing(text: str, at: int) -> int:
    """The position after the closing brace of the group that starts before `at`.

    Includes a second group that follows directly. Returns `at` if no brace closes the group.
    """
    end = at
    depth = 1
    for position in range(at, min(len(text), at + MAX_FORMULA_CHARS)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            end = position + 1
            if text[end : end + 1] != "{":
                return end
    return end


LINES = 256
"""Outline lines per block."""
STEPS = 32
"""Complete steps per block. Blocks are small because highlighting code takes time."""


def shape_json(tree: Tree, choice: Choice) -> str:
    """The shape of a tree without its texts.

    `parents` by node; `marks`, one letter per node (a: answer, x: failed, i: inner); `chosen`, the
    nodes of the chosen path; `lines` and `steps`, the block sizes.
    """
    marks = "".join("a" if n.answered else "x" if n.failure is not None else "i" for n in tree)
    shape = {
        "parents": [node.parent for node in tree],
        "marks": marks,
        "chosen": chosen_path(tree, choice),
        "lines": LINES,
        "steps": STEPS,
    }
    return json.dumps(shape, separators=(",", ":"))


def lines_json(
    tree: Tree,
    choice: Choice,
    shares: Sequence[float] | None,
    block: int,
    verdict: Verdict | None = None,
) -> str:
    """A block of outline lines as a list of HTML. `shares` come from `result.vote_shares`;
    `verdict` is that of the chosen answer."""
    chosen = set(chosen_path(tree, choice))
    states = node_states(tree, choice, verdict)
    lines = [
        line_html(
            index,
            tree.nodes[index],
            states[index],
            None if shares is None else shares[index],
            chosen=index in chosen,
        )
        for index in _block(tree, block, LINES)
    ]
    return json.dumps(lines, ensure_ascii=False)


def steps_json(tree: Tree, block: int) -> str:
    """A block of complete steps as a list of HTML."""
    steps = [step_html(tree.nodes[index]) for index in _block(tree, block, STEPS)]
    return json.dumps(steps, ensure_ascii=False)


def block_count(nodes: int, size: int) -> int:
    """Number of blocks of a size."""
    return -(-nodes // size)


def chosen_path(tree: Tree, choice: Choice) -> list[int]:
    """The nodes of the chosen path below the root; [] if the chosen node is not in the tree."""
    if choice.node is None or not ROOT < choice.node < len(tree):
        return []
    return tree.path(choice.node)


def _block(tree: Tree, block: int, size: int) -> range:
    """The nodes of a block."""
    return range(block * size, min(len(tree), (block + 1) * size))


MAX_TEXT_CHARS = 4000
"""Maximum length of the prose, code or output of one step."""
_LINE_CHARS = 120
_LEXER, _FORMATTER = PythonLexer(), HtmlFormatter(cssclass="code")


def code_styles() -> str:
    """CSS of highlighted code, for light and dark colour schemes."""
    light, dark = (
        HtmlFormatter(style=name).get_style_defs(".code")  # type: ignore[no-untyped-call]
        for name in ("friendly", "github-dark")
    )
    return f"{light}@media (prefers-color-scheme: dark) {{{dark}}}"


def line_html(
    index: int, node: Node, state: NodeState, share: float | None, *, chosen: bool
) -> str:
    """The outline line of a node: text and figures. `share` is the share of votes of paths through
    the node, in [0, 1]."""
    css_class = f"{'chosen ' if chosen else ''}{state}"
    label = f"{'on the chosen path, ' if chosen else ''}{state.description}"
    return (
        f'<span class="dot {css_class}" role="img" aria-label="{label}" title="{label}"></span>'
        f'<span class="what">{_line_text(index, node)}</span>'
        f'<span class="figures">{_figures(node, share)}</span>'
    )


def step_html(node: Node) -> str:
    """A complete step: reasoning, prose, code, output or error, and facts."""
    step = node.step or Step()
    facts = [name] if (name := label(step)) else []
    if node.count > 1:
        facts.append(f"sampled {node.count} times")
    if step.tokens is not None:
        facts.append(f"{count_noun(step.tokens, 'token')} sampled")
    if (stats := step.token_stats) is not None:
        facts.append(f"mean log-probability {stats.mean:.2f}")
    if node.agreement is not None:
        facts.append(f"{node.agreement[0]} of {node.agreement[1]} reviews agree")
    facts_html = f'<p class="facts">{escape(" · ".join(facts))}</p>' if facts else ""
    failure = ""
    if node.failure is not None:
        failure = f'<p class="failure">The path ended here: {escape(sanitize(node.failure))}</p>'
    prose = comment_text(step)
    prose = f'<p class="words" dir="auto">{prose_html(_truncated(prose))}</p>' if prose else ""
    parts = (_reasoning(step), prose, code_html(step), _output(step), failure, facts_html)
    return f'<div class="step">{"".join(parts)}</div>'


def _reasoning(step: Step) -> str:
    """The reasoning of a reasoning model before a step, folded."""
    if not step.reasoning:
        return ""
    text = escape(sanitize(_truncated(step.reasoning)))
    return f'<details class="reasoning"><summary>Reasoning</summary><p>{text}</p></details>'


def bar(share: float) -> str:
    """A share in [0, 1] as a small bar."""
    width = round(40 * min(max(share, 0.0), 1.0), 1)
    return (
        '<svg class="bar" viewBox="0 0 40 6" aria-hidden="true"><rect class="whole" width="40" '
        f'height="6" rx="2"/><rect class="part" width="{width}" height="6" rx="2"/></svg>'
    )


def shorten_html(text: str, max_chars: int) -> str:
    """Untrusted text on one line of at most `max_chars` characters, sanitized and escaped."""
    line = " ".join(sanitize(text[: 4 * max_chars]).split())
    return escape(line if len(line) <= max_chars else f"{line[: max_chars - 1]}…")


def _line_text(index: int, node: Node) -> str:
    """The beginning of a step, or its answer, as HTML."""
    step = node.step or Step()
    if node.answered and step.answer is not None:
        return (
            f'<span class="box">{answer_html(step.answer, 60)}</span> {_prose_beside_answer(step)}'
        )
    if prose := comment_text(step):
        return f'<bdi class="text">{shorten_html(prose, _LINE_CHARS)}</bdi>'
    if step.code.strip():
        return f"<code>{shorten_html(step.code, _LINE_CHARS)}</code>"
    return f'<span class="text">step {index}</span>'


def _prose_beside_answer(step: Step) -> str:
    """The prose of an answer step, with the box replaced by its content."""
    prose = comment_text(step).replace(f"\\boxed{{{step.answer}}}", step.answer or "")
    return f'<bdi class="text dim">{shorten_html(prose, 80)}</bdi>'


def _figures(node: Node, share: float | None) -> str:
    """Visits N, mean value Q, scores and share of the votes."""
    figures = []
    if node.failure is not None:
        figures.append(f'<span class="failure">{shorten_html(node.failure, 24)}</span>')
    if node.count > 1:
        figures.append(f'<span title="number of equal samples">×{node.count}</span>')
    figures.append(f'<span title="visits">N {node.visits}</span>')
    if node.q is not None:
        sign = "up" if node.q > 0 else "down" if node.q < 0 else "zero"
        figures.append(f'<span class="{sign}" title="mean value, -1 to 1">Q {node.q:+.2f}</span>')
    if node.score is not None:
        figures.append(f'<span title="value of the scorer, -1 to 1">score {node.score:+.2f}</span>')
    for name, value in node.other_scores.items():
        label = escape(sanitize(name[:24]))
        figures.append(f'<span title="recorded scorer, -1 to 1">{label} {value:+.2f}</span>')
    if share is not None:
        votes = "&lt;1%" if 0 < share < 0.005 else f"{share:.0%}"
        figures.append(f'<span class="share" title="share of the votes">{bar(share)}{votes}</span>')
    return " ".join(figures)


def code_html(step: Step) -> str:
    """The highlighted code of a step."""
    if not step.code.strip():
        return ""
    html: str = highlight(sanitize(_truncated(step.code.strip("\n"))), _LEXER, _FORMATTER)
    return html


def _output(step: Step) -> str:
    """The output of the code and its error."""
    run = step.execution
    if run is None:
        return ""
    parts = []
    if run.stdout.strip():
        printed = escape(sanitize(_truncated(run.stdout.rstrip())))
        parts.append(f'<pre class="output" aria-label="output">{printed}</pre>')
    if not run.ok:
        error = f"{run.error_type}: {run.message}" if run.error_type else run.message or ""
        status = escape(run.status.value)
        text = escape(sanitize(_truncated(error)))
        parts.append(f'<pre class="output failure" aria-label="error">{status} {text}</pre>')
    return "".join(parts)


def _truncated(text: str) -> str:
    """At most `MAX_TEXT_CHARS` characters of a text."""
    if len(text) <= MAX_TEXT_CHARS:
        return text
    return f"{text[:MAX_TEXT_CHARS]}\n[{len(text) - MAX_TEXT_CHARS} more characters]"
