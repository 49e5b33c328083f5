"""Writes a report on runs: Markdown, a self-contained HTML page, and pages with the trees."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from rstar_math.evaluation import report_sections
from rstar_math.evaluation.document import (
    CONTENT_SECURITY_POLICY,
    Block,
    Figure,
    Heading,
    Paragraph,
    Table,
    format_interval,
    format_percent,
    to_html,
    to_markdown,
)
from rstar_math.evaluation.metrics import (
    maj_at_k,
    pass_at_k,
    rule_at_k,
    scorer_at_k,
    top_of_runs,
    weighted_vote,
)
from rstar_math.evaluation.plots import STYLE
from rstar_math.evaluation.plots import figures as draw_figures
from rstar_math.evaluation.results import TOP_OF_RUNS, AnswerJudge, Run, Series, load_runs
from rstar_math.evaluation.statistics import bootstrap
from rstar_math.files import write_text
from rstar_math.runs.store import RunStore


def attempts_section(series: Sequence[Series]) -> list[Block]:
    """The expected results of k attempts, for strategies with several recorded attempts."""
    rows: list[list[str]] = []
    for item in series:
        attempts = [result.attempts for result in item.graded if result.attempts]
        n = min((len(a) for a in attempts), default=0)
        if n < 2 or len(attempts) < len(item.graded):
            continue
        for k in sorted({1, 2, 4, 8, 16, 32, 64, n}):
            if k > n:
                continue
            passed = [pass_at_k(len(a), sum(attempt.right for attempt in a), k) for a in attempts]
            row = [item.label, str(k), _mean(passed), _mean([maj_at_k(a, k) for a in attempts])]
            if any(attempt.value is not None for a in attempts for attempt in a):
                row.append(_mean([scorer_at_k(a, k) for a in attempts]))
                row.append(_mean([rule_at_k(a, k, weighted_vote) for a in attempts]))
                row.append(_mean([rule_at_k(a, k, top_of_runs) for a in attempts]))
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
            "Expected results of k independent attempts, averaged over all subsets of k recorded "
            "attempts. An attempt is a chain or a whole run with its own answer. pass@k uses the "
            "unbiased estimator. Top 4 is the rule of rStar-Math: the majority of the 4 runs with "
            "the highest scores. Intervals are bootstrapped over problems. Strategies that stop "
            "early or spend a token budget have no fixed number of attempts and are left out."
        ),
    ]


_RULE_LABELS = {
    "majority": "majority",
    "paths": "one vote per path",
    "weighted": "weighted by value",
    "best": "best value",
    TOP_OF_RUNS: "top of runs",
    "confidence": "weighted by confidence",
}
"""Column titles of the answer rules; without log-probabilities there is no last column."""


def rules_section(series: Sequence[Series]) -> list[Block]:
    """The right answers of each answer rule on the same trees."""
    found = {rule for item in series for result in item.graded for rule in result.by_rule}
    names = [name for name in _RULE_LABELS if name != "confidence" or name in found]
    rows: list[list[str]] = []
    for item in series:
        # All rules agree on a problem with fewer than two answers.
        several = [result for result in item.graded if result.by_rule]
        rest = sum(result.right for result in item.graded if not result.by_rule)
        if not several:
            continue
        known = [name for name in names if any(name in result.by_rule for result in several)]
        row = [item.label]
        for name in names:
            right = sum(result.by_rule.get(name, result.by_rule["majority"]) for result in several)
            row.append(f"{right + rest}/{len(item.graded)}" if name in known else "-")
        rows.append([*row, format_percent(item.ceiling)])
    if not rows:
        return []
    header = ["strategy", *(_RULE_LABELS[name] for name in names)]
    return [
        Heading("Answer rules"),
        Table([*header, "any path right"], rows),
        Paragraph(
            "Number of right answers by each rule (search.answer) on the same trees. The best rule "
            "in this table was selected on these problems, so it must be measured on others. Top "
            "of runs takes the best path of each chain or run, and the majority of the best of "
            "these."
        ),
    ]


def _mean(values: Sequence[float]) -> str:
    """A mean share with its bootstrap interval."""
    interval = format_interval(bootstrap(values, resamples=2_000))
    return f"{100 * sum(values) / len(values):.1f} ({interval})"


TITLE = "Evaluation report"
TreeWriter = Callable[[Sequence[RunStore], Path], object]
"""Writes a page with the trees of runs."""


async def write_report(
    paths: Sequence[Path],
    folder: Path,
    grading: AnswerJudge,
    *,
    plots: bool = True,
    write_trees: TreeWriter | None = None,
) -> list[Path]:
    """Write the report on runs into a folder and return the files.

    The files are `report.md`, `report.html` and, with `write_trees` (`viewer.export.write_page`),
    `trees-N.html` for the Nth run. Equal runs give equal bytes. Raises `MissingDependencyError` if
    `plots` is set without matplotlib, and `InputError` or `StoreError` if a run cannot be read.
    """
    runs, series = await load_runs(paths, grading)
    blocks = document(runs, series, plots=plots, linked=write_trees is not None)
    written = [folder / "report.md", folder / "report.html"]
    write_text(written[0], to_markdown(TITLE, blocks))
    css = (files("rstar_math.evaluation") / "page.css").read_text(encoding="utf-8")
    css += (files("rstar_math.evaluation") / "report.css").read_text(encoding="utf-8")
    write_text(written[1], to_html(TITLE, blocks, css + STYLE, CONTENT_SECURITY_POLICY))
    if write_trees is not None:
        for number, run in enumerate(runs, 1):
            written.append(folder / f"trees-{number}.html")
            with RunStore.read(run.path) as store:
                write_trees([store], written[-1])
    return written


def document(
    runs: Sequence[Run], series: Sequence[Series], *, plots: bool, linked: bool
) -> list[Block]:
    """The blocks of the report. `linked` states that the pages with the trees exist."""
    figures = draw_figures(series) if plots else {}
    blocks: list[Block] = [
        Paragraph(report_sections.introduction(runs, series)),
        Heading("Results"),
        report_sections.results_table(series),
        Paragraph(report_sections.results_note(series)),
    ]
    blocks += _available(figures, "cost", "levels")
    blocks += report_sections.pooled_seeds(runs, series)
    blocks += [*attempts_section(series), *rules_section(series)]
    blocks += report_sections.comparisons(series)
    blocks += report_sections.costs(series)
    blocks += _available(figures, "saved")
    blocks += report_sections.failures(series)
    blocks += _available(figures, "q", "score", "scores")
    blocks += report_sections.problem_by_problem(series, linked=linked)
    blocks += report_sections.published_results(runs, series)
    blocks += report_sections.configuration(runs)
    return blocks


def _available(figures: dict[str, Figure], *names: str) -> list[Block]:
    """The named figures that exist."""
    return [figures[name] for name in names if name in figures]
