"""Plots as inline SVG in the colours of the page, light or dark. Requires matplotlib."""

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
    BudgetPoint,
    CalibrationBin,
    accuracy_by_budget,
    bootstrap,
    calibration,
    calibration_error,
)
from rstar_math.text import sanitize


def figures(series: Sequence[Series]) -> dict[str, Figure]:
    """The plots by name: cost, levels, saved, q, score, scores. Plots without data are left out."""
    graded = [item for item in series if item.graded]
    plots = {
        "cost": _cost(graded),
        "levels": _levels(graded),
        "saved": _saved_tokens(series),
        "q": _calibration(graded, by_score=False),
        "score": _calibration(graded, by_score=True),
        "scores": _scores(graded),
    }
    return {name: figure for name, figure in plots.items() if figure is not None}


def _cost(series: Sequence[Series]) -> Figure | None:
    """Accuracy against cost."""
    if not series:
        return None
    curves = [(item.label, accuracy_by_budget(item.graded)) for item in series]
    finals = [
        (item.tokens, sum(item.outcomes) / len(item.outcomes), bootstrap(item.outcomes))
        for item in series
    ]
    return Figure(
        accuracy_against_cost(curves, finals),
        "Accuracy against cost. Solid lines: accuracy if every search had stopped after this many "
        "sampled tokens, from the order of nodes in the recorded trees. Dots: final accuracy at "
        "the mean cost, with the 95 % bootstrap interval. Dashed lines: share of problems with any "
        "right path. This is the upper bound of every answer rule; no strategy reaches it without "
        "the reference answer. The tokens of a tree are divided among its steps by their length. A "
        "strategy whose answer rule uses Q has only a dot.",
    )


def _levels(series: Sequence[Series]) -> Figure | None:
    """Accuracy by level."""
    levels = sorted({r.problem.level for item in series for r in item.graded if r.problem.level})
    if len(levels) < 2:
        return None
    bars: list[tuple[str, list[float | None]]] = []
    for item in series:
        shares: list[float | None] = []
        for level in levels:
            outcomes = [r.right for r in item.graded if r.problem.level == level]
            shares.append(100 * sum(outcomes) / len(outcomes) if outcomes else None)
        bars.append((item.label, shares))
    return Figure(
        grouped_bars(levels, bars, "level", "right, %"),
        "Accuracy by the difficulty level that the benchmark states.",
    )


def _saved_tokens(series: Sequence[Series]) -> Figure | None:
    """Tokens saved by early stopping."""
    rows = [
        (item.label, item.tokens, item.summary.cost.saved_tokens / max(item.summary.problems, 1))
        for item in series
    ]
    if not any(saved for _, _, saved in rows):
        return None
    return Figure(
        stacked_tokens(rows),
        "Sampled tokens per problem, and the estimated number of tokens saved by early stopping.",
    )


def _calibration(series: Sequence[Series], *, by_score: bool) -> Figure | None:
    """The values of steps against the share of right answers below them."""
    value_name = "score" if by_score else "Q"
    curves = []
    errors = []
    for index, item in enumerate(series):
        steps = [step for result in item.graded for step in result.steps]
        bins = calibration(steps, by_score=by_score)
        if bins:
            curves.append((index, item.label, bins))
            errors.append(f"{item.label} {calibration_error(bins):.3f}")
    if not curves:
        return None
    return Figure(
        reliability(curves, value_name),
        f"{value_name.capitalize()} of the steps that lead to answers, against the share of right "
        "answers below them. A value v in [-1, 1] predicts the probability (v + 1) / 2; rStar's "
        "values in [0, 1] are probabilities. Larger dots hold more steps. Expected calibration "
        f"error: {', '.join(errors)}. A search visits low-valued steps less often, so the curve "
        "describes the values in the visited part of the tree.",
    )


