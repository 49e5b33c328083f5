"""Plots as inline SVG that follow the page's colours, light and dark. Needs matplotlib."""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from importlib import import_module
from typing import Any

from rstar_math.errors import MissingDependencyError
from rstar_math.evaluation.document import Figure
from rstar_math.evaluation.results import Series
from rstar_math.evaluation.statistics import (
    Bin,
    Point,
    anytime,
    bootstrap,
    calibration,
    calibration_error,
)
from rstar_math.text import sanitize


def figures(series: Sequence[Series]) -> dict[str, Figure]:
    """The plots by name: cost, levels, spared, q, score, scores."""
    graded = [one for one in series if one.readings]
    found = {
        "cost": _cost(graded),
        "levels": _levels(graded),
        "spared": _spared(series),
        "q": _calibration(graded, by_score=False),
        "score": _calibration(graded, by_score=True),
        "scores": _scores(graded),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def _cost(series: Sequence[Series]) -> Figure | None:
    """Accuracy against cost."""
    if not series:
        return None
    curves = [(one.label, anytime(one.readings)) for one in series]
    ends = [
        (one.tokens, sum(one.rights) / len(one.rights), bootstrap(one.rights)) for one in series
    ]
    return Figure(
        accuracy_against_cost(curves, ends),
        "Accuracy against cost. Solid lines: the share right had every problem been stopped after "
        "so many sampled tokens, as the recorded order of the tree tells it; dots: what each "
        "strategy came to at its mean cost, with the 95 % bootstrap interval. Dashed: the share of "
        "problems for which any path found was right, a ceiling that no way of choosing can pass "
        "and that no strategy has reached without the reference answer. Tokens within a tree are "
        "shared out by the length of its steps; a strategy whose choice goes by Q has only its "
        "dot.",
    )


def _levels(series: Sequence[Series]) -> Figure | None:
    """Share solved by difficulty."""
    levels = sorted({r.problem.level for one in series for r in one.readings if r.problem.level})
    if len(levels) < 2:
        return None
    bars: list[tuple[str, list[float | None]]] = []
    for one in series:
        shares: list[float | None] = []
        for level in levels:
            here = [r.right for r in one.readings if r.problem.level == level]
            shares.append(100 * sum(here) / len(here) if here else None)
        bars.append((one.label, shares))
    return Figure(
        grouped_bars(levels, bars, "level", "right, %"),
        "Share solved by the difficulty that the set states.",
    )


def _spared(series: Sequence[Series]) -> Figure | None:
    """Tokens spared by early stopping."""
    rows = [
        (one.label, one.tokens, one.summary.cost.saved_tokens / max(one.summary.problems, 1))
        for one in series
    ]
    if not any(spared for _, _, spared in rows):
        return None
    return Figure(
        stacked_tokens(rows),
        "Tokens a problem that were sampled, and those that stopping early is reckoned to have "
        "spared.",
    )


def _calibration(series: Sequence[Series], *, by_score: bool) -> Figure | None:
    """Values of steps against what came of them."""
    what = "score" if by_score else "Q"
    curves = []
    errors = []
    for at, one in enumerate(series):
        steps = [step for reading in one.readings for step in reading.steps]
        bins = calibration(steps, by_score=by_score)
        if bins:
            curves.append((at, one.label, bins))
            errors.append(f"{one.label} {calibration_error(bins):.3f}")
    if not curves:
        return None
    return Figure(
        reliability(curves, what),
        f"{what.capitalize()} of the steps that led to answers, against the share of right answers "
        "below them; a value in [-1, 1] stands for the chance (v + 1) / 2, one in [0, 1], as "
        "rStar's, for itself. Larger dots hold more steps. "
        f"Expected calibration error: {', '.join(errors)}. A tree keeps fewer wrong paths below "
        "steps that the search turned away from, so this judges the values where the search went.",
    )


def _scores(series: Sequence[Series]) -> Figure | None:
    """Scores of steps that lead to right answers, and of others."""
    steps = [s for one in series for r in one.readings for s in r.steps if s.score is not None]
    right = [s.score for s in steps if s.right > 0.5 and s.score is not None]
    wrong = [s.score for s in steps if s.right <= 0.5 and s.score is not None]
    if not right or not wrong:
        return None
    return Figure(
        score_histogram(right, wrong),
        "The scorer's values of steps most of whose answers are right, and of the others.",
    )


_INK, _DIM, _LINE, _PAPER = "#010203", "#010204", "#010205", "#010206"
_SERIES = [f"#0102{n:02x}" for n in range(16, 24)]
_MARKERS = "os^Dv"
"""Marks of the ends: another one each time that the colours begin again."""
_VARIABLES = {
    _INK: "var(--ink)",
    _DIM: "var(--dim)",
    _LINE: "var(--line)",
    _PAPER: "var(--paper)",
    **{colour: f"var(--s{n})" for n, colour in enumerate(_SERIES)},
}
"""Colours that stand for the page's own: matplotlib writes these, the page decides."""
STYLE = """
:root { --s0: #0969da; --s1: #bc4c00; --s2: #1a7f37; --s3: #8250df; --s4: #bf3989; --s5: #0a7a83;
  --s6: #9a6700; --s7: #57606a; }
@media (prefers-color-scheme: dark) { :root { --s0: #58a6ff; --s1: #f0883e; --s2: #3fb950;
  --s3: #bc8cff; --s4: #f778ba; --s5: #39c5cf; --s6: #d29922; --s7: #9198a1; } }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: var(--dim); font-size: .85rem; max-width: 46rem; }
"""
Curve = tuple[str, Sequence[Point]]
Interval = tuple[float, float] | None


def accuracy_against_cost(
    curves: Sequence[Curve], ends: Sequence[tuple[float, float, Interval]]
) -> str:
    """Lines of accuracy by budget with the oracle dashed in the same colour, and each strategy's
    end (mean tokens, accuracy, interval)."""

    def draw(axes: Any) -> None:
        for at, (label, points) in enumerate(curves):
            colour = _SERIES[at % len(_SERIES)]
            spent = [point.tokens for point in points]
            if len(points) > 1:
                axes.step(
                    spent, [100 * p.accuracy for p in points], where="post", color=colour, lw=1.8
                )
                axes.step(
                    spent,
                    [100 * p.oracle for p in points],
                    where="post",
                    color=colour,
                    lw=1,
                    ls=(0, (4, 3)),
                )
            tokens, share, interval = ends[at]
            low, high = interval or (share, share)
            axes.errorbar(
                [tokens],
                [100 * share],
                yerr=[[max(0, 100 * (share - low))], [max(0, 100 * (high - share))]],
                color=colour,
                marker=_MARKERS[at // len(_SERIES) % len(_MARKERS)],
                ms=6,
                capsize=3,
                label=label,
            )
        axes.plot([], [], color=_DIM, lw=1, ls=(0, (4, 3)), label="any path right (ceiling)")
        _log(axes, [p.tokens for _, points in curves for p in points] + [t for t, _, _ in ends])
        _name(axes, "sampled tokens a problem", "right, %")
        axes.set_ylim(0, max(10.0, axes.get_ylim()[1]))
        _legend(axes)

    return svg("cost", "Accuracy against cost", draw)


def reliability(curves: Sequence[tuple[int, str, Sequence[Bin]]], what: str) -> str:
    """Share of right answers below steps, by the steps' value; the diagonal is calibrated. Each
    curve with its series' number, so that it has the same colour in all plots."""

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=_LINE, lw=1, zorder=0)
        for at, label, bins in curves:
            most = max(b.steps for b in bins)
            axes.plot(
                [100 * b.value for b in bins],
                [100 * b.right for b in bins],
                color=_SERIES[at % len(_SERIES)],
                lw=1.2,
                label=label,
            )
            axes.scatter(
                [100 * b.value for b in bins],
                [100 * b.right for b in bins],
                s=[10 + 70 * b.steps / most for b in bins],
                color=_SERIES[at % len(_SERIES)],
            )
        axes.set_xlim(-3, 103)
        axes.set_ylim(-3, 103)
        _name(axes, f"{what} as a chance, %", "right answers below, %")
        _legend(axes)

    return svg(f"calibration-{what}", f"Calibration of {what}", draw)


def grouped_bars(
    groups: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], labels: str, y: str
) -> str:
    """Bars of each series side by side in each group; None leaves a gap."""

    def draw(axes: Any) -> None:
        width = 0.8 / max(len(series), 1)
        for at, (label, values) in enumerate(series):
            shift = (at - (len(series) - 1) / 2) * width
            places = [i + shift for i, value in enumerate(values) if value is not None]
            shown = [value for value in values if value is not None]
            axes.bar(places, shown, width * 0.92, color=_SERIES[at % len(_SERIES)], label=label)
        axes.set_xticks(range(len(groups)), [sanitize(group) for group in groups])
        _name(axes, labels, y)
        _legend(axes)

    return svg(f"bars-{labels}", y, draw)


