"""The sections of a report: tables and the text around them."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest
from importlib.resources import files
from math import isnan

from rstar_math import __version__
from rstar_math.evaluation.document import (
    Block,
    Cell,
    Heading,
    Link,
    Paragraph,
    Table,
    format_difference,
    format_interval,
    format_number,
    format_percent,
    result_anchor,
)
from rstar_math.evaluation.metrics import REPORTED_COSTS, mean_cost, wilson
from rstar_math.evaluation.results import GradedResult, Run, Series, group_by_seed
from rstar_math.evaluation.statistics import (
    bootstrap,
    bootstrap_seeds,
    compare,
    detectable,
    detectable_unpaired,
)
from rstar_math.runs.results import disagree
from rstar_math.text import count_noun
from rstar_math.types import Verdict


@dataclass(frozen=True, slots=True)
class PublishedAccuracy:
    """One accuracy from a paper: measured by its authors, with their model and grader."""

    benchmark: str
    paper: str
    table: str
    what: str
    """The quantity that the table reports."""
    row: str
    model: str
    """The model of the column; "" if the row names the model."""
    percent: float
    source: str
    """The place where the number was read."""
    unsure: bool
    """Whether the number is unverified; check it before you quote it."""


@cache
def published() -> tuple[PublishedAccuracy, ...]:
    """All published accuracies, in the order of the papers."""
    text = (files("rstar_math.evaluation") / "published.toml").read_text(encoding="utf-8")
    found: list[PublishedAccuracy] = []
    for table in tomllib.loads(text)["table"]:
        for row, values in table["rows"].items():
            for column, value in zip(table["columns"], values, strict=True):
                if isnan(value):
                    continue
                benchmark, _, model = column.partition(" ")
                found.append(
                    PublishedAccuracy(
                        benchmark,
                        table["paper"],
                        table["table"],
                        table["what"],
                        row,
                        model,
                        float(value),
                        table["source"],
                        row in table.get("unsure", ()),
                    )
                )
    return tuple(found)


def published_on(benchmark: str) -> list[PublishedAccuracy]:
    """The published accuracies on a benchmark, by its name in `rstar benchmarks`."""
    return [entry for entry in published() if entry.benchmark == benchmark]


__all__ = [
    "comparisons",
    "configuration",
    "costs",
    "failures",
    "introduction",
    "pooled_seeds",
    "problem_by_problem",
    "published_results",
    "results_note",
    "results_table",
]
_TYPICAL_DISAGREEMENT = 0.2
"""Assumed share of problems on which two strategies of one model disagree."""
_MAX_PAIRS = 28
"""Maximum number of compared pairs: all pairs of eight strategies."""


def introduction(runs: Sequence[Run], series: Sequence[Series]) -> str:
    """The scope of the report in a few sentences."""
    models = sorted({model_name(run) for run in runs})
    graded = max((len(item.graded) for item in series), default=0)
    return (
        f"{len(series)} strateg{'y' if len(series) == 1 else 'ies'} of {len(runs)} "
        f"run{'' if len(runs) == 1 else 's'} on up to {graded} graded problems; "
        f"model: {', '.join(models)}. No search had access to the reference answers unless its run "
        "is marked as guided. All shares refer to graded problems. A missing answer, and one that "
        "the grader cannot decide, count as wrong."
    )


def results_table(series: Sequence[Series]) -> Table:
    """One row per strategy: accuracy with two intervals, its upper bound, and costs."""
    header = ["strategy", "right", "share", "95 % Wilson", "95 % bootstrap", "any path right"]
    header += ["no answer", "tokens / problem", "prompt / problem", "tokens / solved"]
    header += ["lost samples"]
    return Table(header, [_result_row(item) for item in series])


def _result_row(series: Series) -> list[str]:
    n, summary = len(series.graded), series.summary
    right = sum(result.right for result in series.graded)
    per_solved = mean_cost(summary.cost, summary.right)
    return [
        series.label,
        f"{right}/{n}",
        format_percent(right / n if n else None),
        format_interval(wilson(right, n) if n else None),
        format_interval(bootstrap(series.outcomes)),
        format_percent(series.ceiling),
        str(summary.unanswered),
        f"{series.tokens:.0f}",
        f"{summary.cost.prompt_tokens / n:.0f}" if n else "-",
        "-" if per_solved is None else f"{per_solved['sampled_tokens']:.0f}",
        format_percent(summary.samples_lost),
    ]


def results_note(series: Sequence[Series]) -> str:
    """The meaning of the columns, and the smallest detectable differences."""
    n = max((len(item.graded) for item in series), default=0)
    text = (
        "Any path right: the upper bound of every answer rule (an oracle, not a result). Tokens / "
        "solved: all sampled tokens divided by the number of solved problems. Lost samples: "
        "truncated samples and samples without a step. "
    )
    if not n:
        return text
    smallest = detectable(n, _TYPICAL_DISAGREEMENT)
    paired = (
        f"a difference under {100 * smallest:.1f} points between two strategies is not detectable "
        "(paired test, 80 % power at the 5 % level, if they disagree on 20 % of the problems)"
        if smallest is not None
        else "no difference between two strategies that disagree on 20 % of the problems is "
        "detectable (80 % power at the 5 % level)"
    )
    return (
        f"{text}With {count_noun(n, 'problem')} {paired}. Against a published accuracy without "
        f"results per problem, the limit is {100 * detectable_unpaired(n):.1f} points."
    )


def pooled_seeds(runs: Sequence[Run], series: Sequence[Series]) -> list[Block]:
    """Strategies that were run with several seeds, with intervals over problems and seeds."""
    rows: list[list[str]] = []
    for group in group_by_seed(runs, series):
        by_problem: dict[str, list[float]] = {}
        for item in group:
            for result in item.graded:
                by_problem.setdefault(result.problem.id, []).append(float(result.right))
        values = list(by_problem.values())
        mean = sum(sum(row) / len(row) for row in values) / len(values) if values else None
        seeds = sorted(str(runs[item.run].conditions.get("search.seed")) for item in group)
        interval = format_interval(bootstrap_seeds(values)) if values else "-"
        rows.append([group[0].strategy, ", ".join(seeds), format_percent(mean), interval])
    if not rows:
        return []
    header = ["strategy", "seeds", "mean share", "95 % bootstrap over problems and seeds"]
    return [Heading("Several seeds"), Table(header, rows, text_columns=2)]


def comparisons(series: Sequence[Series]) -> list[Block]:
    """Paired comparisons of strategies on the problems that both have."""
    found = []
    pairs = [(a, b) for i, a in enumerate(series) for b in series[i + 1 :]]
    for a, b in pairs[:_MAX_PAIRS]:
        first = {result.problem.id: result.right for result in a.graded}
        second = {result.problem.id: result.right for result in b.graded}
        both = [key for key in first if key in second]
        if both:
            found.append((a, b, compare([first[k] for k in both], [second[k] for k in both])))
    if not found:
        return []
    adjusted = holm([c.p for _, _, c in found])
    rows = []
    for (a, b, c), p in zip(found, adjusted, strict=True):
        interval = "-" if c.interval is None else format_difference(c.interval)
        smallest = "none" if c.detectable is None else f"{100 * c.detectable:.1f}"
        row = [f"{b.label} − {a.label}", str(c.problems), f"{100 * c.difference:+.1f}", interval]
        row += [f"{c.only_second} : {c.only_first}", f"{c.p:.3g}", f"{p:.3g}", smallest]
        rows.append(row)
    header = ["difference", "problems", "points", "95 %", "only one right", "p", "p (Holm)"]
    header.append("detectable from")
    omitted = len(pairs) - _MAX_PAIRS
    more = f" {omitted} further pairs are left out." if omitted > 0 else ""
    return [
        Heading("Paired comparisons"),
        Table(header, rows),
        Paragraph(
            "On the problems that both strategies have. 95 %: paired bootstrap. p: McNemar's exact "
            "test; Holm: corrected for the number of pairs in this table. Detectable from: the "
            "smallest difference, in points, that this number of problems shows with 80 % power at "
            f"the observed rate of disagreement.{more}"
        ),
    ]


def costs(series: Sequence[Series]) -> list[Block]:
    """The mean costs per problem and per solved problem."""
    rows = []
    for item in series:
        for unit, count in (("problem", item.summary.problems), ("solved", item.summary.right)):
            means = mean_cost(item.summary.cost, count)
            numbers = [
                "-" if means is None else format_number(means[name]) for name in REPORTED_COSTS
            ]
            rows.append([item.label, unit, *numbers])
    header = ["strategy", "per", *(name.replace("_", " ") for name in REPORTED_COSTS)]
    return [
        Heading("Cost"),
        Table(header, rows, text_columns=2),
        Paragraph(
            "Seconds are the time from start to end of a problem's search, while other searches "
            "run in parallel. Scorer tokens are read and sampled. rstar eval --json prints the "
            "sums and all other costs."
        ),
    ]


def failures(series: Sequence[Series]) -> list[Block]:
    """The number of paths without an answer, by reason."""
    reasons = sorted({reason for item in series for reason in item.summary.failures})
    header = ["strategy", "paths right", "paths wrong", *reasons, "samples cut off", "malformed"]
    rows = []
    for item in series:
        cost = item.summary.cost
        outcomes = [
            attempt.right
            for result in item.graded
            for attempt in result.attempts
            if attempt.group is not None
        ]
        paths = [str(sum(outcomes)), str(len(outcomes) - sum(outcomes))] if outcomes else ["-", "-"]
        counts = [str(item.summary.failures.get(reason, 0)) for reason in reasons]
        rows.append([item.label, *paths, *counts, str(cost.truncated), str(cost.malformed)])
    return [
        Heading("Failures by reason"),
        Table(header, rows),
        Paragraph(
            "Paths that ended without an answer, and samples that did not become part of a path. "
            "Right and wrong paths are counted per attempt if attempts are recorded."
        ),
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for multiple tests, in [0, 1] (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def model_name(run: Run) -> str:
    """The model's name as its server states it, otherwise as the configuration states it."""
    return run.facts.get("model") or str(run.conditions.get("model.name") or "not recorded")


