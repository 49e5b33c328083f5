"""Finding the first wrong step of a solution: ProcessBench (Zheng et al. 2024, arXiv:2412.06559).

A file has one JSON object a line: `problem`, `steps` (texts), `label` (index from 0 of the first
wrong step, -1 where all are right). A scorer names the first step that it values below a threshold.
The figure is their F1: the harmonic mean of how often it names the right step of a wrong solution
and how often it names none of a right one. As in their evaluation of reward models the threshold is
chosen on other solutions than it is measured on: here, on one half of a file for the other.

The steps are prose, and a PPM of ours has learned from code: each is shown to it as comment lines
of a step. A figure from here is a lower bound of what it knows.
"""

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.config.loading import explain
from rstar_math.errors import InputError
from rstar_math.types import Step


class Solution(BaseModel):
    """A line of a ProcessBench file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    problem: str
    steps: tuple[str, ...] = Field(min_length=1)
    label: int = Field(ge=-1)


@dataclass(frozen=True, slots=True)
class Detection:
    """What was found in some solutions at a threshold."""

    wrong: int
    """Solutions with a wrong step."""
    located: int
    """Those of them whose first wrong step was named."""
    right: int
    cleared: int
    """Right solutions of which no step was named."""

    @property
    def f1(self) -> float:
        """ProcessBench's F1, in [0, 1]; 0 where there are no solutions of one of the kinds."""
        found = self.located / self.wrong if self.wrong else 0.0
        left = self.cleared / self.right if self.right else 0.0
        return 2 * found * left / (found + left) if found + left else 0.0


def read_solutions(path: Path, limit: int | None = None) -> list[Solution]:
    """The solutions of a file, plain or gzipped, at most `limit`. Raises `InputError`."""
    found: list[Solution] = []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                if limit is not None and len(found) >= limit:
                    break
                found.append(Solution.model_validate(json.loads(line)))
    except (ValidationError, ValueError) as error:
        first = explain(error).message if isinstance(error, ValidationError) else error
        raise InputError(
            f"{path}, line {len(found) + 1} is not of ProcessBench ({first}); it needs id, "
            "problem, steps and label."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({why}); name another file.") from error
    if not found:
        raise InputError(f"{path} holds no solutions.")
    return found


def as_steps(texts: Sequence[str]) -> list[Step]:
    """Prose as steps of the code grammar: comments."""
    steps = []
    for text in texts:
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["..."]
        steps.append(Step(prose="".join(f"# {line}\n" for line in lines)))
    return steps


def detect(solutions: Sequence[tuple[int, Sequence[float]]], threshold: float) -> Detection:
    """What is found at a threshold in (label, value of each step)."""
    located = cleared = wrong = 0
    for label, values in solutions:
        named = next((i for i, value in enumerate(values) if value < threshold), -1)
        wrong += label >= 0
        located += label >= 0 and named == label
        cleared += label < 0 and named < 0
    return Detection(wrong, located, len(solutions) - wrong, cleared)


def best_threshold(solutions: Sequence[tuple[int, Sequence[float]]]) -> float:
    """The threshold with the highest F1 of those between two values seen; the lowest of equals."""
    seen = sorted({value for _, values in solutions for value in values})
    step = max(1, len(seen) // 400)
    points = [
        -2.0,
        *((a + b) / 2 for a, b in zip(seen[::step], seen[step::step], strict=False)),
        2.0,
    ]
    return max(points, key=lambda point: detect(solutions, point).f1)


def crossed(
    solutions: Sequence[Solution], values: Sequence[Sequence[float]]
) -> tuple[Detection, list[float]]:
    """What is found when each half of the solutions is judged at the other half's best threshold,
    and those two thresholds. Halves are made by the solutions' ids."""
    halves: list[list[tuple[int, Sequence[float]]]] = [[], []]
    for solution, row in zip(solutions, values, strict=True):
        digest = blake2b(solution.id.encode("utf-8", "replace"), digest_size=1).digest()
        halves[digest[0] & 1].append((solution.label, row))
    thresholds = [best_threshold(halves[1]), best_threshold(halves[0])]
    found = [detect(half, t) for half, t in zip(halves, thresholds, strict=True)]
    whole = Detection(
        wrong=sum(d.wrong for d in found),
        located=sum(d.located for d in found),
        right=sum(d.right for d in found),
        cleared=sum(d.cleared for d in found),
    )
    return whole, thresholds
