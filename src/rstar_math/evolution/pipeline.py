"""Self-evolution in rounds (rStar-Math, arXiv:2501.04519, section 3.4): search, curate, train a
policy and a preference model, put each to use if it is better, measure, and begin again.

Every stage has a manifest in the journal and does what is left of it when it is called again, so an
evolution can be killed at any moment.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rstar_math.config.sections import TRAINED
from rstar_math.evolution import problem_sets, stages, synthesis
from rstar_math.evolution.context import EvolutionContext, by_level
from rstar_math.evolution.gates import policy_gate, ppm_gate
from rstar_math.evolution.manifest import ROUND, Facts, ManifestStore, digest, identity
from rstar_math.evolution.progress import NullListener, ProgressListener, RunBudget
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.stages import Models, ModelVersion, config_for, teacher_config
from rstar_math.llm.vllm_servers import keep_servers
from rstar_math.problems.jsonl import sample
from rstar_math.search.strategies import Strategy, parse_strategies
from rstar_math.seeding import derive
from rstar_math.training.trainer import require_training
from rstar_math.types import Problem


async def evolve(
    recipe: Recipe,
    run: Path,
    *,
    watch: ProgressListener | None = None,
    budget: RunBudget | None = None,
    cluster: str | None = None,
) -> Models:
    """Do all rounds of a recipe, or what is left of them, in the folder `run`; the models in use at
    the end. The workers of a `cluster` search, where one is named; the folder must then be at the
    same path on all its nodes.

    Raises `BudgetSpent` where the budget ends it, `MissingDependencyError` at once where training's
    packages are not installed, and any `RstarError`; the same call goes on.
    """
    if not recipe.launcher and any(one.policy or one.ppm for one in recipe.rounds):
        require_training()
    with ManifestStore.open(run, recipe.model_dump(mode="json")) as journal:
        context = EvolutionContext(
            recipe, journal, watch or NullListener(), budget or RunBudget(), cluster=cluster
        )
        async with keep_servers():
            base = await _begin(context)
            pair, fixed = base, None
            for number in range(1, len(recipe.rounds) + 1):
                pair, made = await _round(context, number, pair, fixed)
                fixed = fixed or made
                await context.journal.run_stage(f"{number}/{ROUND}", {}, pair.manifest)
            if recipe.evaluate_base:  # decides nothing, so nobody waits for it
                await _measure(context, base, system=False)
        return pair


async def _begin(context: EvolutionContext) -> Models:
    """Gather the problems, and try the base on those held out."""
    recipe, journal = context.recipe, context.journal
    bootstrap = {"bootstrap": recipe.rounds[0].data}
    inputs = {**context.part("problems"), "sets": context.part("evaluation"), **bootstrap}
    await context.run_blocking_stage(
        "0/problems",
        "gather problems",
        inputs,
        lambda: problem_sets.prepare_problems(journal, recipe),
    )
    if recipe.synthesis.requests:
        await synthesis.draft(context)
    if recipe.base_model == stages.TINY:
        inputs = {**context.part("base_model"), "problems": journal.facts("0/problems")}
        await context.run_blocking_stage(
            "0/base", "make the base", inputs, lambda: stages.make_base(journal, recipe)
        )
    base = stages.base_of(journal, recipe)
    address = stages.base_address(journal, recipe)
    pair = Models(ModelVersion(0, base, address, stages.base_digest(recipe)))
    if recipe.evaluate_base:
        await context.held_out(0, pair.policy)
    return pair


async def _round(
    context: EvolutionContext, number: int, pair: Models, fixed: ModelVersion | None
) -> tuple[Models, ModelVersion | None]:
    """One round; the models in use after it, and the policy it trained."""
    recipe = context.recipe.rounds[number - 1]
    runs = await _searches(context, number, pair) if recipe.data == "search" else {}
    data = await _curate(context, number, runs)
    made = None
    if recipe.policy:
        made = await _policy(context, number, pair.policy, data)
        pair = await policy_gate(context, number, pair, made)
    if recipe.ppm and recipe.data == "search":
        new = await _ppm(context, number, pair.policy, data)
        if new is None:
            context.watch.say(f"round {number}: no pairs, so no preference model is trained")
        else:
            pair = await ppm_gate(context, number, pair, new, fixed or made)
    last = number == len(context.recipe.rounds)
    await _measure(context, pair, system=last or context.recipe.evaluation.system_after == "every")
    return pair, made


async def _searches(context: EvolutionContext, number: int, pair: Models) -> dict[Path, str]:
    """Search the round's problems, then those unsolved with more rollouts; the runs with their
    digests."""
    recipe = context.recipe.rounds[number - 1]
    problems = problem_sets.training_pool(context.journal, number, recipe)
    seed = derive(context.recipe.search.seed, "round", number)
    problems = sample(problems, recipe.problems, seed)
    runs = recipe.trees_per_problem if recipe.trees_per_problem > 1 else None
    strategy = Strategy(recipe.strategy, recipe.rollouts, runs)
    path, left = context.journal.path(f"round-{number}", "search.rstar"), problems
    facts = await _guided(context, f"{number}/search", (problems, strategy), pair)
    found = {path: str(facts["digest"])}
    for turn, rollouts in enumerate(recipe.retry_rollouts, 1):
        solved = stages.solved_in(path)
        left = [problem for problem in left if not solved[problem.id]]
        if not left:
            break
        asked = (left, Strategy(recipe.strategy, rollouts))
        facts = await _guided(context, f"{number}/more-{turn}", asked, pair, facts)
        path = context.journal.path(f"round-{number}", f"more-{turn}.rstar")
        found[path] = str(facts["digest"])
    return found


async def _guided(
    context: EvolutionContext,
    stage: str,
    asked: tuple[Sequence[Problem], Strategy],
    pair: Models,
    after: Facts | None = None,
) -> Facts:
    """Search problems with the reference answers at hand, for training data."""
    problems, strategy = asked
    number, what = stage.split("/")
    path = context.journal.path(f"round-{number}", f"{what}.rstar")
    recipe = context.recipe.rounds[int(number) - 1]
    options = {
        "candidates": recipe.candidates,
        "rollouts": recipe.rollouts,
        "seed": derive(context.recipe.search.seed, stage),
    }
    if recipe.model is not None:
        config = teacher_config(context.recipe, recipe.model, **options)
        made_by = {
            "model.name": identity(recipe.model.name, recipe.model.url),
            "search.ppm": "none",
        }
    else:
        config = config_for(context.recipe, pair, scored=recipe.scorer, **options)
        made_by = pair.hashes(scored=recipe.scorer)
    inputs = {
        "made_by": made_by,
        "strategy": strategy.name,
        "search": config.search.model_dump(mode="json", exclude={"ppm"}),
        "problems": digest([problem.id for problem in problems]),
        "after": after and after["digest"],
    }

    async def work() -> Facts:
        done = context.progress_callback(
            stage, f"search with {strategy.name}", path, problems, strategy
        )
        await stages.search(
            path,
            problems,
            [strategy],
            config,
            made_by=made_by,
            guided=True,
            on_done=done,
            cluster=context.cluster,
        )
        solved = stages.solved_in(path)
        counts = {"problems": len(problems), "solved": sum(solved.values())}
        return {
            **counts,
            "by_level": by_level(problems, solved),
            "by_success": stages.by_success(path),
            **stages.run_account(path),
        }

    return await context.stage(stage, inputs, work)


async def _curate(context: EvolutionContext, number: int, runs: Mapping[Path, str]) -> Facts:
    """The round's training data."""
    before = [context.journal.facts(f"{n}/curate") or {} for n in range(1, number)]
    inputs = {
        **context.part("curation", "train_on"),
        "runs": list(runs.values()),
        "before": [facts.get("file") for facts in before],
    }

    async def work() -> Facts:
        context.watch.begin(f"{number}/curate", "choose training data", None, 0)
        return await stages.choose_data(context.journal, context.recipe, number, list(runs))

    return await context.stage(f"{number}/curate", inputs, work)


