"""A run as one self-contained HTML page: no script, nothing from a network, model text always
escaped."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from html import escape
from importlib.resources import files
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from rstar_math.errors import InputError
from rstar_math.evolution.store import Result, RunStore
from rstar_math.search import ROOT, Choice, Node, Tree
from rstar_math.serve.picture import MAX_NODES, STYLE, tree_svg
from rstar_math.steps.actions.labels import label
from rstar_math.steps.grammar import thought
from rstar_math.types import Problem, Step

_LEXER, _FORMATTER = PythonLexer(), HtmlFormatter(cssclass="code")
_LONGEST = 4000
"""Characters of one step's code or output that are shown."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_page(store: RunStore, target: Path) -> int:
    """Write the page of a run; returns how many trees it shows. The file appears whole or not."""
    count = 0

    def parts() -> Iterator[str]:
        nonlocal count
        for part in _document(store):
            count += part.startswith("<article")
            yield part

    write_whole(target, parts())
    return count


def write_picture(store: RunStore, problem: str, target: Path) -> None:
    """Write one problem's tree, as the run's first strategy grew it, as an SVG file."""
    for strategy in store.strategies():
        for result in store.results(strategy):
            if result.problem == problem:
                tree = store.tree(problem, strategy)
                if len(tree) > MAX_NODES:
                    raise InputError(
                        f"The tree of {problem!r} has {len(tree) - 1} steps, and at most "
                        f"{MAX_NODES - 1} can be drawn; see it with: rstar view {store.path}"
                    )
                write_whole(target, [tree_svg(tree, result.choice, standalone=True)])
                return
    raise InputError(f"{store.path} has no result for the problem {problem!r}; see rstar view.")


def anchor(strategy: str, problem: str) -> str:
    """The id of a result's place on the page of its run."""
    return "r" + blake2b(f"{strategy}\x1f{problem}".encode(), digest_size=8).hexdigest()