_QUESTION_CHARS = 90
_ANSWER_CHARS = 24
_MAX_MARKDOWN_ROWS = 60


def problem_by_problem(series: Sequence[Series], *, linked: bool) -> list[Block]:
    """The answers of all strategies to each problem; problems with disagreement come first.

    With `linked`, each answer links to its tree.
    """
    by_series = [{result.problem.id: result for result in item.graded} for item in series]
    problems = {r.problem.id: r.problem for results in by_series for r in results.values()}
    disagreeing: list[list[Cell]] = []
    agreeing: list[list[Cell]] = []
    for key, problem in problems.items():
        cells: list[Cell] = [key, shorten(problem.question.text, _QUESTION_CHARS)]
        cells.append(shorten(problem.reference_text or "", _ANSWER_CHARS))
        outcomes: list[tuple[Verdict | None, str | None]] = []
        for item, results in zip(series, by_series, strict=True):
            result = results.get(key)
            cells.append(_answer_cell(item, result, linked=linked))
            if result is not None:
                verdict = Verdict.RIGHT if result.right else Verdict.WRONG
                outcomes.append((verdict, result.result.choice.answer))
        (disagreeing if disagree(outcomes) else agreeing).append(cells)
    header = ["problem", "question", "reference", *(item.label for item in series)]
    blocks: list[Block] = []
    if disagreeing:
        text = f"{count_noun(len(disagreeing), 'problem')} on which the strategies disagree"
        blocks.append(Paragraph(f"{text}{'; each answer links to its tree' if linked else ''}."))
        blocks.append(_problem_table(header, disagreeing))
    if agreeing:
        title = (
            f"{count_noun(len(agreeing), 'problem')} on which all strategies agree, right or wrong"
        )
        blocks.append(_problem_table(header, agreeing, folded=title))
    return [Heading("Problem by problem"), *blocks] if blocks else []


