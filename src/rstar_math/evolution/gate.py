"""Whether a new model takes the place of the old one: only if it is better on held-out problems.

Policies are compared by their greedy answers. Preference models choose among the same sampled
solutions of each problem, by votes weighted with their values; where there is none so far, the
plain majority of the samples is what a new one has to beat.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rstar_math.config import GradingConfig
from rstar_math.evaluation.choosing import choose
from rstar_math.evaluation.paired import compare
from rstar_math.evolution.journal import Facts
from rstar_math.evolution.store import RunStore
from rstar_math.kit import grader
from rstar_math.protocols import Scorer, Verifier
from rstar_math.search import Tree
from rstar_math.types import Problem, Question, Step, Verdict

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the new one is used, and why."""

    promoted: bool
    sure: float
    """How sure it is that the new one is better, in [0, 1]."""
    comparison: Facts


def decide(old: Mapping[str, bool], new: Mapping[str, bool], sure: float) -> Decision:
    """The decision from results by problem, the same problems on both sides. What is no better in
    the mean is never promoted."""
    first = [old[name] for name in new]
    second = [new[name] for name in new]
    found = compare(first, second)
    chance = chance_better([float(b) - float(a) for a, b in zip(first, second, strict=True)])
    better = found.difference > 0 and chance > sure
    return Decision(better, round(chance, 4), {**asdict(found), "difference": found.difference})


def chance_better(gaps: Sequence[float], *, seed: int = 0) -> float:
    """The share of paired bootstrap samples, in [0, 1], whose mean gap is above 0; those at 0 count
    half."""
    values = np.asarray(gaps, dtype=float)
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(values, len(values)).mean() for _ in range(RESAMPLES)])
    return float((means > 0).mean() + (means == 0).mean() / 2)


def results_of(path: Path, strategy: str) -> dict[str, bool]:
    """For each graded problem of a run whether a strategy's answer is right."""
    with RunStore.read(path) as store:
        found = store.results(strategy)
        return {r.problem: r.verdict is Verdict.RIGHT for r in found if r.verdict is not None}


@dataclass(frozen=True, slots=True)
class Reranked:
    """What choosing among the same samples comes to for one scorer: which problems are right by the
    majority, by votes weighted with values, by the highest value, and by any sample."""

    majority: dict[str, bool]
    weighted: dict[str, bool]
    best: dict[str, bool]
    ceiling: dict[str, bool]

    def shares(self) -> dict[str, float]:
        """The share right by each rule, in [0, 1]."""
        return {
            name: sum(found.values()) / max(len(found), 1) for name, found in asdict(self).items()
        }


async def rerank(
    path: Path,
    strategy: str,
    problems: Sequence[Problem],
    scorer: Scorer | None,
    grading: GradingConfig,
) -> Reranked:
    """Choose an answer from the samples of each problem of a run, with a scorer's values; without a
    scorer all samples have the same."""
    with RunStore.read(path) as store:
        async with grader(grading) as judges:

            async def judged() -> AsyncIterator[tuple[Tree, Verifier]]:
                for problem in problems:
                    tree = store.tree(problem.id, strategy)
                    yield tree, judges.verifier(problem.reference or "")

            found = await choose(judged(), scorer or _Even(), judges.group)
    columns = (found.voted, found.by_value["weighted vote"], found.by_value["best of N"])
    return Reranked(
        *(
            {problem.id: right for problem, right in zip(problems, column, strict=True)}
            for column in (*columns, found.reachable)
        )
    )


class _Even:
    """A scorer that prefers nothing."""

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`."""
        return [0.0] * len(prefixes)
