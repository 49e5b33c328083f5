"""A document of headings, paragraphs, tables and figures, rendered as Markdown or HTML.

All text is escaped in both formats. Only HTML has figures and folded tables.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from html import escape

from rstar_math.text import sanitize


def format_percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage; "-" for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def format_interval(interval: tuple[float, float] | None) -> str:
    """An interval of shares as percentages; "-" for None."""
    return "-" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"


def format_number(value: float) -> str:
    """A number with one decimal place below 100 and none above."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def format_difference(interval: tuple[float, float]) -> str:
    """An interval of differences of shares, in percentage points with signs."""
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The content security policy of a page without scripts."""


def result_anchor(strategy: str, problem: str) -> str:
    """The HTML id of a result on the page of its run."""
    name = f"{strategy}\x1f{problem}".encode("utf-8", "surrogatepass")
    return "r" + blake2b(name, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Link:
    """A hyperlink."""

    text: str
    target: str
    """A relative URL; "" for none. It must not contain untrusted text."""
    kind: str = ""
    """CSS class."""


Cell = str | Link


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: int = 1
    """Number of leading columns that are left-aligned; the others are right-aligned numbers."""
    folded: str = ""
    """The title under which the table is collapsed in HTML; "" shows the table."""
    max_markdown_rows: int | None = None
    """Maximum number of rows in Markdown; None for all."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with a caption. The SVG must be trusted."""

    svg: str
    caption: str


Block = Heading | Paragraph | Table | Figure


def to_markdown(title: str, blocks: Iterable[Block]) -> Iterator[str]:
    """The document as GitHub-flavoured Markdown, in pieces."""
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
    """The document as one self-contained HTML page without scripts, in pieces."""
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
    yield "\n| " + " | ".join(map(_md, table.header)) + " |\n"
    marks = ["---" if i < table.text_columns else "---:" for i in range(len(table.header))]
    yield "| " + " | ".join(marks) + " |\n"
    limit = table.max_markdown_rows
    for row in table.rows[:limit]:
        yield "| " + " | ".join(map(_md_cell, row)) + " |\n"
    if limit is not None and len(table.rows) > limit:
        yield f"\n({len(table.rows) - limit} more rows in the HTML page.)\n"


def _html_table(table: Table) -> Iterator[str]:
    """A table in its own scrollable box."""
    if table.folded:
        yield f"<details><summary>{_html(table.folded)}</summary>"
    cells = "".join(
        f"<th{_alignment(i, table)}>{_html(name)}</th>" for i, name in enumerate(table.header)
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


def _alignment(column: int, table: Table) -> str:
    """The class attribute of a column's cells."""
    return "" if column < table.text_columns else ' class="figure"'


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
    """Text on one line, with Markdown and HTML syntax escaped."""
    flat = " ".join(sanitize(text).split())
    return _MARKS.sub(r"\\\1", flat).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
