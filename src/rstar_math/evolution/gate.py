"""Whether a new model takes the place of the old one: only if it is better on held-out problems.

Policies are compared by their greedy answers. Preference models choose among the same sampled
solutions of each problem, by votes weighted with their values; where there is none so far, the
plain majority of the samples is what a new one has to beat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rstar_math.config import GradingConfig
from rstar_math.evaluation.paired import compare
from rstar_math.evolution.journal import Facts
from rstar_math.evolution.store import RunStore
from rstar_math.grading import Grader
from rstar_math.protocols import Scorer
from rstar_math.search.answers import RULES, ballots
from rstar_math.types import Problem, Verdict

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
    """What choosing among the same samples comes to, by problem, for one scorer."""

    majority: dict[str, bool]
    weighted: dict[str, bool]
    best: dict[str, bool]
    ceiling: dict[str, bool]
    """Whether any sample is right."""

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
    """Choose an answer from the samples of each problem of a run, with a scorer's values."""
    found = Reranked({}, {}, {}, {})
    with RunStore.read(path) as store:
        async with Grader(grading) as grader:
            for problem in problems:
                assert problem.reference is not None
                tree = store.tree(problem.id, strategy)
                ends = tree.answers()
                if scorer is not None and ends:
                    prefixes = [tree.prefix(end) for end in ends]
                    values = await scorer.score(problem.question, prefixes)
                    for end, value in zip(ends, values, strict=True):
                        tree.nodes[end].score = value
                cast = ballots(tree)
                verifier = grader.verifier(problem.reference)
                for rule, kept in (
                    ("majority", found.majority),
                    ("weighted", found.weighted),
                    ("best", found.best),
                ):
                    choice = await RULES[rule](cast, grader.group)
                    answer = choice.answer
                    verdict = None if answer is None else await verifier.judge(answer)
                    kept[problem.id] = verdict is Verdict.RIGHT
                verdicts = [await verifier.judge(ballot.answer) for ballot in cast]
                found.ceiling[problem.id] = Verdict.RIGHT in verdicts
    return found
