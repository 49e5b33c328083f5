"""A report on runs: Markdown, one self-contained page with plots, and the trees it links to."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rstar_math.evaluation import choices, drawings, tables
from rstar_math.evaluation.markup import Block, Figure, Heading, Paragraph, to_html, to_markdown
from rstar_math.evaluation.plots import STYLE
from rstar_math.evaluation.recorded import Grading
from rstar_math.evaluation.series import Run, Series, gather
from rstar_math.evolution.store import RunStore
from rstar_math.serve.page import POLICY, write_whole
from rstar_math.serve.viewer.export import write_page

TITLE = "Evaluation report"


async def write_report(
    paths: Sequence[Path],
    folder: Path,
    grading: Grading,
    *,
    plots: bool = True,
    trees: bool = True,
) -> list[Path]:
    """Write the report on some runs into a folder and return the files: `report.md`, `report.html`
    and, unless `trees` is off, `trees-N.html` for the Nth run.

    The same runs give the same bytes. Raises `MissingExtra` where `plots` are on without
    matplotlib, `InputError` or `StoreError` for a run that cannot be read.
    """
    runs, series = await gather(paths, grading)
    blocks = list(document(runs, series, plots=plots, linked=trees))
    written = [folder / "report.md", folder / "report.html"]
    write_whole(written[0], to_markdown(TITLE, blocks))
    css = (files("rstar_math.serve") / "page.css").read_text(encoding="utf-8")
    own = (files("rstar_math.evaluation") / "report.css").read_text(encoding="utf-8")
    write_whole(written[1], to_html(TITLE, blocks, css + own + STYLE, POLICY))
    if trees:
        for number, run in enumerate(runs, 1):
            written.append(folder / f"trees-{number}.html")
            with RunStore.read(run.path) as store:
                write_page([store], written[-1])
    return written


def document(
    runs: Sequence[Run], series: Sequence[Series], *, plots: bool, linked: bool
) -> list[Block]:
    """The report's parts in their order."""
    figures = drawings.figures(series) if plots else {}
    blocks: list[Block] = [
        Paragraph(tables.opening(runs, series)),
        Heading("Results"),
        tables.results(series),
        Paragraph(tables.results_note(series)),
    ]
    blocks += _drawn(figures, "cost")
    blocks += _drawn(figures, "levels")
    blocks += [*tables.pooled(runs, series), *choices.attempts(series), *choices.rules(series)]
    blocks += tables.comparisons(series)
    blocks += tables.costs(series)
    blocks += _drawn(figures, "spared")
    blocks += tables.failures(series)
    for name in ("q", "score", "scores"):
        blocks += _drawn(figures, name)
    blocks += tables.problem_by_problem(series, linked=linked)
    blocks += tables.papers(runs, series)
    blocks += tables.circumstances(runs)
    return blocks


def _drawn(figures: dict[str, Figure], name: str) -> list[Block]:
    """A figure, where there is something to draw."""
    return [figures[name]] if name in figures else []
