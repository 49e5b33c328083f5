"""Runs the rounds of an evolution (rStar-Math, arXiv:2501.04519, section 3.4).

A round searches problems, curates training data, trains a policy and a preference model, promotes
each if it is better, and measures the result. Every stage has a manifest and resumes its own work,
so an evolution can be killed at any moment.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import read_json_object
from rstar_math.config.sections import TRAINED, Config
from rstar_math.evolution import problem_sets, stages, synthesis
from rstar_math.evolution.context import EvolutionContext, count_by_level
from rstar_math.evolution.gates import policy_gate, ppm_gate
from rstar_math.evolution.manifest import (
    ROUND,
    ManifestStore,
    StageResult,
    digest,
    model_identity,
)
from rstar_math.evolution.progress import (
    NullListener,
    ProgressListener,
    RunBudget,
    TrackedListener,
)
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.report import round_figures
from rstar_math.evolution.stages import Models, ModelVersion, config_for, teacher_config
from rstar_math.files import write_json
from rstar_math.llm.vllm_servers import keep_servers
from rstar_math.problems.jsonl import sample
from rstar_math.search.strategies import Strategy, parse_strategies
from rstar_math.seeding import derive
from rstar_math.tracking import (
    TrackedRun,
    Trackers,
    new_run_name,
    open_trackers,
    require_trackers,
    track_trainings,
)
from rstar_math.training.trainer import require_training
from rstar_math.types import Problem

TRACKER_FILE = "tracker.json"
"""File of an evolution's folder with the name of its run in the trackers."""


async def evolve(
    recipe: Recipe,
    folder: Path,
    *,
    listener: ProgressListener | None = None,
    budget: RunBudget | None = None,
    cluster: str | None = None,
    trackers: Sequence[str] = (),
    tracker_run: str | None = None,
) -> Models:
    """Run all rounds of a recipe, or resume them, in `folder`; the models after the last round.

    `cluster` names a Ray cluster whose workers search; the folder must then have the same path on
    all nodes. `trackers` record the rounds, their searches and their trainings as `tracker_run`, by
    default the run that earlier calls recorded as. Raises `BudgetSpent` if the budget is spent,
    `MissingDependencyError` before any work if a package is missing, and any other `RstarError`.
    After an error or a cancellation the same call resumes.
    """
    if not recipe.launcher and any(section.policy or section.ppm for section in recipe.rounds):
        require_training()
    require_trackers(trackers)
    options = recipe.model_dump(mode="json")
    with ManifestStore.open(folder, options) as manifests:
        run = _tracked_run(manifests, trackers, tracker_run)
        with open_trackers(run, options) as opened, track_trainings(run):
            listener = TrackedListener(listener or NullListener(), opened)
            context = EvolutionContext(
                recipe, manifests, listener, budget or RunBudget(), cluster=cluster
            )
            async with keep_servers():
                return await _run_rounds(context, opened)


async def _run_rounds(context: EvolutionContext, trackers: Trackers) -> Models:
    """Run all rounds; the models after the last one. Each round's figures go to the trackers."""
    recipe, manifests = context.recipe, context.manifests
    base = await _prepare(context)
    models, reference_policy = base, None
    for number in range(1, len(recipe.rounds) + 1):
        models, policy = await _run_round(context, number, models, reference_policy)
        reference_policy = reference_policy or policy
        if manifests.result(f"{number}/{ROUND}") is None:
            trackers.log(round_figures(manifests, number), number)
        await manifests.run_stage(f"{number}/{ROUND}", {}, models.manifest)
    if recipe.evaluate_base:  # no decision depends on it, so it comes last
        before = round_figures(manifests, 0)
        await _measure(context, base, system=False)
        if (figures := round_figures(manifests, 0)) != before:
            trackers.log(figures, 0)
    return models


def _tracked_run(
    manifests: ManifestStore, trackers: Sequence[str], name: str | None
) -> TrackedRun | None:
    """The run of the trackers; None without trackers. Its name is stored in the folder, so that a
    resumed evolution continues its run."""
    if not trackers:
        return None
    file = manifests.path(TRACKER_FILE)
    if name is None and file.is_file():
        name = str(read_json_object(file).get("run"))
    run = TrackedRun(tuple(trackers), name or new_run_name(manifests.folder.resolve().name))
    write_json(file, {"run": run.name})
    return run


