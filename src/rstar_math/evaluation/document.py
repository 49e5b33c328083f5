"""A document of headings, paragraphs, tables and figures, as Markdown and as HTML. Foreign text is
escaped for both; figures and folded parts are in the HTML only."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from html import escape

from rstar_math.text import sanitize


def percent(share: float | None) -> str:
    """A share in per cent."""
    return "-" if share is None else f"{100 * share:.1f} %"


def span(interval: tuple[float, float] | None) -> str:
    """An interval of shares in per cent."""
    return "-" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"


def short(value: float) -> str:
    """A figure with as many places as it deserves."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def points(interval: tuple[float, float]) -> str:
    """An interval of differences in points."""
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The content security policy of a page without any script."""


def anchor(strategy: str, problem: str) -> str:
    """The id of a result's place on the page of its run."""
    name = f"{strategy}\x1f{problem}".encode("utf-8", "surrogatepass")
    return "r" + blake2b(name, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Link:
    """Text that leads somewhere; `target` is relative and ours, never foreign text."""

    text: str
    target: str
    kind: str = ""
    """CSS class."""


Cell = str | Link


@dataclass(frozen=True, slots=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header. Figures are set to the right; the first `words` columns to the left."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1
    folded: str = ""
    """Title under which the table is folded away in the HTML; "" shows it."""
    most: int | None = None
    """Rows in the Markdown; None for all."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture (SVG, trusted) with its caption."""

    svg: str
    caption: str


Block = Heading | Paragraph | Table | Figure


def to_markdown(title: str, blocks: Iterable[Block]) -> Iterator[str]:
    """The document as GitHub's Markdown, piece by piece."""
    yield f"# {_md(title)}\n"
    for block in blocks:
        if isinstance(block, Heading):
            yield f"\n## {_md(block.text)}\n"
        elif isinstance(block, Paragraph):
            yield f"\n{_md(block.text)}\n"
        elif isinstance(block, Figure):
            yield f"\n(In the HTML page: {_md(block.caption)})\n"
        else:
            yield from _md_table(block)


def to_html(title: str, blocks: Iterable[Block], style: str, policy: str) -> Iterator[str]:
    """The document as one self-contained page, piece by piece: no script, nothing loaded."""
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_html(title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{_html(title)}</h1></header><main>"
    )
    for block in blocks:
        if isinstance(block, Heading):
            yield f"<h2>{_html(block.text)}</h2>"
        elif isinstance(block, Paragraph):
            yield f"<p>{_html(block.text)}</p>"
        elif isinstance(block, Figure):
            caption = _html(block.caption)
            yield f"<figure>{block.svg}<figcaption>{caption}</figcaption></figure>"
        else:
            yield from _html_table(block)
    yield "</main></body></html>\n"


def _md_table(table: Table) -> Iterator[str]:
    """A table's lines."""
    yield "\n| " + " | ".join(map(_md, table.header)) + " |\n"
    marks = ["---" if i < table.words else "---:" for i in range(len(table.header))]
    yield "| " + " | ".join(marks) + " |\n"
    for row in table.rows[: table.most]:
        yield "| " + " | ".join(map(_md_cell, row)) + " |\n"
    if table.most is not None and len(table.rows) > table.most:
        yield f"\n({len(table.rows) - table.most} more rows in the HTML page.)\n"


def _html_table(table: Table) -> Iterator[str]:
    """A table, in a box that scrolls by itself."""
    if table.folded:
        yield f"<details><summary>{_html(table.folded)}</summary>"
    cells = "".join(
        f"<th{_alignment(at, table)}>{_html(name)}</th>" for at, name in enumerate(table.header)
    )
    yield f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>'
    for row in table.rows:
        cells = "".join(
            f"<td{_alignment(i, table)}>{_html_cell(cell)}</td>" for i, cell in enumerate(row)
        )
        yield f"<tr>{cells}</tr>"
    yield "</tbody></table></div>"
    if table.folded:
        yield "</details>"


def _alignment(at: int, table: Table) -> str:
    """The class of a cell in a column."""
    return "" if at < table.words else ' class="figure"'


def _md_cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f"[{_md(cell.text)}]({cell.target})" if cell.target else _md(cell.text)
    return _md(cell)


def _html_cell(cell: Cell) -> str:
    if not isinstance(cell, Link):
        return _html(cell)
    kind = f' class="{cell.kind}"' if cell.kind else ""
    if not cell.target:
        return f"<span{kind}>{_html(cell.text)}</span>"
    return f'<a{kind} href="{escape(cell.target)}">{_html(cell.text)}</a>'


def _html(text: str) -> str:
    return escape(sanitize(text))


_MARKS = re.compile(r"([\\`*_{}\[\]|#~$!])")


def _md(text: str) -> str:
    """Foreign text on one line that Markdown takes for text and no renderer for HTML."""
    flat = " ".join(sanitize(text).split())
    return _MARKS.sub(r"\\\1", flat).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