def write_whole(target: Path, parts: Iterable[str]) -> None:
    """Write a text file whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".rstar-")
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}).") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.writelines(parts)
        Path(name).chmod(0o644)
        os.replace(name, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}).") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _document(store: RunStore) -> Iterator[str]:
    """The page, piece by piece: one tree in memory at a time."""
    style = (files("rstar_math.serve") / "page.css").read_text(encoding="utf-8")
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(store.path.name)} · rstar</title><style>{style}{STYLE}{_code_styles()}"
        f"</style></head><body><header><h1>{escape(store.path.name)}</h1>"
        "<p>Each problem with its tree: the chosen path in green, other answers in blue, paths "
        "that failed as open red circles. Larger circles were visited more often.</p>"
        "</header><main>"
    )
    problems = {problem.id: problem for problem in store.problems()}
    for strategy in store.strategies():
        yield f"<h2>{escape(strategy)}</h2>"
        for result in store.results(strategy):
            yield _article(problems[result.problem], result, store.tree(result.problem, strategy))
    yield "</main></body></html>"


def _code_styles() -> str:
    """Colours of highlighted code, light and dark."""
    light, dark = (
        HtmlFormatter(style=name).get_style_defs(".code")  # type: ignore[no-untyped-call]
        for name in ("friendly", "github-dark")
    )
    return f"{light}@media (prefers-color-scheme: dark) {{{dark}}}"


def _article(problem: Problem, result: Result, tree: Tree) -> str:
    """One problem."""
    choice = result.choice
    verdict = result.verdict.value if result.verdict else "ungraded"
    answer = "no answer" if choice.answer is None else choice.answer
    votes = ", ".join(f"{escape(a)} ({v:.3g})" for a, v in list(choice.votes.items())[:8])
    why = (
        f"{choice.share:.0%} of the {'score' if tree.checked else 'votes'}. All: {votes}."
        if choice.answer is not None
        else "No path ended with an answer."
    )
    reference = "" if problem.reference is None else f" Reference: {escape(problem.reference)}."
    cost = result.cost
    return (
        f'<article id="{anchor(result.strategy, problem.id)}" class="{verdict}">'
        f'<h3><span class="id">{escape(problem.id)}</span> '
        f'<span class="verdict">{verdict}</span></h3><p class="question">'
        f"{escape(problem.question.text)}</p>"
        f'<p class="answer">Answer <strong>{escape(answer)}</strong> '
        f"<span>{why}{reference}</span></p>"
        f'<div class="picture">{_picture(tree, choice)}</div>'
        f"{_path(tree, choice)}"
        f"<details><summary>All {len(tree) - 1} steps</summary>{_children(tree, ROOT, choice)}"
        f'</details><p class="cost">{tree.rollouts} rollouts, {cost.calls} calls, '
        f"{cost.sampled_tokens} tokens sampled, {cost.code_runs} programs run "
        f"({cost.code_failures} failed), {cost.seconds:.1f} s</p></article>"
    )


def _picture(tree: Tree, choice: Choice) -> str:
    """The tree drawn, or why it is not."""
    if len(tree) > MAX_NODES:
        return f"<p>{len(tree) - 1} steps are too many to draw; they are listed below.</p>"
    return tree_svg(tree, choice)


def _path(tree: Tree, choice: Choice) -> str:
    """The chosen path, open to read."""
    if choice.node is None:
        return ""
    steps = "".join(f"<li>{_node(tree.nodes[index])}</li>" for index in tree.path(choice.node))
    return f'<ol class="path">{steps}</ol>'


def _children(tree: Tree, root: int, choice: Choice) -> str:
    """Everything below a node as nested lists that open and close."""
    chosen = set(tree.path(choice.node)) if choice.node is not None else set()
    parts: list[str] = []
    stack: list[int | str] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        node = tree.nodes[item]
        if item != root:
            mark = ' class="chosen"' if item in chosen else ""
            parts.append(f"<li{mark}>{_node(node)}")
        if node.children:
            many = len(node.children)
            label = f"{many} next step{'s' if many > 1 else ''}"
            parts.append(f"<details><summary>{label}</summary><ul>")
            stack.append("</ul></details>" + ("</li>" if item != root else ""))
            stack.extend(reversed(node.children))
        elif item != root:
            parts.append("</li>")
    return "".join(parts)


def _node(node: Node) -> str:
    """One step: words, code, output, answer, figures."""
    step = node.step or Step()
    figures = [made] if (made := label(step)) else []
    figures.append(f"N {node.visits}")
    if node.q is not None:
        figures.append(f"Q {node.q:+.2f}")
    if node.score is not None:
        figures.append(f"score {node.score:+.2f}")
    if node.copies > 1:
        figures.append(f"sampled {node.copies} times")
    if node.peers is not None:
        figures.append(f"{node.peers[0]} of {node.peers[1]} second looks agree")
    if node.verdict is not None:
        figures.append(node.verdict.value)
    if node.failure is not None:
        figures.append(f'<em class="failure">{escape(node.failure)}</em>')
    words = f"<p>{_words(step)}</p>" if thought(step) else ""
    return (
        f'<div class="step"><div class="figures">{" · ".join(figures)}</div>{words}'
        f"{_code(step)}{_output(step)}</div>"
    )


def _words(step: Step) -> str:
    """A step's prose, its boxed answer in a box."""
    text = escape(_cut(thought(step)))
    if step.answer is None:
        return text
    answer = escape(step.answer)
    return text.replace(f"\\boxed{{{answer}}}", f'<span class="box">{answer}</span>')


def _code(step: Step) -> str:
    """Highlighted code."""
    if not step.code.strip():
        return ""
    html: str = highlight(_cut(step.code.strip("\n")), _LEXER, _FORMATTER)
    return html


def _output(step: Step) -> str:
    """What the code printed or how it failed."""
    run = step.execution
    if run is None:
        return ""
    parts = []
    if run.stdout.strip():
        parts.append(f'<pre class="output">{escape(_cut(run.stdout.rstrip()))}</pre>')
    if not run.ok:
        said = f"{run.error_type}: {run.message}" if run.error_type else run.message or ""
        parts.append(f'<pre class="output failure">{escape(run.status.value)} {escape(said)}</pre>')
    return "".join(parts)


def _cut(text: str) -> str:
    """At most `_LONGEST` characters of a text."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}\n[{len(text) - _LONGEST} more characters]"
