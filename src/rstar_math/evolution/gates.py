"""The gates of a round: whether a new model replaces the current one."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rstar_math.config.sections import GradingConfig
from rstar_math.evaluation.reranking import rerank_samples
from rstar_math.evaluation.statistics import compare
from rstar_math.evolution import problem_sets
from rstar_math.evolution.context import EvolutionContext
from rstar_math.evolution.manifest import StageResult, digest
from rstar_math.evolution.stages import Models, ModelVersion
from rstar_math.protocols import Scorer, Verifier
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.search.tree import Tree
from rstar_math.types import Problem, Question, Step
from rstar_math.verification.judges import Judges

RESAMPLES = 10_000
"""Bootstrap samples of `bootstrap_probability`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the new model is promoted, and why."""

    promoted: bool
    probability: float
    """Probability that the new model is better, in [0, 1]."""
    comparison: dict[str, Any]
    """`evaluation.statistics.compare` of both models' results, with their difference."""

    def as_json(self, old_round: int | None) -> StageResult:
        """The decision as JSON. `old_round` trained the current model; None if there is none."""
        return {
            "promoted": self.promoted,
            "probability": self.probability,
            "old": old_round,
            **self.comparison,
        }


def decide(old: Mapping[str, bool], new: Mapping[str, bool], min_probability: float) -> Decision:
    """The decision from each model's right and wrong answers, by problem id.

    The new model is promoted if its mean is higher and `bootstrap_probability` is above
    `min_probability`. Both mappings must have the same keys.
    """
    old_right = [old[name] for name in new]
    new_right = [new[name] for name in new]
    comparison = compare(old_right, new_right)
    gaps = [float(b) - float(a) for a, b in zip(old_right, new_right, strict=True)]
    probability = bootstrap_probability(gaps)
    promoted = comparison.difference > 0 and probability > min_probability
    return Decision(
        promoted,
        round(probability, 4),
        {**asdict(comparison), "difference": comparison.difference},
    )


def bootstrap_probability(gaps: Sequence[float], *, seed: int = 0) -> float:
    """The share of paired bootstrap samples with a mean gap above 0, in [0, 1].

    Samples with a mean gap of exactly 0 count half.
    """
    values = np.asarray(gaps, dtype=float)
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(values, len(values)).mean() for _ in range(RESAMPLES)])
    return float((means > 0).mean() + (means == 0).mean() / 2)


@dataclass(frozen=True, slots=True)
class RerankedResults:
    """Whether each problem's answer is right, by problem id, for four ways to choose an answer
    among the same samples."""

    majority: dict[str, bool]
    """Majority vote."""
    weighted: dict[str, bool]
    """Vote weighted with the scorer's values."""
    best: dict[str, bool]
    """The sample with the highest value."""
    oracle: dict[str, bool]
    """Right if any sample is right."""

    def shares(self) -> dict[str, float]:
        """The share of right answers of each way, in [0, 1]."""
        return {
            name: sum(right.values()) / max(len(right), 1) for name, right in asdict(self).items()
        }


async def rerank(
    path: Path,
    strategy: str,
    problems: Sequence[Problem],
    scorer: Scorer | None,
    grading: GradingConfig,
) -> RerankedResults:
    """Choose answers among the samples of a run with a scorer's values.

    Without a scorer all samples have the same value.
    """
    with RunStore.read(path) as store:
        async with Judges(grading) as judges:

            async def trees() -> AsyncIterator[tuple[Tree, Verifier]]:
                for problem in problems:
                    tree = store.tree(problem.id, strategy)
                    yield tree, judges.verifier(problem)

            reranked = await rerank_samples(trees(), scorer or _ConstantScorer(), judges.grouper)
    columns = (
        reranked.voted,
        reranked.by_value["weighted vote"],
        reranked.by_value["best of N"],
        reranked.reachable,
    )
    return RerankedResults(
        *(
            {problem.id: right for problem, right in zip(problems, column, strict=True)}
            for column in columns
        )
    )


