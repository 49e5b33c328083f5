"""The gates of a round: whether a new model replaces the old one."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rstar_math.config.sections import GradingConfig
from rstar_math.evaluation.reranking import rerank_samples
from rstar_math.evaluation.statistics import compare
from rstar_math.evolution import problem_sets
from rstar_math.evolution.context import EvolutionContext
from rstar_math.evolution.manifest import Facts, digest
from rstar_math.evolution.stages import Models, ModelVersion
from rstar_math.protocols import Scorer, Verifier
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.search.tree import Tree
from rstar_math.solver.components import grader
from rstar_math.types import Problem, Question, Step

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the new one is used, and why."""

    promoted: bool
    probability: float
    """How sure it is that the new one is better, in [0, 1]."""
    comparison: Facts


def decide(old: Mapping[str, bool], new: Mapping[str, bool], sure: float) -> Decision:
    """The decision from results by problem, the same problems on both sides. What is no better in
    the mean is never promoted."""
    first = [old[name] for name in new]
    second = [new[name] for name in new]
    found = compare(first, second)
    chance = bootstrap_probability(
        [float(b) - float(a) for a, b in zip(first, second, strict=True)]
    )
    better = found.difference > 0 and chance > sure
    return Decision(better, round(chance, 4), {**asdict(found), "difference": found.difference})


def bootstrap_probability(gaps: Sequence[float], *, seed: int = 0) -> float:
    """The share of paired bootstrap samples, in [0, 1], whose mean gap is above 0; those at 0 count
    half."""
    values = np.asarray(gaps, dtype=float)
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(values, len(values)).mean() for _ in range(RESAMPLES)])
    return float((means > 0).mean() + (means == 0).mean() / 2)


@dataclass(frozen=True, slots=True)
class Reranked:
    """What choosing among the same samples comes to for one scorer: which problems are right by the
    majority, by votes weighted with values, by the highest value, and by any sample."""

    majority: dict[str, bool]
    weighted: dict[str, bool]
    best: dict[str, bool]
    oracle: dict[str, bool]

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

            found = await rerank_samples(judged(), scorer or _ConstantScorer(), judges.group)
    columns = (found.voted, found.by_value["weighted vote"], found.by_value["best of N"])
    return Reranked(
        *(
            {problem.id: right for problem, right in zip(problems, column, strict=True)}
            for column in (*columns, found.reachable)
        )
    )


class _ConstantScorer:
    """A scorer that prefers nothing."""

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`."""
        return [0.0] * len(prefixes)


async def policy_gate(
    context: EvolutionContext, number: int, pair: Models, new: ModelVersion
) -> Models:
    """The pair with a new policy, if that is better on held-out problems."""
    results = await context.held_out(number, new)
    if pair.policy.round == 0 and not context.recipe.evaluate_base:
        return pair.with_policy(new)
    old = await context.held_out(pair.policy.round, pair.policy)

    async def work() -> Facts:
        return decision(
            decide(old, results, context.recipe.gate.min_probability), pair.policy.round
        )

    inputs = {**context.part("gate"), "old": digest(old), "new": digest(results)}
    verdict = await context.stage(f"{number}/policy-gate", inputs, work)
    context.watch.say(gate_message("policy", number, verdict))
    return pair.with_policy(new) if verdict["promoted"] else pair


async def ppm_gate(
    context: EvolutionContext,
    number: int,
    pair: Models,
    new: ModelVersion,
    fixed: ModelVersion | None,
) -> Models:
    """The pair with a new preference model, if that chooses better than the one in use, or than the
    majority, among samples of held-out problems; `fixed` is a policy whose samples all rounds'
    preference models are tried on."""
    samples = Strategy("sc", context.recipe.gate.samples)
    sources = {made.round: made for made in (pair.policy, fixed) if made is not None}
    digests = {}
    for made_in, policy in sources.items():
        path = context.journal.path(f"round-{made_in}", "samples.rstar")
        facts = await context.sample(f"{made_in}/samples", path, Models(policy), [samples])
        digests[made_in] = facts["digest"]
    old = pair.ppm
    inputs = {
        **context.part("gate"),
        "samples": digests[pair.policy.round],
        "fixed": fixed and digests[fixed.round],
        "old": old and old.digest,
        "new": new.digest,
    }

    async def work() -> Facts:
        context.watch.begin(f"{number}/ppm-gate", "weigh the preference model", None, 0)
        ours = await _reranked(context, pair.policy, new, samples)
        theirs = await _reranked(context, pair.policy, old, samples)
        before = theirs.majority if old is None else theirs.weighted
        held_against = None if old is None else old.round
        verdict = decide(before, ours.weighted, context.recipe.gate.min_probability)
        found = {**decision(verdict, held_against), "shares": ours.shares()}
        if fixed is not None:
            found["fixed_policy"] = (await _reranked(context, fixed, new, samples)).shares()
        return found

    verdict = await context.stage(f"{number}/ppm-gate", inputs, work)
    context.watch.say(gate_message("preference model", number, verdict))
    return pair.with_ppm(new) if verdict["promoted"] else pair


async def _reranked(
    context: EvolutionContext, policy: ModelVersion, ppm: ModelVersion | None, samples: Strategy
) -> Reranked:
    """What a preference model makes of a policy's samples of held-out problems."""
    path = context.journal.path(f"round-{policy.round}", "samples.rstar")
    problems = problem_sets.problems_in(context.journal, problem_sets.HELD_OUT)
    if ppm is None:
        return await rerank(path, samples.name, problems, None, context.recipe.grading)
    from rstar_math.ppm.scorer import LocalPPM

    alone = context.recipe.engine == "transformers"
    scorer = await asyncio.to_thread(LocalPPM.load, ppm.folder, alone=alone)
    try:
        return await rerank(path, samples.name, problems, scorer, context.recipe.grading)
    finally:
        await scorer.aclose()


def decision(found: Decision, old: int | None) -> Facts:
    """A decision as facts; `old` is the round whose model it was held against, None for none."""
    return {
        "promoted": found.promoted,
        "probability": found.probability,
        "old": old,
        **found.comparison,
    }


def gate_message(what: str, number: int, verdict: Facts) -> str:
    """A decision in words."""
    points, low, high = (100 * x for x in (verdict["difference"], *verdict["interval"]))
    state = "is used" if verdict["promoted"] else "is not used, the old one stays"
    return (
        f"round {number}: the new {what} {state} ({100 * verdict['first']:.1f} % before, "
        f"{100 * verdict['second']:.1f} % with it; {points:+.1f} points, 95 % from {low:+.1f} to "
        f"{high:+.1f}, {verdict['problems']} held-out problems)"
    )