def _scores(series: Sequence[Series]) -> Figure | None:
    """Scores of steps that mostly lead to right answers, and of the other steps."""
    steps = [s for item in series for r in item.graded for s in r.steps if s.score is not None]
    right = [s.score for s in steps if s.right > 0.5 and s.score is not None]
    wrong = [s.score for s in steps if s.right <= 0.5 and s.score is not None]
    if not right or not wrong:
        return None
    return Figure(
        score_histogram(right, wrong),
        "Scores of steps that lead to right answers in more than half of the cases, and of all "
        "other steps.",
    )


_INK, _DIM, _LINE, _PAPER = "#010203", "#010204", "#010205", "#010206"
_SERIES = [f"#0102{n:02x}" for n in range(16, 24)]
_MARKERS = "os^Dv"
"""Marker shapes: the next one is used when the colours repeat."""
_VARIABLES = {
    _INK: "var(--ink)",
    _DIM: "var(--dim)",
    _LINE: "var(--line)",
    _PAPER: "var(--paper)",
    **{colour: f"var(--s{n})" for n, colour in enumerate(_SERIES)},
}
"""Placeholder colours for matplotlib, and the CSS variables that replace them."""
STYLE = """
:root { --s0: #0969da; --s1: #bc4c00; --s2: #1a7f37; --s3: #8250df; --s4: #bf3989; --s5: #0a7a83;
  --s6: #9a6700; --s7: #57606a; }
@media (prefers-color-scheme: dark) { :root { --s0: #58a6ff; --s1: #f0883e; --s2: #3fb950;
  --s3: #bc8cff; --s4: #f778ba; --s5: #39c5cf; --s6: #d29922; --s7: #9198a1; } }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: var(--dim); font-size: .85rem; max-width: 46rem; }
"""
Curve = tuple[str, Sequence[BudgetPoint]]
Interval = tuple[float, float] | None


def accuracy_against_cost(
    curves: Sequence[Curve], finals: Sequence[tuple[float, float, Interval]]
) -> str:
    """A plot of accuracy by budget, with the upper bound dashed in the same colour.

    `finals` holds the mean tokens, the accuracy and its interval of each strategy.
    """

    def draw(axes: Any) -> None:
        for index, (label, points) in enumerate(curves):
            colour = _SERIES[index % len(_SERIES)]
            budgets = [point.tokens for point in points]
            if len(points) > 1:
                axes.step(
                    budgets, [100 * p.accuracy for p in points], where="post", color=colour, lw=1.8
                )
                axes.step(
                    budgets,
                    [100 * p.oracle for p in points],
                    where="post",
                    color=colour,
                    lw=1,
                    ls=(0, (4, 3)),
                )
            tokens, accuracy, interval = finals[index]
            low, high = interval or (accuracy, accuracy)
            axes.errorbar(
                [tokens],
                [100 * accuracy],
                yerr=[[max(0, 100 * (accuracy - low))], [max(0, 100 * (high - accuracy))]],
                color=colour,
                marker=_MARKERS[index // len(_SERIES) % len(_MARKERS)],
                ms=6,
                capsize=3,
                label=label,
            )
        axes.plot([], [], color=_DIM, lw=1, ls=(0, (4, 3)), label="any path right (upper bound)")
        budgets = [point.tokens for _, points in curves for point in points]
        _set_log_x(axes, budgets + [tokens for tokens, _, _ in finals])
        _label_axes(axes, "sampled tokens per problem", "right, %")
        axes.set_ylim(0, max(10.0, axes.get_ylim()[1]))
        _legend(axes)

    return svg("cost", "Accuracy against cost", draw)


def reliability(curves: Sequence[tuple[int, str, Sequence[CalibrationBin]]], value: str) -> str:
    """A reliability diagram: the share of right answers by predicted value.

    `curves` holds the index, the label and the bins of each series. The index determines the
    colour, so a series has the same colour in all plots.
    """

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=_LINE, lw=1, zorder=0)
        for index, label, bins in curves:
            largest = max(b.steps for b in bins)
            axes.plot(
                [100 * b.value for b in bins],
                [100 * b.right for b in bins],
                color=_SERIES[index % len(_SERIES)],
                lw=1.2,
                label=label,
            )
            axes.scatter(
                [100 * b.value for b in bins],
                [100 * b.right for b in bins],
                s=[10 + 70 * b.steps / largest for b in bins],
                color=_SERIES[index % len(_SERIES)],
            )
        axes.set_xlim(-3, 103)
        axes.set_ylim(-3, 103)
        _label_axes(axes, f"{value} as a probability, %", "right answers below, %")
        _legend(axes)

    return svg(f"calibration-{value}", f"Calibration of {value}", draw)