class _ConstantScorer:
    """A scorer that gives every path the value 0."""

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`."""
        return [0.0] * len(prefixes)


async def policy_gate(
    context: EvolutionContext, number: int, models: Models, new: ModelVersion
) -> Models:
    """The models after round `number`'s policy gate.

    Compares greedy answers on the held-out problems. The first policy is promoted unconditionally
    if the base model is not measured.
    """
    new_results = await context.held_out_results(number, new)
    old = models.policy
    if old.round == 0 and not context.recipe.evaluate_base:
        return models.with_policy(new)
    old_results = await context.held_out_results(old.round, old)

    async def work() -> StageResult:
        min_probability = context.recipe.gate.min_probability
        return decide(old_results, new_results, min_probability).as_json(old.round)

    inputs = {
        **context.recipe_options("gate"),
        "old": digest(old_results),
        "new": digest(new_results),
    }
    decision = await context.run_stage(f"{number}/policy-gate", inputs, work)
    context.listener.say(gate_message("policy", number, decision))
    return models.with_policy(new) if decision["promoted"] else models


async def ppm_gate(
    context: EvolutionContext,
    number: int,
    models: Models,
    new: ModelVersion,
    reference_policy: ModelVersion | None,
) -> Models:
    """The models after round `number`'s gate of the preference model.

    Compares votes among the current policy's samples of held-out problems. The votes are weighted
    with the values of the new and of the current model; without a current model the old side is
    the plain majority. `reference_policy` is the first trained policy. Its samples are reranked in
    every round, so that the preference models of all rounds can be compared.
    """
    strategy = Strategy("sc", context.recipe.gate.samples)
    policies = {
        policy.round: policy for policy in (models.policy, reference_policy) if policy is not None
    }
    digests = {}
    for policy_round, policy in policies.items():
        path = context.manifests.path(f"round-{policy_round}", "samples.rstar")
        result = await context.sample_held_out(f"{policy_round}/samples", path, policy, [strategy])
        digests[policy_round] = result["digest"]
    old = models.ppm
    inputs = {
        **context.recipe_options("gate"),
        "samples": digests[models.policy.round],
        "fixed": reference_policy and digests[reference_policy.round],
        "old": old and old.digest,
        "new": new.digest,
    }

    async def work() -> StageResult:
        context.listener.begin(f"{number}/ppm-gate", "compare preference models", None, 0)
        new_results = await _rerank_held_out(context, models.policy, new, strategy)
        old_results = await _rerank_held_out(context, models.policy, old, strategy)
        baseline = old_results.majority if old is None else old_results.weighted
        decision = decide(baseline, new_results.weighted, context.recipe.gate.min_probability)
        old_round = None if old is None else old.round
        result = {**decision.as_json(old_round), "shares": new_results.shares()}
        if reference_policy is not None:
            reference = await _rerank_held_out(context, reference_policy, new, strategy)
            result["fixed_policy"] = reference.shares()
        return result

    decision = await context.run_stage(f"{number}/ppm-gate", inputs, work)
    context.listener.say(gate_message("preference model", number, decision))
    return models.with_ppm(new) if decision["promoted"] else models


async def _rerank_held_out(
    context: EvolutionContext, policy: ModelVersion, ppm: ModelVersion | None, strategy: Strategy
) -> RerankedResults:
    """Rerank a policy's samples of the held-out problems with a preference model, if any."""
    path = context.manifests.path(f"round-{policy.round}", "samples.rstar")
    problems = problem_sets.read_problem_file(context.manifests, problem_sets.HELD_OUT)
    if ppm is None:
        return await rerank(path, strategy.name, problems, None, context.recipe.grading)
    from rstar_math.ppm.scorer import LocalPPM

    deterministic = context.recipe.engine == "transformers"
    scorer = await asyncio.to_thread(LocalPPM.load, ppm.folder, deterministic=deterministic)
    try:
        return await rerank(path, strategy.name, problems, scorer, context.recipe.grading)
    finally:
        await scorer.aclose()


def gate_message(model: str, number: int, decision: StageResult) -> str:
    """A gate's decision as one sentence."""
    points, low, high = (100 * x for x in (decision["difference"], *decision["interval"]))
    state = "is promoted" if decision["promoted"] else "is rejected, the current one stays"
    return (
        f"round {number}: the new {model} {state} ({100 * decision['first']:.1f} % before, "
        f"{100 * decision['second']:.1f} % with it; {points:+.1f} points, 95 % interval "
        f"{low:+.1f} to {high:+.1f}, {decision['problems']} held-out problems)"
    )
