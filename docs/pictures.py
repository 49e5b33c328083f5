"""The pictures of docs/concepts.md, drawn from real searches of the toy world.

    python docs/pictures.py        # writes docs/images/concept-*.svg; a test holds them to this

No model, no process: `rstar_math.testing.ToyWorld` adds numbers, a step a number, and is sometimes
wrong.
"""

import asyncio
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rstar_math.config import SearchConfig
from rstar_math.search import ROOT, Node, Tree, grow
from rstar_math.testing import ToyWorld
from rstar_math.training.curation import Curated, SearchedProblem, curate
from rstar_math.types import Step, Verdict

IMAGES = Path(__file__).parent / "images"
WORLD = ToyWorld(steps=2, right=0.45, slip=0.25, trap=0.1, fails=0.2, dead=0.0, wordings=1, seed=4)
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.code { font: 12px ui-monospace, monospace; }
.dim { fill: #6e7781; }
.edge { fill: none; stroke: #afb8c1; stroke-width: 1.3; }
.box { fill: none; stroke: #afb8c1; stroke-width: 1.3; }
.good { stroke: #1a7f37; } text.good, circle.good { fill: #1a7f37; stroke: none; }
.bad { stroke: #c75a4d; } text.bad, circle.bad { fill: #c75a4d; stroke: none; }
circle { fill: #8b949e; } circle.open { fill: none; stroke: #c75a4d; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #d0d7de; } .dim { fill: #8b949e; } .edge, .box { stroke: #444c56; }
  .good { stroke: #3fb950; } text.good, circle.good { fill: #3fb950; }
  .bad { stroke: #f47067; } text.bad, circle.bad { fill: #f47067; }
}
"""


async def same_text(answers: Sequence[str]) -> list[int]:
    """Classes of equal texts."""
    seen: dict[str, int] = {}
    return [seen.setdefault(answer, len(seen)) for answer in answers]


async def searched(world: ToyWorld, count: int, config: SearchConfig) -> list[SearchedProblem]:
    """The first problems of a world with the trees of a guided search."""
    found = []
    for problem in world.problems(count):
        tree = Tree(problem.question)
        judge = world.verifier(problem)
        await grow(
            tree, policy=world.policy, executor=world.executor, verifier=judge, config=config
        )
        found.append(SearchedProblem(problem, (("mcts", tree),)))
    return found


def tree_picture(tree: Tree) -> str:
    """Every node with what its step does, its visits and its Q."""
    rows = _rows(tree)
    place = [(14 + 205 * node.depth, 48 + 36 * row) for node, row in zip(tree, rows, strict=True)]
    marks = [_text(8, 16, tree.question.text)]
    for index, node in enumerate(tree):
        if index != ROOT:
            (x0, y0), (x1, y1) = place[node.parent], place[index]
            bend, middle = x0 + 140, (x0 + 140 + x1) / 2
            curve = f"M{x0} {y0:.1f}H{bend}C{middle} {y0:.1f} {middle} {y1:.1f} {x1} {y1:.1f}"
            marks.append(f'<path class="edge" d="{curve}"/>')
    for index, node in enumerate(tree):
        x, y = place[index]
        kind = _kind(node)
        marks.append(
            f'<circle class="{kind}" cx="{x}" cy="{y:.1f}" r="{3 + node.visits**0.5:.1f}"/>'
        )
        label = "the question" if node.step is None else _does(node.step)
        marks.append(_text(x + 9, y - 5, label, "code" if node.step else ""))
        marks.append(_text(x + 9, y + 14, _worth(node), "dim"))
    height = 76 + 36 * max(rows)
    return _svg(14 + 205 * max(node.depth for node in tree) + 190, height, marks)


def pair_picture(found: Curated) -> str:
    """The first pair of steps after a common beginning: what is compared, and by which values."""
    kept = next(one for one in found.pairs if one.kind == "step" and one.depth == 1)
    pair = kept.pair
    marks = [_text(8, 16, pair.question.text)]
    marks += _box(8, 60, 250, ["beginning of both", *(_does(step) for step in pair.prefix)], "")
    for y, steps, q, kind in (
        (30, pair.chosen, pair.q_chosen, "good"),
        (104, pair.rejected, pair.q_rejected, "bad"),
    ):
        word = "preferred" if kind == "good" else "not preferred"
        marks += _box(
            350, y, 300, [f"{word}: Q = {q:+.2f}", *(_does(step) for step in steps)], kind
        )
        marks.append(f'<path class="edge" d="M258 90C305 90 305 {y + 30} 350 {y + 30}"/>')
    marks.append(
        _text(350, 186, f"weight {pair.weight:.2f}: the pairs of one node weigh 1 together", "dim")
    )
    return _svg(700, 200, marks)


def round_picture(problems: list[SearchedProblem], found: Curated) -> str:
    """The stages of a round, with what a real search of the toy world came to."""
    trees = [tree for one in problems for _, tree in one.trees]
    nodes = sum(len(tree) - 1 for tree in trees)
    solved = sum(any(node.verdict is Verdict.RIGHT for node in tree) for tree in trees)
    steps = sum(one.kind == "step" for one in found.pairs)
    stages = [
        ("1 search", [f"{len(trees)} problems", f"{nodes} steps tried", f"{solved} solved"]),
        (
            "2 curate",
            [
                f"{len(found.solutions)} solutions",
                f"{steps} step pairs",
                f"{len(found.pairs) - steps} final pairs",
            ],
        ),
        ("3 train the policy", ["on the solutions,", "from the base", ""]),
        ("4 gate", ["better on held-out", "problems? else the", "old one stays"]),
        ("5 train the PPM", ["on the pairs, from", "the policy; its own", "gate as well"]),
        ("6 measure", ["on sets that were", "never trained on", ""]),
    ]
    marks = []
    for at, (name, lines) in enumerate(stages):
        x = 8 + 158 * at
        marks += _box(x, 8, 138, [name, *lines], "")
        if at:
            marks.append(f'<path class="edge" d="M{x - 20} 50h14m-5 -4l5 4l-5 4"/>')
    end = 8 + 158 * 5 + 69
    marks.append(f'<path class="edge" d="M{end} 94v18H77v-12m-4 5l4 -5l4 5"/>')
    marks.append(_text(360, 130, "next round: the policy and the PPM in use search", "dim"))
    return _svg(954, 140, marks)


def _does(step: Step) -> str:
    """What a step of the toy world does, in short."""
    if step.answer is not None:
        return f"answer {step.answer}"
    code = [line for line in step.code.splitlines() if not line.startswith(("#", "print", "s = 0"))]
    return "; ".join(code)


def _worth(node: Node) -> str:
    """A node's visits and Q, or why it has none."""
    if node.failure:
        return node.failure
    return "not visited" if node.q is None else f"N = {node.visits}, Q = {node.q:+.2f}"


def _kind(node: Node) -> str:
    """The colour of a node's dot."""
    if node.failure:
        return "open"
    return {Verdict.RIGHT: "good", Verdict.WRONG: "bad"}.get(node.verdict or Verdict.UNKNOWN, "")


def _rows(tree: Tree) -> list[float]:
    """A row for each node: ends below each other, others in the middle of their children."""
    rows = [0.0] * len(tree)
    free = iter(range(len(tree)))

    def lay(index: int) -> float:
        below = [lay(child) for child in tree.nodes[index].children]
        rows[index] = (below[0] + below[-1]) / 2 if below else float(next(free))
        return rows[index]

    lay(ROOT)
    return rows


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    """A line of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, lines: Sequence[str], kind: str) -> list[str]:
    """A box with a title and lines."""
    height = 18 * len(lines) + 12
    frame = f'<rect class="box {kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
    title, *rest = lines
    texts = [_text(x + 10, y + 38 + 18 * at, line, "dim") for at, line in enumerate(rest)]
    return [frame, _text(x + 10, y + 20, title, kind), *texts]


def _svg(width: float, height: float, marks: Sequence[str]) -> str:
    """A whole file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">\n<style>{STYLE}</style>\n'
        + "\n".join(marks)
        + "\n</svg>\n"
    )


def pictures() -> dict[str, str]:
    """SVG text by file name; the same every time."""

    async def draw() -> dict[str, str]:
        small = await searched(WORLD, 1, SearchConfig(rollouts=4, candidates=4))
        (((_, tree),),) = (one.trees for one in small)
        config = SearchConfig(rollouts=8, candidates=8)
        problems = await searched(ToyWorld(steps=3, wordings=1), 40, config)
        found = await curate(problems, lambda question: same_text)
        return {
            "concept-tree.svg": tree_picture(tree),
            "concept-pair.svg": pair_picture(found),
            "concept-round.svg": round_picture(problems, found),
        }

    return asyncio.run(draw())


if __name__ == "__main__":
    for name, svg in pictures().items():
        (IMAGES / name).write_text(svg, encoding="utf-8")
        print(IMAGES / name, file=sys.stderr)
