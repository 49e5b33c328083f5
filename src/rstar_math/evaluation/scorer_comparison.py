"""Compares scorers on labelled steps: figures with intervals, and paired comparisons.

All scorers value the same solutions. Intervals are percentiles of bootstrap samples of the
solutions, at 90 and 95 %. A comparison of two scorers resamples the same solutions for both.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from rstar_math.config.loading import explain
from rstar_math.errors import InputError
from rstar_math.evaluation.processbench import Solution, as_steps, cross_validate, predictions
from rstar_math.evaluation.reranking import RerankComparison
from rstar_math.evaluation.statistics import bootstrap, compare
from rstar_math.files import iter_lines
from rstar_math.protocols import Scorer
from rstar_math.types import Question, Step

RESAMPLES = 2000
Indices = np.ndarray[tuple[int], np.dtype[np.int64]]
Statistic = Callable[[Indices], float | None]
"""A figure of the solutions with the given indices; None if it is undefined for them."""


class LabelledSolution(BaseModel):
    """One line of a file of labelled steps; the names of TRL's data sets are accepted too."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    problem: str = Field(validation_alias=AliasChoices("problem", "prompt", "question"))
    steps: tuple[str, ...] = Field(
        min_length=1, validation_alias=AliasChoices("steps", "completions")
    )
    labels: tuple[bool, ...]
    """Whether each step is right."""


def read_labelled(path: Path, limit: int | None = None) -> list[LabelledSolution]:
    """The solutions of a file of labelled steps, plain or gzipped. Raises `InputError`."""
    found: list[LabelledSolution] = []
    try:
        for _, line in iter_lines(path):
            if limit is not None and len(found) >= limit:
                break
            solution = LabelledSolution.model_validate(json.loads(line))
            if len(solution.steps) != len(solution.labels):
                raise ValueError(f"{len(solution.steps)} steps but {len(solution.labels)} labels")
            found.append(solution)
    except (ValidationError, ValueError, RecursionError) as error:
        reason = explain(error).message if isinstance(error, ValidationError) else error
        raise InputError(
            f"{path}, line {len(found) + 1} is not a solution with labelled steps ({reason}); it "
            "needs problem, steps and labels (true or false per step)."
        ) from None
    except (OSError, EOFError) as error:
        cause = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({cause}); choose another file.") from error
    if not found:
        raise InputError(f"{path} has no solutions; choose another file.")
    return found


async def step_values(
    scorer: Scorer, solutions: Sequence[tuple[str, str, Sequence[str]]]
) -> list[list[float]]:
    """The value of each step of each solution (id, problem, step texts).

    A scorer with the attribute `reads_prose` gets the steps as they are. Any other gets them as
    comments of a program, which is what our preference model reads.
    """
    rows = []
    for name, problem, texts in solutions:
        if getattr(scorer, "reads_prose", False):
            steps = [Step(prose=text.strip() or "...", kind="thought") for text in texts]
        else:
            steps = as_steps(texts)
        prefixes = [steps[: end + 1] for end in range(len(steps))]
        rows.append(await scorer.score(Question(name, problem), prefixes))
    return rows


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its intervals."""

    value: float | None
    interval_90: tuple[float, float] | None
    interval_95: tuple[float, float] | None


def figure(statistic: Statistic, count: int, *, seed: int = 0) -> Figure:
    """The value of a statistic of `count` solutions, with bootstrap intervals.

    Samples in which it is undefined are left out. Without two solutions there are no intervals.
    """
    value = statistic(np.arange(count))
    samples = _samples(statistic, count, seed)
    if value is None or len(samples) < 2:
        return Figure(value, None, None)
    return Figure(value, _interval(samples, 0.90), _interval(samples, 0.95))


def difference(first: Statistic, second: Statistic, count: int, *, seed: int = 0) -> Figure:
    """The second statistic minus the first, on the same bootstrap samples."""

    def gap(indices: Indices) -> float | None:
        a, b = first(indices), second(indices)
        return None if a is None or b is None else b - a

    return figure(gap, count, seed=seed)


def _samples(statistic: Statistic, count: int, seed: int) -> list[float]:
    if count < 2:
        return []
    rng = np.random.default_rng(seed)
    drawn = (statistic(rng.integers(0, count, count)) for _ in range(RESAMPLES))
    return [value for value in drawn if value is not None]


def _interval(samples: Sequence[float], level: float) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def first_error_statistic(solutions: Sequence[Solution], correct: Sequence[bool]) -> Statistic:
    """ProcessBench's F1, given whether the prediction for each solution is correct."""
    wrong = np.array([solution.label >= 0 for solution in solutions])
    hits = np.array(correct, dtype=bool)

    def f1(indices: Indices) -> float | None:
        is_wrong, hit = wrong[indices], hits[indices]
        if is_wrong.all() or not is_wrong.any():
            return None
        a, b = float(hit[is_wrong].mean()), float(hit[~is_wrong].mean())
        return 2 * a * b / (a + b) if a + b else 0.0

    return f1


