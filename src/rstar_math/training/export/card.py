"""The README of a folder of training data: what is in it and what it was made from, with the head
that lets `datasets.load_dataset` find its files."""

import json
from collections.abc import Mapping
from typing import Any

from rstar_math.training.export.rows import ROWS

_ABOUT = {
    "sft": "right solutions to imitate: the best of each problem by mean Q (`prompt`, "
    "`completion`; `outputs` marks what the interpreter wrote, not to be trained on)",
    "preference": "pairs for a preference model: next steps of one node, and whole solutions "
    "(`prompt`, `chosen`, `rejected`, `weight`)",
    "outcome": "whole solutions and whether they are right (`prompt`, `completion`, `label`)",
    "value": "beginnings of solutions and their Q in [-1, 1] (`prompt`, `completion`, `value`)",
    "steps": "solutions with a label for each step (`prompt`, `completions`, `labels`, `shares`)",
}

_WARNING = """\
## Licence

None is given by making this data. The questions and references are those of their sources, and the
solutions were written by the model named above: the licences of both apply, and some models'
licences restrict what may be trained on their output. Check them before you publish this data or a
model trained on it.
"""


def card(mark: Mapping[str, Any]) -> str:
    """The card of a folder whose mark is `mark` (see `folder`)."""
    files: dict[str, dict[str, Any]] = mark["files"]
    by_kind = {entry["data"]: (name, entry["rows"]) for name, entry in files.items()}
    lines = ["---", "license: unknown", "tags: [reasoning, mathematics, rstar-math]", "configs:"]
    for kind, (name, _) in by_kind.items():
        lines += [f"- config_name: {kind}", f"  data_files: {name}"]
    origin = mark["origin"]
    lines += [
        "---",
        "",
        "# Training data from search trees",
        "",
        f"Made by rstar-math {mark['version']} from the run {_quoted(origin['run'])} (SHA-256 of "
        f"its content `{origin['digest']}`).",
        "",
        f"Policy: {_quoted(str(origin['conditions'].get('model.name')))}. Problems from: "
        f"{', '.join(_quoted(source or 'no source named') for source in origin['sources'])}.",
        "",
        "| data | rows | what |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{kind}` | {by_kind[kind][1]} | {_ABOUT[kind]} |" for kind in ROWS if kind in by_kind
    ]
    lines += ["", '    datasets.load_dataset("FOLDER", "sft")', "", "## Kept and dropped", ""]
    lines += ["| what | outcome | count |", "|---|---|---|"]
    for group, counts in mark["report"].items():
        named = group.replace("_", " ")
        lines += [f"| {named} | {reason} | {count} |" for reason, count in counts.items()]
    lines += ["", *_suspects(mark["suspects"]), "## Options of curation", "", "```json"]
    lines += [json.dumps(mark["config"], indent=2), "```", "", _WARNING]
    return "\n".join(lines)


def _suspects(suspects: list[dict[str, Any]]) -> list[str]:
    """The problems that were left out since their reference is doubted."""
    if not suspects:
        return []
    lines = ["## Left out: probably mislabelled", "", "| problem | reference | solutions say |"]
    lines.append("|---|---|---|")
    for one in suspects:
        cells = (one["problem"], one["reference"], f"{one['answer']} ({one['share']:.0%})")
        lines.append("| " + " | ".join(_quoted(str(cell)) for cell in cells) + " |")
    return [*lines, ""]


def _quoted(text: str) -> str:
    """Foreign text for a line of Markdown."""
    for sign in "\\`|<>[]*_":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