def stacked_tokens(rows: Sequence[tuple[str, float, float]]) -> str:
    """A bar a strategy: tokens sampled, and on top of them those that stopping early spared."""

    def draw(axes: Any) -> None:
        names = [sanitize(label) for label, _, _ in rows]
        used = [tokens for _, tokens, _ in rows]
        spared = [tokens for _, _, tokens in rows]
        axes.barh(names, used, 0.6, color=_SERIES[0], label="sampled")
        axes.barh(
            names,
            spared,
            0.6,
            left=used,
            color=_PAPER,
            edgecolor=_SERIES[0],
            hatch="///",
            label="spared",
        )
        axes.invert_yaxis()
        _name(axes, "tokens a problem", "")
        _legend(axes)

    return svg("spared", "Tokens spared by early stopping", draw)


def score_histogram(right: Sequence[float], wrong: Sequence[float]) -> str:
    """Scores, in [-1, 1], of steps that lead to right answers and of those that do not."""

    def draw(axes: Any) -> None:
        edges = [-1 + i / 10 for i in range(21)]
        for values, colour, label in ((right, 2, "right"), (wrong, 1, "wrong")):
            weights = [100 / len(values)] * len(values)
            axes.hist(
                values,
                bins=edges,
                weights=weights,
                histtype="stepfilled",
                alpha=0.35,
                color=_SERIES[colour],
            )
            axes.hist(
                values,
                bins=edges,
                weights=weights,
                histtype="step",
                lw=1.6,
                color=_SERIES[colour],
                label=f"{label} ({len(values)})",
            )
        axes.set_xlim(-1, 1)
        _name(axes, "score", "steps, %")
        _legend(axes)

    return svg("scores", "Scores of right and of wrong steps", draw)


