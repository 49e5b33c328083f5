"""The tables of a report and the text around them."""

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
    anchor,
    percent,
    points,
    short,
    span,
)
from rstar_math.evaluation.metrics import SHOWN, each, wilson
from rstar_math.evaluation.results import GradedResult, Run, Series
from rstar_math.evaluation.statistics import (
    bootstrap,
    bootstrap_seeds,
    compare,
    detectable,
    detectable_unpaired,
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One published accuracy: theirs, on their model, with their grader."""

    benchmark: str
    paper: str
    table: str
    what: str
    row: str
    model: str
    """The column's model where the table has one; "" where the row names it."""
    percent: float
    source: str
    """How it was read."""
    unsure: bool
    """Whether it must be looked up before it is quoted."""


@cache
def published() -> tuple[Figure, ...]:
    """All figures, in the papers' order."""
    text = (files("rstar_math.evaluation") / "published.toml").read_text(encoding="utf-8")
    found: list[Figure] = []
    for table in tomllib.loads(text)["table"]:
        for row, values in table["rows"].items():
            for column, value in zip(table["columns"], values, strict=True):
                if isnan(value):
                    continue
                benchmark, _, model = column.partition(" ")
                found.append(
                    Figure(
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


def published_on(benchmark: str) -> list[Figure]:
    """The figures on one benchmark, by the name that `rstar benchmarks` gives it."""
    return [figure for figure in published() if figure.benchmark == benchmark]


__all__ = [
    "circumstances",
    "comparisons",
    "costs",
    "failures",
    "opening",
    "papers",
    "pooled",
    "problem_by_problem",
    "results",
    "results_note",
]
_TYPICAL = 0.2
"""Share of problems on which two strategies of one model disagree, where none was measured."""
_PAIRS = 28
"""Most pairs of strategies that are compared: those of eight."""


def opening(runs: Sequence[Run], series: Sequence[Series]) -> str:
    """What was measured, in a sentence or two."""
    models = sorted({model_of(run) for run in runs})
    graded = max((len(one.readings) for one in series), default=0)
    return (
        f"{len(series)} strateg{'y' if len(series) == 1 else 'ies'} of {len(runs)} "
        f"run{'' if len(runs) == 1 else 's'} on up to {graded} graded problems; "
        f"model: {', '.join(models)}. No search saw a reference answer unless its run says "
        "guided. All shares are of graded problems; an answer that the grader could not decide, "
        "and no answer, count as not right."
    )


def results(series: Sequence[Series]) -> Table:
    """A row a strategy: share right with two intervals, the ceiling, and what it cost."""
    header = ["strategy", "right", "share", "95 % Wilson", "95 % bootstrap", "any path right"]
    header += ["no answer", "tokens / problem", "prompt / problem", "tokens / solved"]
    header += ["lost samples"]
    return Table(header, [_result(one) for one in series])


def _result(one: Series) -> list[str]:
    """A strategy's row."""
    n, summary = len(one.readings), one.summary
    right = sum(r.right for r in one.readings)
    solved = each(summary.cost, summary.right)
    lost = summary.samples_lost
    return [
        one.label,
        f"{right}/{n}",
        percent(right / n if n else None),
        span(wilson(right, n) if n else None),
        span(bootstrap(one.rights)),
        percent(one.ceiling),
        str(summary.unanswered),
        f"{one.tokens:.0f}",
        f"{summary.cost.prompt_tokens / n:.0f}" if n else "-",
        "-" if solved is None else f"{solved['sampled_tokens']:.0f}",
        percent(lost),
    ]


def results_note(series: Sequence[Series]) -> str:
    """What the columns mean, and what so many problems can show."""
    n = max((len(one.readings) for one in series), default=0)
    text = (
        "Any path right: the ceiling of every way to choose (an oracle; not a result). Tokens / "
        "solved: all sampled tokens over the problems answered right. Lost samples: cut off or "
        "without a step in them. "
    )
    if not n:
        return text
    least = detectable(n, _TYPICAL)
    paired = (
        f"a difference under {100 * least:.1f} points between two strategies cannot be seen "
        "(80 % power at the 5 % level, paired, if they disagree on 20 % of the problems)"
        if least is not None
        else "no difference between two strategies that disagree on 20 % of the problems can be "
        "seen (80 % power at the 5 % level)"
    )
    return (
        f"{text}With {n} problems {paired}; against a published share of which no single results "
        f"are known, none under {100 * detectable_unpaired(n):.1f} points."
    )


def pooled(runs: Sequence[Run], series: Sequence[Series]) -> list[Block]:
    """Strategies that were run under several seeds, with intervals over problems and seeds."""
    from rstar_math.evaluation.results import seeds_pooled

    rows: list[list[str]] = []
    for group in seeds_pooled(runs, series):
        table: dict[str, list[float]] = {}
        for one in group:
            for reading in one.readings:
                table.setdefault(reading.problem.id, []).append(float(reading.right))
        values = list(table.values())
        mean = sum(sum(row) / len(row) for row in values) / len(values) if values else None
        seeds = sorted(str(runs[one.run].conditions.get("search.seed")) for one in group)
        interval = span(bootstrap_seeds(values)) if values else "-"
        rows.append([group[0].strategy, ", ".join(seeds), percent(mean), interval])
    if not rows:
        return []
    header = ["strategy", "seeds", "mean share", "95 % bootstrap over problems and seeds"]
    return [Heading("Over seeds"), Table(header, rows, words=2)]


def comparisons(series: Sequence[Series]) -> list[Block]:
    """Every pair of strategies on the problems that both have."""
    found = []
    pairs = [(a, b) for i, a in enumerate(series) for b in series[i + 1 :]]
    for a, b in pairs[:_PAIRS]:
        first = {r.problem.id: r.right for r in a.readings}
        second = {r.problem.id: r.right for r in b.readings}
        both = [key for key in first if key in second]
        if both:
            found.append((a, b, compare([first[k] for k in both], [second[k] for k in both])))
    if not found:
        return []
    adjusted = holm([c.p for _, _, c in found])
    rows = []
    for (a, b, c), p in zip(found, adjusted, strict=True):
        interval = "-" if c.interval is None else points(c.interval)
        least = "none" if c.detectable is None else f"{100 * c.detectable:.1f}"
        row = [f"{b.label} − {a.label}", str(c.problems), f"{100 * c.difference:+.1f}", interval]
        row += [f"{c.only_second} : {c.only_first}", f"{c.p:.3g}", f"{p:.3g}", least]
        rows.append(row)
    header = ["difference", "problems", "points", "95 %", "only one right", "p", "p (Holm)"]
    header.append("visible from")
    left_out = len(pairs) - _PAIRS
    more = f" {left_out} further pairs are left out." if left_out > 0 else ""
    return [
        Heading("Paired comparisons"),
        Table(header, rows),
        Paragraph(
            "On the problems that both have. 95 %: paired bootstrap. p: McNemar's exact test; "
            "Holm: corrected for the number of pairs here. Visible from: the smallest difference, "
            "in points, that so many problems show with 80 % power at the seen rate of "
            f"disagreement.{more}"
        ),
    ]


def costs(series: Sequence[Series]) -> list[Block]:
    """What a problem cost, and a solved one."""
    rows = []
    for one in series:
        for what, among in (("problem", one.summary.problems), ("solved", one.summary.right)):
            shares = each(one.summary.cost, among)
            figures = ["-"] * len(SHOWN) if shares is None else [short(shares[k]) for k in SHOWN]
            rows.append([one.label, what, *figures])
    header = ["strategy", "for each", *(name.replace("_", " ") for name in SHOWN)]
    return [
        Heading("Cost"),
        Table(header, rows, words=2),
        Paragraph(
            "Seconds are from start to end of a problem's search while others ran beside it; "
            "scorer tokens are read and sampled. The sums, and all other parts of a cost, are in "
            "rstar eval --json."
        ),
    ]


def failures(series: Sequence[Series]) -> list[Block]:
    """Paths without an answer, by reason."""
    reasons = sorted({reason for one in series for reason in one.summary.failures})
    header = ["strategy", "paths right", "paths wrong", *reasons, "samples cut off", "malformed"]
    rows = []
    for one in series:
        cost = one.summary.cost
        paths = [a.right for r in one.readings for a in r.attempts if a.group is not None]
        shown = [str(sum(paths)), str(len(paths) - sum(paths))] if paths else ["-", "-"]
        counts = [str(one.summary.failures.get(reason, 0)) for reason in reasons]
        rows.append([one.label, *shown, *counts, str(cost.truncated), str(cost.malformed)])
    return [
        Heading("Failures by reason"),
        Table(header, rows),
        Paragraph(
            "Paths that ended without an answer, and samples that were never part of a path. "
            "Paths right and wrong are counted by attempt, where attempts are recorded."
        ),
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """P values corrected for their number, in [0, 1] (Holm 1979)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    found, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        found[i] = highest
    return found


def model_of(run: Run) -> str:
    """The model's name as its server gave it, else as the configuration names it."""
    return run.facts.get("model") or str(run.conditions.get("model.name") or "not recorded")


_QUESTION_CHARS = 90
_ANSWER_CHARS = 24
_MOST_IN_MARKDOWN = 60


def problem_by_problem(series: Sequence[Series], *, linked: bool) -> list[Block]:
    """Each problem with every strategy's answer and, if `linked`, the way to its tree; those on
    which the strategies disagree first."""
    by_series = [{r.problem.id: r for r in one.readings} for one in series]
    problems = {r.problem.id: r.problem for held in by_series for r in held.values()}
    apart: list[list[Cell]] = []
    alike: list[list[Cell]] = []
    for key, problem in problems.items():
        cells: list[Cell] = [key, cut(problem.question.text, _QUESTION_CHARS)]
        cells.append(cut(problem.reference or "", _ANSWER_CHARS))
        seen = set()
        for one, held in zip(series, by_series, strict=True):
            reading = held.get(key)
            cells.append(_answer(one, reading, linked=linked))
            if reading is not None:
                seen.add(reading.right)
        (apart if len(seen) > 1 else alike).append(cells)
    header = ["problem", "question", "reference", *(one.label for one in series)]
    blocks: list[Block] = [Heading("Problem by problem")]
    words = len(header)
    if apart:
        text = f"{len(apart)} problems on which the strategies disagree"
        blocks.append(Paragraph(f"{text}{'; each answer leads to its tree' if linked else ''}."))
        blocks.append(Table(header, apart, words=words, most=_MOST_IN_MARKDOWN))
    if alike:
        title = f"{len(alike)} problems on which all agree, right or wrong"
        blocks.append(Table(header, alike, words=words, folded=title, most=_MOST_IN_MARKDOWN))
    return blocks if len(blocks) > 1 else []


def _answer(one: Series, reading: GradedResult | None, *, linked: bool) -> Cell:
    """A strategy's answer to a problem."""
    if reading is None:
        return "-"
    answer = reading.result.choice.answer
    mark, kind = ("✓", "good") if reading.right else ("✗", "bad")
    text = "no answer" if answer is None else f"{mark} {cut(answer, _ANSWER_CHARS)}"
    place = anchor(one.strategy, reading.problem.id)
    target = f"trees-{one.run + 1}.html#{place}" if linked else ""
    return Link(text, target, "none" if answer is None else kind)


def papers(runs: Sequence[Run], series: Sequence[Series]) -> list[Block]:
    """The papers' figures on the benchmarks of these runs, with ours among them."""
    blocks: list[Block] = []
    for benchmark in sorted({name for run in runs for name in benchmarks_of(run)}):
        theirs = published_on(benchmark)
        if not theirs:
            continue
        rows: list[list[Cell]] = []
        for one in series:
            here = [r.right for r in one.readings if benchmark_of(r.problem.id) == benchmark]
            if here:
                low, high = wilson(sum(here), len(here))
                interval = f"{100 * low:.1f}–{100 * high:.1f}, {len(here)} problems"
                share = f"{100 * sum(here) / len(here):.1f}"
                model = runs[one.run].facts.get("model") or "model not recorded"
                rows.append(["ours", one.label, model, share, interval])
        for figure in theirs:
            unsure = "; not verified" if figure.unsure else ""
            where = f"{figure.table}: {figure.what} ({figure.source}{unsure})"
            theirs_of = f"theirs, {figure.paper}"
            rows.append([theirs_of, figure.row, figure.model, f"{figure.percent:.1f}", where])
        header = ["whose", "method", "model", "right, %", "interval, or where it stands"]
        blocks.append(Paragraph(f"Benchmark {benchmark}:"))
        blocks.append(Table(header, rows, words=3))
    if not blocks:
        return []
    note = (
        "Theirs are copied from the papers, on their models, prompts and graders, and are no "
        "baseline of this run: only ours were measured here. That rStar-Math's MATH column is "
        "MATH-500, and rows marked so, are not verified. Theirs are of whole sets; ours of the "
        "problems counted. rStar-Math's rows use a code interpreter, most others do not."
    )
    return [Heading("Beside the papers"), Paragraph(note), *blocks]


def benchmark_of(problem: str) -> str:
    """The benchmark that an id names, as in "svamp/test/12"."""
    return problem.partition("/")[0]


def benchmarks_of(run: Run) -> set[str]:
    """The benchmarks that a run's problems are of: by their source, else by their ids."""
    return {p.source or benchmark_of(p.id) for p in run.problems.values()}


def circumstances(runs: Sequence[Run]) -> list[Block]:
    """Configuration, seeds, versions and hashes: what it takes to do it again."""
    header = ["", *(run.label for run in runs)]
    facts: list[tuple[str, list[str]]] = [
        ("file", [run.path.name for run in runs]),
        ("SHA-256 of the file", [_hash(run) for run in runs]),
        ("problems", [str(len(run.problems)) for run in runs]),
        ("SHA-256 of the problems", [run.problems_hash for run in runs]),
        ("model", [run.facts.get("model", "not recorded") for run in runs]),
        ("made with rstar-math", [run.facts.get("version", "?") for run in runs]),
        ("libraries of the sandbox", [_libraries(run) for run in runs]),
        ("report by rstar-math", [__version__] * len(runs)),
    ]
    keys = sorted({key for run in runs for key in run.conditions})
    differ: list[list[str]] = []
    equal: list[list[str]] = []
    for key in keys:
        values = [json.dumps(run.conditions.get(key), ensure_ascii=False) for run in runs]
        (differ if len(set(values)) > 1 else equal).append([key, *values])
    blocks: list[Block] = [
        Heading("Circumstances"),
        Table(header, [[name, *values] for name, values in facts], words=len(header)),
    ]
    if differ:
        blocks.append(Paragraph("Options in which the runs differ:"))
        blocks.append(Table(header, differ, words=len(header)))
    title = "All options" if not differ else "Options that are the same in all runs"
    blocks.append(Table(header, equal, words=len(header), folded=title))
    return blocks


def cut(text: str, most: int) -> str:
    """A text on one line, at most `most` characters of it."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def _hash(run: Run) -> str:
    """The run file's checksum. A file that is being written has another one each time."""
    with run.path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _libraries(run: Run) -> str:
    """Versions that model-written code ran with."""
    try:
        found = json.loads(run.facts.get("libraries", "{}"))
    except ValueError:
        return "?"
    return ", ".join(f"{name} {version}" for name, version in found.items()) or "not recorded"