def grouped_bars(
    groups: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], x: str, y: str
) -> str:
    """A bar chart with one bar per series in each group; None leaves a gap."""

    def draw(axes: Any) -> None:
        width = 0.8 / max(len(series), 1)
        for index, (label, values) in enumerate(series):
            shift = (index - (len(series) - 1) / 2) * width
            positions = [i + shift for i, value in enumerate(values) if value is not None]
            heights = [value for value in values if value is not None]
            colour = _SERIES[index % len(_SERIES)]
            axes.bar(positions, heights, width * 0.92, color=colour, label=label)
        axes.set_xticks(range(len(groups)), [sanitize(group) for group in groups])
        _label_axes(axes, x, y)
        _legend(axes)

    return svg(f"bars-{x}", y, draw)


def stacked_tokens(rows: Sequence[tuple[str, float, float]]) -> str:
    """A bar chart with one bar per strategy: the sampled tokens, followed by the saved ones."""

    def draw(axes: Any) -> None:
        names = [sanitize(label) for label, _, _ in rows]
        sampled = [tokens for _, tokens, _ in rows]
        saved = [tokens for _, _, tokens in rows]
        axes.barh(names, sampled, 0.6, color=_SERIES[0], label="sampled")
        axes.barh(
            names,
            saved,
            0.6,
            left=sampled,
            color=_PAPER,
            edgecolor=_SERIES[0],
            hatch="///",
            label="saved",
        )
        axes.invert_yaxis()
        _label_axes(axes, "tokens per problem", "")
        _legend(axes)

    return svg("saved", "Tokens saved by early stopping", draw)


def score_histogram(right: Sequence[float], wrong: Sequence[float]) -> str:
    """A histogram of scores in [-1, 1]: steps that lead to right answers, and other steps."""

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
        _label_axes(axes, "score", "steps, %")
        _legend(axes)

    return svg("scores", "Scores of right and wrong steps", draw)


def svg(name: str, title: str, draw: Callable[[Any], None]) -> str:
    """The SVG element of a plot that `draw` puts on an axes. Equal input gives equal text.

    Raises `MissingDependencyError` without matplotlib.
    """
    try:
        mpl: Any = import_module("matplotlib")
        figures: Any = import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError(
            "Plots need matplotlib; run: pip install 'rstar-math[report]', or pass --no-plots."
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
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inline(text.getvalue(), name, title)


_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _inline(text: str, name: str, title: str) -> str:
    """The element of an SVG file, with ids that are unique on the page and the page's colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = text.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    head, _, rest = text.partition(">")
    return f'{head} role="img" aria-label="{escape(title)}">{rest}'.strip()


def _set_log_x(axes: Any, values: Sequence[float]) -> None:
    """Make the x axis logarithmic, with ticks at 1, 2 and 5 times powers of ten."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    low, high = min(positive) / 1.3, max(positive) * 1.3
    ticks = [m * 10**p for p in range(13) for m in (1, 2, 5) if low <= m * 10**p <= high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _label_axes(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _legend(axes: Any) -> None:
    """Add a legend beside the plot, unless nothing has a label."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles,
            [sanitize(label) for label in labels],
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            fontsize=9,
        )