async def _policy(
    context: EvolutionContext, number: int, policy: ModelVersion, data: Facts
) -> ModelVersion:
    """The round's policy, trained from the base or from the policy in use."""
    journal, recipe = context.journal, context.recipe
    onward = recipe.init_from == "current" and policy.round > 0
    base = policy.folder if onward else stages.base_of(journal, recipe)

    def work() -> Facts:
        return stages.train_round_policy(journal, recipe, number, base, context.watch.say)

    inputs = {**context.part("sft", "base_model"), "data": data["file"]}
    if onward:
        inputs["from"] = policy.digest
    elif recipe.base_model == TRAINED:  # a newer package brings another
        inputs["from"] = stages.base_digest(recipe)
    facts = await context.run_blocking_stage(f"{number}/policy", "train the policy", inputs, work)
    folder = journal.path(f"round-{number}", "policy")
    return ModelVersion(number, str(folder), stages.deploy_policy(recipe, folder), facts["weights"])


async def _ppm(
    context: EvolutionContext, number: int, policy: ModelVersion, data: Facts
) -> ModelVersion | None:
    """The round's preference model, trained from the policy in use; None where there are no
    pairs."""
    journal, recipe = context.journal, context.recipe

    def work() -> Facts:
        made = stages.train_round_ppm(journal, recipe, number, policy, context.watch.say)
        return made or {"weights": None}

    parts = context.part("preference", "probe", "ppm_probe")
    inputs = {**parts, "policy": policy.digest, "pairs": data["pairs_file"]}
    facts = await context.run_blocking_stage(
        f"{number}/ppm", "train the preference model", inputs, work
    )
    if facts["weights"] is None:
        return None
    return ModelVersion(number, str(journal.path(f"round-{number}", "ppm")), "", facts["weights"])


async def _measure(context: EvolutionContext, pair: Models, *, system: bool) -> None:
    """Measure the models in use on the recipe's sets; what has not changed since an earlier round
    is not measured again."""
    section = context.recipe.evaluation
    for at, chosen in enumerate(section.benchmarks, 1):
        problems = problem_sets.problems_in(context.journal, problem_sets.evaluation_file(at))
        parts = [("policy", pair.policy.round, section.policy)]
        if system and chosen.system:
            latest = max(pair.policy.round, pair.ppm.round if pair.ppm else 0)
            parts.append(("system", latest, section.system))
        for name, number, strategies in parts:
            if strategies:
                path = context.journal.path(f"round-{number}", f"{name}-{at}.rstar")
                asked = (problems, parse_strategies(",".join(strategies)))
                scored = name == "system"
                shown = pair if scored else Models(pair.policy)
                await context.evaluate(f"{number}/{name}-{at}", path, asked, shown, scored=scored)