def _problem_table(
    header: Sequence[str], rows: Sequence[Sequence[Cell]], folded: str = ""
) -> Table:
    return Table(
        header,
        rows,
        text_columns=len(header),
        folded=folded,
        max_markdown_rows=_MAX_MARKDOWN_ROWS,
    )


def _answer_cell(series: Series, result: GradedResult | None, *, linked: bool) -> Cell:
    """The answer of a strategy to one problem; "-" if it has none of this problem."""
    if result is None:
        return "-"
    answer = result.result.choice.answer
    mark, kind = ("✓", "good") if result.right else ("✗", "bad")
    text = "no answer" if answer is None else f"{mark} {shorten(answer, _ANSWER_CHARS)}"
    anchor = result_anchor(series.strategy, result.problem.id)
    target = f"trees-{series.run + 1}.html#{anchor}" if linked else ""
    return Link(text, target, "none" if answer is None else kind)


def published_results(runs: Sequence[Run], series: Sequence[Series]) -> list[Block]:
    """Our results and the published ones on the benchmarks of these runs."""
    blocks: list[Block] = []
    for benchmark in sorted({name for run in runs for name in benchmarks_of(run)}):
        published_entries = published_on(benchmark)
        if not published_entries:
            continue
        rows: list[list[Cell]] = []
        for item in series:
            outcomes = [r.right for r in item.graded if benchmark_of(r.problem.id) == benchmark]
            if outcomes:
                low, high = wilson(sum(outcomes), len(outcomes))
                interval = (
                    f"{100 * low:.1f}–{100 * high:.1f}, {count_noun(len(outcomes), 'problem')}"
                )
                share = f"{100 * sum(outcomes) / len(outcomes):.1f}"
                model = runs[item.run].facts.get("model") or "model not recorded"
                rows.append(["ours", item.label, model, share, interval])
        for entry in published_entries:
            unverified = "; not verified" if entry.unsure else ""
            location = f"{entry.table}: {entry.what} ({entry.source}{unverified})"
            author = f"theirs, {entry.paper}"
            rows.append([author, entry.row, entry.model, f"{entry.percent:.1f}", location])
        header = ["whose", "method", "model", "right, %", "interval, or source"]
        blocks.append(Paragraph(f"Benchmark {benchmark}:"))
        blocks.append(Table(header, rows, text_columns=3))
    if not blocks:
        return []
    note = (
        'Rows marked "theirs" are copied from the papers, which use other models, prompts and '
        "graders. They are not a baseline of this run: only our rows were measured here. It is not "
        "verified that rStar-Math's MATH column is MATH-500; other unverified rows are marked. "
        "Published results are of whole benchmarks, ours of the stated number of problems. "
        "rStar-Math's rows use a code interpreter, most others do not."
    )
    return [Heading("Published results"), Paragraph(note), *blocks]


