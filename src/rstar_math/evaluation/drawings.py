"""Which plots a report has, from its series; a plot without data is left out."""

from collections.abc import Sequence

from rstar_math.evaluation import plots
from rstar_math.evaluation.curves import anytime, calibration, calibration_error
from rstar_math.evaluation.intervals import bootstrap
from rstar_math.evaluation.markup import Figure
from rstar_math.evaluation.series import Series


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
        plots.accuracy_against_cost(curves, ends),
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
        plots.grouped_bars(levels, bars, "level", "right, %"),
        "Share solved by the difficulty that the set states.",
    )


def _spared(series: Sequence[Series]) -> Figure | None:
    """Tokens spared by early stopping."""
    rows = [
        (one.label, one.tokens, one.summary.cost.spared_tokens / max(one.summary.problems, 1))
        for one in series
    ]
    if not any(spared for _, _, spared in rows):
        return None
    return Figure(
        plots.stacked_tokens(rows),
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
        plots.reliability(curves, what),
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
        plots.score_histogram(right, wrong),
        "The scorer's values of steps most of whose answers are right, and of the others.",
    )
