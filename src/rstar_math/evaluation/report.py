"""A report on runs: Markdown, one self-contained page with plots, and the trees it links to."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from rstar_math.evaluation import report_sections
from rstar_math.evaluation.document import (
    POLICY,
    Block,
    Figure,
    Heading,
    Paragraph,
    Table,
    percent,
    span,
    to_html,
    to_markdown,
)
from rstar_math.evaluation.metrics import (
    maj_at_k,
    pass_at_k,
    rule_at_k,
    scorer_at_k,
    top_of_runs,
    weighted,
)
from rstar_math.evaluation.plots import STYLE
from rstar_math.evaluation.plots import figures as draw_figures
from rstar_math.evaluation.results import TOP, AnswerJudge, Run, Series, load_runs
from rstar_math.evaluation.statistics import bootstrap
from rstar_math.files import write_text
from rstar_math.runs.store import RunStore
from rstar_math.search.voting import RULES


def attempts(series: Sequence[Series]) -> list[Block]:
    """Expected results of k of the recorded attempts, for strategies that have several."""
    rows: list[list[str]] = []
    for one in series:
        tried = [r.attempts for r in one.readings if r.attempts]
        n = min((len(t) for t in tried), default=0)
        if n < 2 or len(tried) < len(one.readings):
            continue
        for k in sorted({1, 2, 4, 8, 16, 32, 64, n}):
            if k > n:
                continue
            passed = [pass_at_k(len(t), sum(a.right for a in t), k) for t in tried]
            row = [one.label, str(k), _mean(passed), _mean([maj_at_k(t, k) for t in tried])]
            if any(a.value is not None for t in tried for a in t):
                row.append(_mean([scorer_at_k(t, k) for t in tried]))
                row.append(_mean([rule_at_k(t, k, weighted) for t in tried]))
                row.append(_mean([rule_at_k(t, k, top_of_runs) for t in tried]))
            else:
                row += ["-", "-", "-"]
            rows.append(row)
    if not rows:
        return []
    header = ["strategy", "k", "pass@k (ceiling)", "maj@k", "scorer@k", "weighted@k", "top 4@k"]
    return [
        Heading("Attempts"),
        Table(header, rows),
        Paragraph(
            "Expected results of k independent attempts (chains, or whole runs, each with its own "
            "answer), averaged over all choices of k among those recorded; pass@k by the unbiased "
            "estimator; top 4: the majority of the 4 with the highest score, rStar-Math's rule for "
            "its runs. Intervals are bootstrapped over problems. Strategies that stop early or "
            "spend a budget of tokens have no fixed number of attempts and are not here."
        ),
    ]


def rules(series: Sequence[Series]) -> list[Block]:
    """What each way to choose the answer makes of the same trees."""
    names = [*RULES, TOP]
    rows: list[list[str]] = []
    for one in series:
        # A problem without two answers has nothing to choose from: its result is every rule's.
        several = [r for r in one.readings if r.by_rule]
        rest = sum(r.right for r in one.readings if not r.by_rule)
        if not several:
            continue
        known = [name for name in names if any(name in r.by_rule for r in several)]
        row = [one.label]
        for name in names:
            found = sum(r.by_rule.get(name, r.by_rule["majority"]) for r in several)
            row.append(f"{found + rest}/{len(one.readings)}" if name in known else "-")
        rows.append([*row, percent(one.ceiling)])
    if not rows:
        return []
    header = ["strategy", "majority", "one vote a path", "weighted by value", "best value"]
    return [
        Heading("Ways to choose"),
        Table([*header, "top of runs", "any path right"], rows),
        Paragraph(
            "Right answers by each rule (search.answer) from the very same trees. The rule that "
            "looks best here was found on these problems, so it is a result on others alone. Top "
            "of runs: of each chain or run the path with the highest value, of these the "
            "majority of the best few."
        ),
    ]


def _mean(values: Sequence[float]) -> str:
    """A mean share with its interval."""
    return f"{100 * sum(values) / len(values):.1f} ({span(bootstrap(values, resamples=2_000))})"


TITLE = "Evaluation report"
TreeWriter = Callable[[Sequence[RunStore], Path], object]
"""Writes a page that shows the trees of some runs."""


async def write_report(
    paths: Sequence[Path],
    folder: Path,
    grading: AnswerJudge,
    *,
    plots: bool = True,
    write_trees: TreeWriter | None = None,
) -> list[Path]:
    """Write the report on some runs into a folder and return the files: `report.md`, `report.html`
    and, with `write_trees` (`viewer.app.write_page`), `trees-N.html` for the Nth run.

    The same runs give the same bytes. Raises `MissingDependencyError` where `plots` are on without
    matplotlib, `InputError` or `StoreError` for a run that cannot be read.
    """
    runs, series = await load_runs(paths, grading)
    blocks = list(document(runs, series, plots=plots, linked=write_trees is not None))
    written = [folder / "report.md", folder / "report.html"]
    write_text(written[0], to_markdown(TITLE, blocks))
    css = (files("rstar_math.evaluation") / "page.css").read_text(encoding="utf-8")
    own = (files("rstar_math.evaluation") / "report.css").read_text(encoding="utf-8")
    write_text(written[1], to_html(TITLE, blocks, css + own + STYLE, POLICY))
    if write_trees is not None:
        for number, run in enumerate(runs, 1):
            written.append(folder / f"trees-{number}.html")
            with RunStore.read(run.path) as store:
                write_trees([store], written[-1])
    return written


def document(
    runs: Sequence[Run], series: Sequence[Series], *, plots: bool, linked: bool
) -> list[Block]:
    """The report's parts in their order."""
    figures = draw_figures(series) if plots else {}
    blocks: list[Block] = [
        Paragraph(report_sections.opening(runs, series)),
        Heading("Results"),
        report_sections.results(series),
        Paragraph(report_sections.results_note(series)),
    ]
    blocks += _drawn(figures, "cost")
    blocks += _drawn(figures, "levels")
    blocks += [*report_sections.pooled(runs, series), *attempts(series), *rules(series)]
    blocks += report_sections.comparisons(series)
    blocks += report_sections.costs(series)
    blocks += _drawn(figures, "spared")
    blocks += report_sections.failures(series)
    for name in ("q", "score", "scores"):
        blocks += _drawn(figures, name)
    blocks += report_sections.problem_by_problem(series, linked=linked)
    blocks += report_sections.papers(runs, series)
    blocks += report_sections.circumstances(runs)
    return blocks


def _drawn(figures: dict[str, Figure], name: str) -> list[Block]:
    """A figure, where there is something to draw."""
    return [figures[name]] if name in figures else []