async def _prepare(context: EvolutionContext) -> Models:
    """Prepare problems and base model, and measure the base on the held-out problems."""
    recipe, manifests = context.recipe, context.manifests
    inputs = {
        **context.recipe_options("problems"),
        "sets": context.recipe_options("evaluation"),
        "bootstrap": recipe.rounds[0].data,
    }
    await context.run_blocking_stage(
        "0/problems",
        "prepare problems",
        inputs,
        lambda: problem_sets.prepare_problems(manifests, recipe),
    )
    if recipe.synthesis.requests:
        await synthesis.run_synthesis_stage(context)
    if recipe.base_model == stages.TINY:
        inputs = {
            **context.recipe_options("base_model"),
            "problems": manifests.result("0/problems"),
        }
        await context.run_blocking_stage(
            "0/base", "create the base", inputs, lambda: stages.create_base(manifests, recipe)
        )
    base = ModelVersion(
        round=0,
        folder=stages.base_checkpoint(manifests, recipe),
        address=stages.base_address(manifests, recipe),
        digest=stages.base_digest(recipe),
    )
    if recipe.evaluate_base:
        await context.held_out_results(0, base)
    return Models(base)


async def _run_round(
    context: EvolutionContext, number: int, models: Models, reference_policy: ModelVersion | None
) -> tuple[Models, ModelVersion | None]:
    """Run one round; the models after it, and the policy that it trained, if any.

    `reference_policy` is the first policy that an earlier round trained; see `ppm_gate`.
    """
    section = context.recipe.rounds[number - 1]
    runs = await _search_round(context, number, models) if section.data == "search" else {}
    data = await _curate(context, number, runs)
    new_policy = None
    if section.policy:
        new_policy = await _train_policy(context, number, models.policy, data)
        models = await policy_gate(context, number, models, new_policy)
    if section.ppm and section.data == "search":
        new_ppm = await _train_ppm(context, number, models.policy, data)
        if new_ppm is None:
            context.listener.say(
                f"round {number}: there are no pairs, so no preference model is trained"
            )
        else:
            fixed = reference_policy or new_policy
            models = await ppm_gate(context, number, models, new_ppm, fixed)
    is_last = number == len(context.recipe.rounds)
    system = is_last or context.recipe.evaluation.system_after == "every"
    await _measure(context, models, system=system)
    return models, new_policy


async def _search_round(context: EvolutionContext, number: int, models: Models) -> dict[Path, str]:
    """Search the round's problems, then retry unsolved ones; the runs with their digests."""
    section = context.recipe.rounds[number - 1]
    seed = derive(context.recipe.search.seed, "round", number)
    problems = sample(
        problem_sets.training_pool(context.manifests, number, section), section.problems, seed
    )
    trees = section.trees_per_problem if section.trees_per_problem > 1 else None
    strategy = Strategy(section.strategy, section.rollouts, trees)
    result = await _search(context, f"{number}/search", problems, strategy, models)
    path = _search_file(context, f"{number}/search")
    digests = {path: str(result["digest"])}
    for retry, rollouts in enumerate(section.retry_rollouts, 1):
        solved = stages.solved_problems(path)
        problems = [problem for problem in problems if not solved[problem.id]]
        if not problems:
            break
        stage = f"{number}/more-{retry}"
        strategy = Strategy(section.strategy, rollouts)
        result = await _search(context, stage, problems, strategy, models, after=result["digest"])
        path = _search_file(context, stage)
        digests[path] = str(result["digest"])
    return digests


def _search_file(context: EvolutionContext, stage: str) -> Path:
    """The run file of a search stage."""
    number, name = stage.split("/")
    return context.manifests.path(f"round-{number}", f"{name}.rstar")


async def _search(
    context: EvolutionContext,
    stage: str,
    problems: Sequence[Problem],
    strategy: Strategy,
    models: Models,
    *,
    after: str | None = None,
) -> StageResult:
    """Search problems for training data, guided by the reference answers.

    `after` is the digest of the search that left these problems unsolved.
    """
    path = _search_file(context, stage)
    config, digests = _search_config(context.recipe, stage, models)
    inputs = {
        "made_by": digests,
        "strategy": strategy.name,
        "search": config.search.model_dump(mode="json", exclude={"ppm"}),
        "problems": digest([problem.id for problem in problems]),
        "after": after,
    }

    async def work() -> StageResult:
        on_done = context.progress_callback(
            stage, f"search with {strategy.name}", path, problems, strategy
        )
        await stages.search_problems(
            path,
            problems,
            [strategy],
            config,
            digests=digests,
            guided=True,
            on_done=on_done,
            cluster=context.cluster,
        )
        solved = stages.solved_problems(path)
        return {
            "problems": len(problems),
            "solved": sum(solved.values()),
            "by_level": count_by_level(problems, solved),
            "by_success": stages.count_by_difficulty(path),
            **stages.run_summary(path),
        }

    return await context.run_stage(stage, inputs, work)


