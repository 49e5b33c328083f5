"""Detection of the first wrong step: ProcessBench (Zheng et al. 2024, arXiv:2412.06559).

A file has one JSON object per line: `problem`, `steps` (texts) and `label` (index from 0 of the
first wrong step, -1 if all steps are right). A scorer predicts the first step whose value is below
a threshold. The metric is ProcessBench's F1: the harmonic mean of two accuracies, on solutions with
a wrong step and on solutions without one. As in the paper's evaluation of reward models, the
threshold is chosen on other solutions. Here each half of a file uses the threshold of the other
half.

The steps are prose, but our PPM is trained on code. Each step is therefore shown as comment lines,
and the result is a lower bound of the PPM's ability.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.config.loading import explain
from rstar_math.errors import InputError
from rstar_math.files import iter_lines
from rstar_math.types import Step


class Solution(BaseModel):
    """One line of a ProcessBench file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    problem: str
    steps: tuple[str, ...] = Field(min_length=1)
    label: int = Field(ge=-1)


@dataclass(frozen=True, slots=True)
class Detection:
    """The number of solutions that a scorer classifies correctly at a threshold."""

    wrong: int
    """Solutions with a wrong step."""
    located: int
    """Solutions whose first wrong step is predicted."""
    right: int
    """Solutions without a wrong step."""
    cleared: int
    """Right solutions for which no step is predicted."""

    @property
    def f1(self) -> float:
        """ProcessBench's F1, in [0, 1]; 0 if there are no wrong or no right solutions."""
        wrong_accuracy = self.located / self.wrong if self.wrong else 0.0
        right_accuracy = self.cleared / self.right if self.right else 0.0
        total = wrong_accuracy + right_accuracy
        return 2 * wrong_accuracy * right_accuracy / total if total else 0.0


def read_solutions(path: Path, limit: int | None = None) -> list[Solution]:
    """The solutions of a file, plain or gzipped, at most `limit`. Raises `InputError`."""
    solutions: list[Solution] = []
    try:
        for _, line in iter_lines(path):
            if limit is not None and len(solutions) >= limit:
                break
            solutions.append(Solution.model_validate(json.loads(line)))
    except (ValidationError, ValueError, RecursionError) as error:
        reason = explain(error).message if isinstance(error, ValidationError) else error
        raise InputError(
            f"{path}, line {len(solutions) + 1} is not a ProcessBench solution ({reason}); it "
            "needs id, problem, steps and label."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        cause = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({cause}); choose another file.") from error
    if not solutions:
        raise InputError(f"{path} has no solutions; choose another file.")
    return solutions


def as_steps(texts: Sequence[str]) -> list[Step]:
    """Prose steps as steps of the code grammar that consist of comments."""
    steps = []
    for text in texts:
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["..."]
        steps.append(Step(prose="".join(f"# {line}\n" for line in lines)))
    return steps


def detect(solutions: Sequence[tuple[int, Sequence[float]]], threshold: float) -> Detection:
    """The detection counts at a threshold. A solution is (label, values of its steps)."""
    located = cleared = wrong = 0
    for label, values in solutions:
        predicted = next((i for i, value in enumerate(values) if value < threshold), -1)
        wrong += label >= 0
        located += label >= 0 and predicted == label
        cleared += label < 0 and predicted < 0
    return Detection(wrong, located, len(solutions) - wrong, cleared)


def best_threshold(solutions: Sequence[tuple[int, Sequence[float]]]) -> float:
    """The threshold with the highest F1; the lowest one of several.

    Candidates lie between neighbouring values of the steps, at most about 400 of them.
    """
    seen = sorted({value for _, values in solutions for value in values})
    stride = max(1, len(seen) // 400)
    candidates = [
        -2.0,
        *((a + b) / 2 for a, b in zip(seen[::stride], seen[stride::stride], strict=False)),
        2.0,
    ]
    return max(candidates, key=lambda threshold: detect(solutions, threshold).f1)


def half_of(solution: Solution) -> int:
    """The half, 0 or 1, of a file that a solution belongs to, by a hash of its id."""
    digest = blake2b(solution.id.encode("utf-8", "replace"), digest_size=1).digest()
    return digest[0] & 1


def predictions(
    solutions: Sequence[Solution],
    values: Sequence[Sequence[float]],
    thresholds: Sequence[float],
) -> list[bool]:
    """Whether the first wrong step, or that there is none, is predicted for each solution.

    `thresholds` are those of `cross_validate`.
    """
    found = []
    for solution, row in zip(solutions, values, strict=True):
        threshold = thresholds[half_of(solution)]
        predicted = next((i for i, value in enumerate(row) if value < threshold), -1)
        found.append(predicted == max(solution.label, -1))
    return found


def cross_validate(
    solutions: Sequence[Solution], values: Sequence[Sequence[float]]
) -> tuple[Detection, list[float]]:
    """The detection counts with two-fold cross-validation, and the two thresholds.

    Each half is evaluated at the best threshold of the other half. A hash of its id assigns a
    solution to a half.
    """
    halves: list[list[tuple[int, Sequence[float]]]] = [[], []]
    for solution, row in zip(solutions, values, strict=True):
        halves[half_of(solution)].append((solution.label, row))
    thresholds = [best_threshold(halves[1]), best_threshold(halves[0])]
    detections = [detect(half, t) for half, t in zip(halves, thresholds, strict=True)]
    total = Detection(
        wrong=sum(d.wrong for d in detections),
        located=sum(d.located for d in detections),
        right=sum(d.right for d in detections),
        cleared=sum(d.cleared for d in detections),
    )
    return total, thresholds
