"""Renders a tree as SVG: root on the left, one column per depth."""

from collections.abc import Sequence
from html import escape

from rstar_math.search.node_states import NodeState, node_states
from rstar_math.search.tree import ROOT, Node, Tree
from rstar_math.search.voting import Choice
from rstar_math.text import sanitize
from rstar_math.types import Verdict

_COLUMN_WIDTH = 92
_ROW_HEIGHT = 15
_LEFT_MARGIN = 16
MAX_NODES = 600
"""Maximum number of nodes in a picture; larger pictures are not readable."""
_LEGEND_ROW = 24
_TOOLTIP_CHARS = 120
_SIGNS = {NodeState.RIGHT: "✓ ", NodeState.WRONG: "✗ "}
STYLE = """
.tree { font: 11px system-ui, sans-serif; }
.tree text { fill: #24292f; }
.tree .edge { fill: none; stroke: #c3c9d0; stroke-width: 1.2; }
.tree .inner { fill: #8b949e; }
.tree .answer { fill: #4078c0; }
.tree .right { fill: #1a7f37; }
.tree .wrong { fill: #c0392b; }
.tree .failed { fill: none; stroke: #c0392b; stroke-width: 1.5; }
.tree .open { fill: none; stroke: #8b949e; stroke-width: 1.5; }
.tree .chosen.edge { stroke: #8250df; stroke-width: 2.6; }
.tree .ring { fill: none; stroke: #8250df; stroke-width: 2; }
.tree text.chosen { font-weight: 650; }
@media (prefers-color-scheme: dark) {
  .tree text { fill: #d0d7de; }
  .tree .edge { stroke: #444c56; }
  .tree .answer { fill: #6cb6ff; }
  .tree .right { fill: #3fb950; }
  .tree .wrong { fill: #f0806e; }
  .tree .failed { stroke: #f0806e; }
  .tree .chosen.edge, .tree .ring { stroke: #a475f9; }
}
"""


def tree_svg(
    tree: Tree, choice: Choice, verdict: Verdict | None = None, *, standalone: bool = False
) -> str:
    """The picture as SVG; "" if the tree is empty or larger than `MAX_NODES`. `verdict` is that of
    the chosen answer. `standalone` includes the styles and the legend."""
    if not 1 < len(tree) <= MAX_NODES:
        return ""
    rows = _rows(tree)
    chosen = {ROOT, *tree.path(choice.node)} if choice.node is not None else set()
    depth = max(node.depth for node in tree)
    states = node_states(tree, choice, verdict)
    height = (max(rows) + 2) * _ROW_HEIGHT
    width = _LEFT_MARGIN + depth * _COLUMN_WIDTH + 130
    positions = [
        (_LEFT_MARGIN + n.depth * _COLUMN_WIDTH, (row + 1) * _ROW_HEIGHT)
        for n, row in zip(tree, rows, strict=True)
    ]
    shapes = [
        _edge(positions[node.parent], positions[index], chosen=index in chosen)
        for index, node in enumerate(tree)
        if node.parent >= ROOT
    ]
    shapes.sort(key=lambda shape: "chosen" in shape)  # chosen edges are drawn on top
    shapes += [
        _dot(i, node, states[i], positions[i], chosen=i in chosen) for i, node in enumerate(tree)
    ]
    title = (
        f"Search tree: {len(tree) - 1} steps, {len(tree.answer_nodes())} answers, "
        f"chosen answer {sanitize(choice.answer or 'none')}"
    )
    style = ""
    if standalone:
        style = f"<style>{STYLE}</style>"
        legend, legend_width = _legend(states, height, has_choice=bool(chosen))
        shapes.append(legend)
        height, width = height + _LEGEND_ROW, max(width, legend_width)
    return (
        f'<svg class="tree" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" role="img"><title>{escape(title)}</title>'
        f"{style}{''.join(shapes)}</svg>"
    )


def _rows(tree: Tree) -> list[float]:
    """The row of each node: leaves take the next free row, inner nodes the middle of their
    children."""
    rows = [0.0] * len(tree)
    next_row = 0
    stack: list[tuple[int, bool]] = [(ROOT, False)]  # node, whether its children are done
    while stack:
        index, children_done = stack.pop()
        children = tree.nodes[index].children
        if not children:
            rows[index] = float(next_row)
            next_row += 1
        elif children_done:
            rows[index] = (rows[children[0]] + rows[children[-1]]) / 2
        else:
            stack.append((index, True))
            stack.extend((child, False) for child in reversed(children))
    return rows


def _edge(start: tuple[int, float], end: tuple[int, float], *, chosen: bool) -> str:
    """The curve from a parent to its child."""
    (x0, y0), (x1, y1) = start, end
    middle = (x0 + x1) / 2
    css_class = "chosen edge" if chosen else "edge"
    curve = f"M{x0} {y0:.1f}C{middle} {y0:.1f} {middle} {y1:.1f} {x1} {y1:.1f}"
    return f'<path class="{css_class}" d="{curve}"/>'


def _dot(
    index: int, node: Node, state: NodeState, position: tuple[int, float], *, chosen: bool
) -> str:
    """The circle of a node, with its answer or failure as a label, and a ring if it is on the
    chosen path."""
    x, y = position
    radius = 2.5 + min(4.0, node.visits**0.5)
    dot = (
        f'<circle class="{state}" data-node="{index}" cx="{x}" cy="{y:.1f}" r="{radius:.1f}">'
        f"<title>{escape(_tooltip(node, state))}</title></circle>"
    )
    if chosen:
        dot += f'<circle class="ring" cx="{x}" cy="{y:.1f}" r="{radius + 2:.1f}"/>'
    label = sanitize((node.step.answer if node.answered and node.step else node.failure) or "")
    if not label:
        return dot
    label = " ".join(label.split())
    shown = _SIGNS.get(state, "") + (label if len(label) <= 18 else f"{label[:17]}…")
    text_class = ' class="chosen"' if chosen else ""
    return (
        f'{dot}<text{text_class} x="{x + radius + 4:.1f}" y="{y + 3.8:.1f}">{escape(shown)}</text>'
    )


def _tooltip(node: Node, state: NodeState) -> str:
    """What a node is: its state, the beginning of its text, its visits and values."""
    if node.step is None:
        return "the question"
    text = " ".join(sanitize(node.step.text[:_TOOLTIP_CHARS]).split())
    values = [f"N {node.visits}"]
    if node.q is not None:
        values.append(f"Q {node.q:+.2f}")
    if node.score is not None:
        values.append(f"score {node.score:+.2f}")
    return f"{state.description}: {text} ({', '.join(values)})"


def _legend(states: Sequence[NodeState], y: float, *, has_choice: bool) -> tuple[str, int]:
    """The legend of the states that occur, below the picture, and its width."""
    parts, x = [], _LEFT_MARGIN
    for state in (s for s in NodeState if s in states):
        words = f"{_SIGNS.get(state, '')}{state.description}"
        parts.append(f'<circle class="{state}" cx="{x}" cy="{y + 8:.1f}" r="4"/>')
        parts.append(f'<text x="{x + 9}" y="{y + 11.8:.1f}">{words}</text>')
        x += 28 + 6 * len(words)
    if has_choice:
        parts.append(f'<circle class="ring" cx="{x}" cy="{y + 8:.1f}" r="5"/>')
        parts.append(f'<text x="{x + 10}" y="{y + 11.8:.1f}">chosen path</text>')
        x += 96
    return "".join(parts), x