def svg(name: str, title: str, draw: Callable[[Any], None]) -> str:
    """What `draw` puts on an axes, as an SVG element; equal input gives equal text. Raises
    `MissingDependencyError` without matplotlib."""
    try:
        mpl: Any = import_module("matplotlib")
        figures: Any = import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError(
            "Plots need matplotlib; type: pip install 'rstar-math[report]' (or leave them out "
            "with --no-plots)."
        ) from error
    style: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,
        "text.color": _INK,
        "axes.edgecolor": _LINE,
        "axes.labelcolor": _INK,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _LINE,
        "grid.linewidth": 0.6,
        "grid.alpha": 0.6,
        "axes.axisbelow": True,
        "xtick.color": _DIM,
        "ytick.color": _DIM,
        "legend.frameon": False,
        "legend.labelcolor": _INK,
    }
    with mpl.rc_context(style):
        figure = figures.Figure(figsize=(7.2, 3.8), layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_NOTHING)
    return _inline(text.getvalue(), name, title)


_NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _inline(text: str, name: str, title: str) -> str:
    """An SVG file's element, its ids made its own and its colours the page's."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    mark = re.sub(r"[^a-z0-9]+", "-", name.lower())
    text = re.sub(r'\bid="', f'id="{mark}-', text)
    text = text.replace('href="#', f'href="#{mark}-').replace("url(#", f"url(#{mark}-")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    head, _, rest = text.partition(">")
    return f'{head} role="img" aria-label="{escape(title)}">{rest}'.strip()


def _log(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with plain figures at 1, 2 and 5 times powers of ten."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    low, high = min(positive) / 1.3, max(positive) * 1.3
    ticks = [m * 10**p for p in range(13) for m in (1, 2, 5) if low <= m * 10**p <= high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _name(axes: Any, x: str, y: str) -> None:
    """Labels of the axes."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _legend(axes: Any) -> None:
    """A legend beside the plot, so that it covers no data; none where nothing has a name."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles,
            [sanitize(label) for label in labels],
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            fontsize=9,
        )
