"""The tables of a report and the sentences around them."""

from collections.abc import Sequence

from rstar_math.evaluation.intervals import bootstrap, bootstrap_seeds
from rstar_math.evaluation.markup import Block, Heading, Paragraph, Table
from rstar_math.evaluation.metrics import wilson
from rstar_math.evaluation.paired import compare, detectable, detectable_unpaired
from rstar_math.evaluation.series import Run, Series
from rstar_math.evaluation.sides import circumstances, papers, problem_by_problem
from rstar_math.evaluation.spending import SHOWN, each
from rstar_math.evaluation.wording import percent, points, short, span

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
    from rstar_math.evaluation.series import seeds_pooled

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