def ranking_statistic(
    labels: Sequence[Sequence[bool]], values: Sequence[Sequence[float]]
) -> Statistic:
    """The probability that a right step has a higher value than a wrong one (AUC, in [0, 1]).

    Steps of all solutions are compared; a tie counts half.
    """
    right = [np.array([v for v, ok in zip(*each, strict=True) if ok]) for each in
             zip(values, labels, strict=True)]  # fmt: skip
    wrong = [np.array([v for v, ok in zip(*each, strict=True) if not ok]) for each in
             zip(values, labels, strict=True)]  # fmt: skip

    def auc(indices: Indices) -> float | None:
        above = np.concatenate([right[i] for i in indices])
        below = np.sort(np.concatenate([wrong[i] for i in indices]))
        if not len(above) or not len(below):
            return None
        lower = np.searchsorted(below, above, side="left")
        upper = np.searchsorted(below, above, side="right")
        return float((lower + upper).mean() / (2 * len(below)))

    return auc


def detection_report(
    solutions: Sequence[Solution], values: Mapping[str, Sequence[Sequence[float]]]
) -> dict[str, Any]:
    """First-error detection of each scorer, and comparisons of each with the first one."""
    found: dict[str, Any] = {}
    correct: dict[str, list[bool]] = {}
    for name, rows in values.items():
        result, thresholds = cross_validate(solutions, rows)
        correct[name] = predictions(solutions, rows, thresholds)
        f1 = figure(first_error_statistic(solutions, correct[name]), len(solutions))
        found[name] = {
            "solutions": len(solutions),
            "f1": result.f1,
            "interval_90": f1.interval_90,
            "interval_95": f1.interval_95,
            "wrong": result.wrong,
            "located": result.located,
            "right": result.right,
            "cleared": result.cleared,
            "thresholds": thresholds,
        }
    first, *others = correct
    comparisons = {}
    for name in others:
        gap = difference(
            first_error_statistic(solutions, correct[first]),
            first_error_statistic(solutions, correct[name]),
            len(solutions),
        )
        paired = compare(correct[first], correct[name])
        comparisons[f"{name} - {first}"] = {
            "f1_difference": asdict(gap),
            "only_first": paired.only_first,
            "only_second": paired.only_second,
            "p": paired.p,
        }
    return {"scorers": found, "comparisons": comparisons}


def choosing_comparisons(by_scorer: Mapping[str, RerankComparison]) -> dict[str, Any]:
    """Paired comparisons of each scorer with the first one: the answers that its values choose on
    the same samples, and its ranking accuracy."""
    first, *others = by_scorer
    found: dict[str, Any] = {}
    for name in others:
        rules = {}
        for rule, right in by_scorer[name].by_value.items():
            paired = compare(by_scorer[first].by_value[rule], right)
            rules[rule] = {"difference": paired.difference, **asdict(paired)}
        gaps = [b - a for a, b in zip(by_scorer[first].ranked, by_scorer[name].ranked, strict=True)]
        if gaps:
            rules["right above wrong"] = {
                "difference": sum(gaps) / len(gaps),
                "interval_90": bootstrap(gaps, level=0.90),
                "interval_95": bootstrap(gaps, level=0.95),
            }
        found[f"{name} - {first}"] = rules
    return found


def ranking_report(
    solutions: Sequence[LabelledSolution], values: Mapping[str, Sequence[Sequence[float]]]
) -> dict[str, Any]:
    """How well each scorer ranks right steps above wrong ones, and comparisons with the first."""
    labels = [solution.labels for solution in solutions]
    statistics = {name: ranking_statistic(labels, rows) for name, rows in values.items()}
    steps = sum(map(len, labels))
    found = {}
    for name, statistic in statistics.items():
        auc = figure(statistic, len(solutions))
        agreed = sum(
            (value >= 0) == label
            for row, own in zip(values[name], labels, strict=True)
            for value, label in zip(row, own, strict=True)
        )
        found[name] = {
            "solutions": len(solutions),
            "steps": steps,
            "right_steps": sum(map(sum, labels)),
            "auc": auc.value,
            "interval_90": auc.interval_90,
            "interval_95": auc.interval_95,
            "accuracy_at_0": agreed / steps,
        }
    first, *others = statistics
    comparisons = {
        f"{name} - {first}": {
            "auc_difference": asdict(
                difference(statistics[first], statistics[name], len(solutions))
            )
        }
        for name in others
    }
    return {"scorers": found, "comparisons": comparisons}
