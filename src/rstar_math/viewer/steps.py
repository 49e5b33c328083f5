"""Renders steps: code, prose and formulas, as an outline and in full."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape, unescape
from xml.etree.ElementTree import Element

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from rstar_math.prompts.actions import label
from rstar_math.prompts.grammar import comment_text
from rstar_math.search.tree import ROOT, Node, Tree
from rstar_math.search.voting import Choice
from rstar_math.text import sanitize
from rstar_math.types import Step

LONGEST_FORMULA = 600
"""Characters of a formula that is translated; a longer one is shown as it was written."""
_DEEPEST = 40
_FORMULA = re.compile(
    r"\$\$(?P<a>[^$]{1,600}?)\$\$|\\\[(?P<b>.{1,600}?)\\\]|\\\((?P<c>.{1,600}?)\\\)"
    r"|(?<![\\$\w])\$(?=[^\s$])(?P<d>[^$\n]*?[^\s$\\])\$(?![\d$])"
    r"|(?P<e>\\(?:boxed|[dt]?frac|sqrt)\{)",
    re.DOTALL,
)
"""Formulas of at most `LONGEST` characters between signs of TeX (a dollar sign as pandoc reads it:
"$5 and $6" are prices), and what models often leave without such signs."""
_ELEMENTS = re.compile(
    "m(row|i|n|o|text|space|frac|sqrt|root|sub|sup|subsup|under|over|underover|table|tr|td|padded"
    "|phantom|style)"
)
_ATTRIBUTES = re.compile(
    "stretchy|fence|form|separator|[lr]space|linethickness|accent(under)?|columnalign|mathvariant"
    "|displaystyle|width|(min|max)size|movablelimits"
)
_SIGNS = re.compile(r"[\\^]")
"""What an answer has that is written as a formula."""
_WORDS = re.compile(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}")
_HARMLESS = re.compile(r"[\w .%+-]{0,40}\Z")


def prose_html(text: str) -> str:
    """The text as HTML that holds nothing but text and formulas. Lines stay lines: show it with
    `white-space: pre-wrap`."""
    parts: list[str] = []
    at = 0
    text = sanitize(text)
    while (match := _FORMULA.search(text, at)) is not None:
        parts.append(escape(text[at : match.start()]))
        end = match.end() if match["e"] is None else _closing(text, match.end())
        display = "block" if match["a"] or match["b"] else "inline"
        tex = next((t for t in match.group("a", "b", "c", "d") if t), text[match.start() : end])
        priced = match["d"] is not None and "\\" not in tex and _WORDS.search(tex)
        made = None if priced else _boxed(tex.strip()) or formula(tex.strip(), display)
        parts.append(escape(text[match.start() : end]) if made is None else made)
        at = end
    parts.append(escape(text[at:]))
    return "".join(parts)


def answer_html(answer: str, most: int = 200) -> str:
    """An answer as HTML: as a formula where it is written as one."""
    text = sanitize(answer)
    if len(text) > most:
        return escape(f"{text[: most - 1]}…")
    made = formula(text, "inline") if _SIGNS.search(text) and "$" not in text else None
    return made or prose_html(text)


@lru_cache(4096)
def formula(tex: str, display: str) -> str | None:
    """A formula as MathML; None for one that is too long or that cannot be read."""
    if len(tex) > LONGEST_FORMULA or tex.count("{") > _DEEPEST or tex.count("\\left") > _DEEPEST:
        return None
    from latex2mathml.converter import convert_to_element

    try:
        tree = convert_to_element(tex)
        inside = "".join(_written(child) for child in tree)
    except Exception:  # a formula of a model can break a translator in ways of its own
        return None
    if "\\" in inside:
        return None
    return f'<math display="{display}">{inside}</math>'


def _boxed(tex: str) -> str | None:
    """A formula that is one box, with what is in it; words and figures stay words. None for
    others."""
    inside = tex[7:-1] if tex.startswith("\\boxed{") and tex.endswith("}") else ""
    if not inside or _closing(tex, 7) != len(tex):
        return None
    made = formula(inside, "inline") if _SIGNS.search(inside) else None
    return f'<span class="box">{escape(inside) if made is None else made}</span>'


def _written(element: Element) -> str:
    """An element of MathML, anew."""
    tag = element.tag if _ELEMENTS.fullmatch(element.tag) else "mrow"
    given = "".join(
        f' {key}="{value}"'
        for key, value in element.attrib.items()
        if _ATTRIBUTES.fullmatch(key) and _HARMLESS.match(value)
    )
    text = escape(sanitize(unescape(element.text or "")))
    if text.strip() and tag == "mrow":
        text = f"<mtext>{text}</mtext>"
    return f"<{tag}{given}>{text}{''.join(_written(child) for child in element)}</{tag}>"


def _closing(text: str, at: int) -> int:
    """The place after the brace that closes the one before `at`, and after a second group in
    braces; `at` where none does."""
    found = at
    depth = 1
    for place in range(at, min(len(text), at + LONGEST_FORMULA)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            found = place + 1
            if text[found : found + 1] != "{":
                return found
    return found


LINES = 256
"""Lines in a block."""
STEPS = 32
"""Whole steps in a block; their code takes time to colour."""


def shape_json(tree: Tree, choice: Choice) -> str:
    """The tree without words: `parents` by node; `marks`, a letter for each node (a an answer, x a
    path that ended without one, i another); the `chosen` path; and the sizes of blocks."""
    marks = "".join("a" if n.answered else "x" if n.failure is not None else "i" for n in tree)
    shape = {
        "parents": [node.parent for node in tree],
        "marks": marks,
        "chosen": chosen_path(tree, choice),
        "lines": LINES,
        "steps": STEPS,
    }
    return json.dumps(shape, separators=(",", ":"))


def lines_json(tree: Tree, choice: Choice, shares: Sequence[float] | None, block: int) -> str:
    """A block of lines of the outline, as a list of HTML. `shares` come from `choosing`."""
    chosen = set(chosen_path(tree, choice))
    found = [
        line_html(
            index,
            tree.nodes[index],
            None if shares is None else shares[index],
            chosen=index in chosen,
        )
        for index in _block(tree, block, LINES)
    ]
    return json.dumps(found, ensure_ascii=False)


def steps_json(tree: Tree, block: int) -> str:
    """A block of whole steps, as a list of HTML."""
    found = [step_html(tree.nodes[index]) for index in _block(tree, block, STEPS)]
    return json.dumps(found, ensure_ascii=False)


def blocks(nodes: int, size: int) -> int:
    """How many blocks of a size there are."""
    return -(-nodes // size)


def chosen_path(tree: Tree, choice: Choice) -> list[int]:
    """The nodes of the chosen path below the root; none where the tree has no such node."""
    if choice.node is None or not ROOT < choice.node < len(tree):
        return []
    return tree.path(choice.node)


def _block(tree: Tree, block: int, size: int) -> range:
    """The nodes of a block."""
    return range(block * size, min(len(tree), (block + 1) * size))


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
    if node.count > 1:
        facts.append(f"sampled {node.count} times")
    if node.agreement is not None:
        facts.append(f"{node.agreement[0]} of {node.agreement[1]} second looks agree")
    known = f'<p class="facts">{escape(" · ".join(facts))}</p>' if facts else ""
    failure = ""
    if node.failure is not None:
        failure = f'<p class="failure">The path ended here: {escape(sanitize(node.failure))}</p>'
    said = comment_text(step)
    words = f'<p class="words" dir="auto">{prose_html(_cut(said))}</p>' if said else ""
    thoughts = _reasoning(step)
    return f'<div class="step">{thoughts}{words}{_code(step)}{_output(step)}{failure}{known}</div>'


def _reasoning(step: Step) -> str:
    """What a reasoning model thought before a step, folded."""
    if not step.reasoning:
        return ""
    text = escape(sanitize(_cut(step.reasoning)))
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
    flat = " ".join(sanitize(text[: 4 * most]).split())
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
    if words := comment_text(step):
        return f'<bdi class="text">{short(words, _LINE)}</bdi>'
    if step.code.strip():
        return f"<code>{short(step.code, _LINE)}</code>"
    return f'<span class="text">step {index}</span>'


def _tail(step: Step) -> str:
    """The words beside an answer."""
    said = comment_text(step).replace(f"\\boxed{{{step.answer}}}", step.answer or "")
    return f'<bdi class="text dim">{short(said, 80)}</bdi>'


def _figures(node: Node, share: float | None) -> str:
    """N, Q, score and share of the votes."""
    shown = []
    if node.failure is not None:
        shown.append(f'<span class="failure">{short(node.failure, 24)}</span>')
    if node.count > 1:
        shown.append(f'<span title="equal samples">×{node.count}</span>')
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
    html: str = highlight(sanitize(_cut(step.code.strip("\n"))), _LEXER, _FORMATTER)
    return html


def _output(step: Step) -> str:
    """What the code printed or how it failed."""
    run = step.execution
    if run is None:
        return ""
    parts = []
    if run.stdout.strip():
        printed = escape(sanitize(_cut(run.stdout.rstrip())))
        parts.append(f'<pre class="output" aria-label="output">{printed}</pre>')
    if not run.ok:
        said = f"{run.error_type}: {run.message}" if run.error_type else run.message or ""
        status = escape(run.status.value)
        text = escape(sanitize(_cut(said)))
        parts.append(f'<pre class="output failure" aria-label="error">{status} {text}</pre>')
    return "".join(parts)


def _cut(text: str) -> str:
    """At most `LONGEST` characters of a text."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n[{len(text) - LONGEST} more characters]"
