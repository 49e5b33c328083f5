"""The pages of the documentation and what stands in them: blocks of code, code in the text, links,
headings."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docs.reference.pages import pages as generated

ROOT = Path(__file__).resolve().parents[3]
HISTORY = ROOT / "docs" / "lab-notes.md"
"""A dated page. It and CHANGELOG may name what is gone."""
WRITTEN = sorted(
    {ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")} - {HISTORY}
)
"""Pages that people wrote and keep up to date."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^|(?<=\n\n))((?:(?: {4}|\t).*\n|\n(?= {4}))+)", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code."""

    page: str
    language: str
    """"" for an indented block."""
    code: str


def name(path: Path) -> str:
    """A page's path as tests show it."""
    return path.relative_to(ROOT).as_posix()


@cache
def text(page: str) -> str:
    """A page's Markdown, written or generated."""
    file = ROOT / page
    return file.read_text(encoding="utf-8") if file.exists() else made()[page]


@cache
def made() -> dict[str, str]:
    """The generated pages by their path."""
    return {f"docs/{path}": page for path, page in generated().items()}


def blocks(page: str) -> Iterator[Block]:
    """The blocks of code of a page."""
    for found in _FENCE.finditer(text(page)):
        yield Block(page, found[1], found[2])
    for found in _INDENTED.finditer(_FENCE.sub("", text(page))):
        lines = (line[4:] for line in found[1].splitlines())
        yield Block(page, "", "\n".join(lines))


def spans(page: str) -> Iterator[str]:
    """Code within the text of a page, each on one line, with a table's escapes undone."""
    prose = _INDENTED.sub("", _FENCE.sub("", text(page)))
    for found in _SPAN.finditer(prose):
        yield " ".join(found[1].split()).replace("\\|", "|")


def links(page: str) -> Iterator[str]:
    """Targets of the links and pictures of a page."""
    prose = _FENCE.sub("", text(page))
    yield from _LINK.findall(re.sub(r"`[^`\n]*`", "", prose))


def anchors(page: str) -> set[str]:
    """What may stand after # in a link to a page."""
    return {slug(found) for found in _HEADING.findall(_FENCE.sub("", text(page)))}


def slug(heading: str) -> str:
    """A heading's anchor, as Markdown's toc extension makes it."""
    ascii_ = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_).strip().lower())