def benchmark_of(problem: str) -> str:
    """The benchmark in a problem id such as "svamp/test/12"."""
    return problem.partition("/")[0]


def benchmarks_of(run: Run) -> set[str]:
    """The benchmarks of a run's problems, by their source or else by their ids."""
    return {p.source or benchmark_of(p.id) for p in run.problems.values()}


def configuration(runs: Sequence[Run]) -> list[Block]:
    """Options, seeds, versions and hashes: all that is needed to reproduce the runs."""
    header = ["", *(run.label for run in runs)]
    facts: list[tuple[str, list[str]]] = [
        ("file", [run.path.name for run in runs]),
        ("SHA-256 of the file", [_file_hash(run) for run in runs]),
        ("problems", [str(len(run.problems)) for run in runs]),
        ("SHA-256 of the problems", [run.problems_hash for run in runs]),
        ("model", [run.facts.get("model", "not recorded") for run in runs]),
        ("rstar-math version of the run", [run.facts.get("version", "?") for run in runs]),
        ("libraries in the sandbox", [_libraries(run) for run in runs]),
        ("rstar-math version of the report", [__version__] * len(runs)),
    ]
    keys = sorted({key for run in runs for key in run.conditions})
    different: list[list[str]] = []
    equal: list[list[str]] = []
    for key in keys:
        values = [json.dumps(run.conditions.get(key), ensure_ascii=False) for run in runs]
        (different if len(set(values)) > 1 else equal).append([key, *values])
    columns = len(header)
    blocks: list[Block] = [
        Heading("Configuration"),
        Table(header, [[name, *values] for name, values in facts], text_columns=columns),
    ]
    if different:
        blocks.append(Paragraph("Options in which the runs differ:"))
        blocks.append(Table(header, different, text_columns=columns))
    title = "All options" if not different else "Options that are the same in all runs"
    blocks.append(Table(header, equal, text_columns=columns, folded=title))
    return blocks


def shorten(text: str, max_chars: int) -> str:
    """The text on one line, truncated to `max_chars` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= max_chars else f"{flat[: max_chars - 1]}…"


def _file_hash(run: Run) -> str:
    """The SHA-256 of the run file."""
    with run.path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _libraries(run: Run) -> str:
    """The library versions that model-written code used."""
    try:
        found = json.loads(run.facts.get("libraries", "{}"))
    except ValueError:
        return "?"
    return ", ".join(f"{name} {version}" for name, version in found.items()) or "not recorded"
