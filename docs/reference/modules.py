"""The page of modules."""

import ast
from pathlib import Path

from docs.reference.markdown import cell, plain

SOURCE = Path(__file__).resolve().parents[2] / "src" / "rstar_math"


def files_page() -> str:
    """The page of modules."""
    lines = ["# File map", "", "Every file, with the first sentence that it says of itself.", ""]
    for folder in sorted({path.parent for path in SOURCE.rglob("*.py")}):
        if "__pycache__" in folder.parts:
            continue
        lines += [
            f"## {folder.relative_to(SOURCE.parent).as_posix()}/",
            "",
            "| file | |",
            "|---|---|",
        ]
        for path in sorted(folder.glob("*.py")):
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            said = " ".join(doc.split("\n\n")[0].split())
            lines.append(f"| `{path.name}` | {cell(plain(said))} |")
        lines.append("")
    return "\n".join(lines)