def _search_config(recipe: Recipe, stage: str, models: Models) -> tuple[Config, dict[str, str]]:
    """The solver's configuration for a search stage, and what identifies its models."""
    section = recipe.rounds[int(stage.split("/")[0]) - 1]
    options: dict[str, Any] = {
        "candidates": section.candidates,
        "rollouts": section.rollouts,
        "seed": derive(recipe.search.seed, stage),
    }
    if section.model is not None:
        identity = model_identity(section.model.name, section.model.url)
        config = teacher_config(recipe, section.model, **options)
        return config, {"model.name": identity, "search.ppm": "none"}
    config = config_for(recipe, models, use_ppm=section.scorer, **options)
    return config, models.digests(use_ppm=section.scorer)


async def _curate(context: EvolutionContext, number: int, runs: Mapping[Path, str]) -> StageResult:
    """Write the round's training data from its runs, given with their digests."""
    earlier = [context.manifests.result(f"{n}/curate") or {} for n in range(1, number)]
    inputs = {
        **context.recipe_options("curation", "train_on"),
        "runs": list(runs.values()),
        "before": [result.get("file") for result in earlier],
    }

    async def work() -> StageResult:
        context.listener.begin(f"{number}/curate", "curate training data", None, 0)
        return await stages.write_training_data(
            context.manifests, context.recipe, number, list(runs)
        )

    return await context.run_stage(f"{number}/curate", inputs, work)


async def _train_policy(
    context: EvolutionContext, number: int, current: ModelVersion, data: StageResult
) -> ModelVersion:
    """Train the round's policy from the base model, or from the current policy."""
    manifests, recipe = context.manifests, context.recipe
    from_current = recipe.init_from == "current" and current.round > 0
    base = current.folder if from_current else stages.base_checkpoint(manifests, recipe)

    def work() -> StageResult:
        return stages.train_round_policy(manifests, recipe, number, base, context.listener.say)

    inputs = {**context.recipe_options("sft", "base_model"), "data": data["file"]}
    if from_current:
        inputs["from"] = current.digest
    elif recipe.base_model == TRAINED:  # its weights differ between versions of the package
        inputs["from"] = stages.base_digest(recipe)
    result = await context.run_blocking_stage(f"{number}/policy", "train the policy", inputs, work)
    folder = manifests.path(f"round-{number}", "policy")
    address = stages.deploy_policy(recipe, folder)
    return ModelVersion(number, str(folder), address, result["weights"])


async def _train_ppm(
    context: EvolutionContext, number: int, policy: ModelVersion, data: StageResult
) -> ModelVersion | None:
    """Train the round's preference model from the current policy; None if there are no pairs."""
    manifests, recipe = context.manifests, context.recipe

    def work() -> StageResult:
        report = stages.train_round_ppm(manifests, recipe, number, policy, context.listener.say)
        return report or {"weights": None}

    inputs = {
        **context.recipe_options("preference", "probe", "ppm_probe"),
        "policy": policy.digest,
        "pairs": data["pairs_file"],
    }
    result = await context.run_blocking_stage(
        f"{number}/ppm", "train the preference model", inputs, work
    )
    if result["weights"] is None:
        return None
    return ModelVersion(
        number, str(manifests.path(f"round-{number}", "ppm")), "", result["weights"]
    )


async def _measure(context: EvolutionContext, models: Models, *, system: bool) -> None:
    """Measure the current models on the benchmarks: the policy alone, and with `system` also policy
    and preference model together.

    A stage belongs to the round that trained its models, so models that did not change since an
    earlier round are not measured again.
    """
    section = context.recipe.evaluation
    policy_round = models.policy.round
    newest_round = max(policy_round, models.ppm.round if models.ppm else 0)
    for at, benchmark in enumerate(section.benchmarks, 1):
        problems = problem_sets.read_problem_file(
            context.manifests, problem_sets.benchmark_file(at)
        )
        measurements = [("policy", policy_round, section.policy)]
        if system and benchmark.system:
            measurements.append(("system", newest_round, section.system))
        for name, number, strategies in measurements:
            if not strategies:
                continue
            use_ppm = name == "system"
            parsed = parse_strategies(",".join(strategies))
            if use_ppm and section.token_budget is not None:
                parsed = [strategy.within_budget() for strategy in parsed]
            await context.evaluate(
                f"{number}/{name}-{at}",
                context.manifests.path(f"round-{number}", f"{name}-{at}.rstar"),
                problems,
                parsed,
                models if use_ppm else Models(models.policy),
                use_ppm=use_ppm,
            )
