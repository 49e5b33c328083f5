"""A tree in pieces: its shape as numbers, its lines and its steps in blocks. The page renders what
is open and asks for no other block, so that a tree of 20,000 nodes opens as fast as a small one."""

import json
from collections.abc import Sequence

from rstar_math.search import ROOT, Choice, Tree
from rstar_math.serve.viewer.steps import line_html, step_html

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
