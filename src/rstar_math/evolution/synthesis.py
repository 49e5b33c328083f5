"""New problems for an evolution: a model writes drafts and solves them; resumes after interruption.

Drafts are solved with the strategy `sc`, and the chains vote by majority as in an evaluation. Each
chain has one vote, also if two chains are equal. A chain without an answer agrees with none.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rstar_math.config.sections import Config
from rstar_math.evolution import problem_sets
from rstar_math.evolution.context import EvolutionContext
from rstar_math.evolution.manifest import (
    ManifestStore,
    StageResult,
    digest,
    file_digest,
    model_identity,
)
from rstar_math.evolution.progress import NullListener, ProgressListener
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.stages import (
    finished_problems,
    reproducible_cost,
    run_summary,
    search_problems,
    teacher_config,
)
from rstar_math.llm.connect import connect
from rstar_math.problems.drafts import DraftFile, DraftResponse
from rstar_math.problems.filtering import OverlapRule
from rstar_math.problems.jsonl import write_problems
from rstar_math.problems.synthesis import (
    Agreement,
    KnownProblems,
    NewDrafts,
    Rejections,
    SynthesisConfig,
    Synthetic,
    accept_by_agreement,
    agreement,
    filter_drafts,
    read_draft,
    require_seeds,
    synthesis_prompt,
    write_drafts,
)
from rstar_math.runs.results import SPEED_ONLY_OPTIONS, PackedResult, Result
from rstar_math.runs.store import RunStore
from rstar_math.search.expansion import PATH_ERRORS
from rstar_math.search.strategies import Strategy
from rstar_math.seeding import derive
from rstar_math.types import SYNTHETIC, Cost, Problem, Question

DRAFTS, RUN = "drafts.jsonl", "synthetic.rstar"


@dataclass(frozen=True, slots=True)
class SynthesisJob:
    """How many problems to write, with which model, and which problems a draft must not repeat."""

    options: SynthesisConfig
    config: Config
    """Configuration of the solver that writes and solves drafts; see `majority_config`."""
    seeds: Sequence[Problem]
    """Problems that the model is shown as examples."""
    known: Sequence[KnownProblems]
    """Drafts that equal one of these are rejected."""
    digests: dict[str, str] = field(default_factory=dict)
    """Identifies the model in the run's conditions; see `stages.search_problems`."""
    cluster: str | None = None
    """Ray cluster that solves drafts; None for this process, which always writes them."""

    @property
    def strategy(self) -> Strategy:
        """The strategy that solves a draft."""
        return Strategy("sc", self.options.solutions)


@dataclass(frozen=True, slots=True)
class SynthesisListener:
    """Receives progress events, and the number of sampled tokens."""

    progress: ProgressListener = field(default_factory=NullListener)
    charge: Callable[[int], None] = lambda tokens: None
    """Called with sampled tokens; what it raises ends the synthesis."""
    stage: str = "synthesis"


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The outcome of a synthesis: each draft is kept, or counted under one reason."""

    kept: list[Synthetic]
    counts: dict[str, int]
    """Number of drafts requested ("asked for"), rejected by reason, and "kept". The first is the
    sum of the others."""
    examples: list[dict[str, str]]
    """Some rejected drafts: "why", "draft", "because"."""
    overlaps: dict[str, int]
    """Number of drafts that repeat a known problem, by problem set."""
    run: dict[str, Any]
    """Cost, failures by reason, and digest of the solutions; see `stages.run_summary`."""

    def as_json(self) -> dict[str, Any]:
        """Everything except the problems."""
        return {
            "counts": self.counts,
            "overlaps": self.overlaps,
            "examples": self.examples,
            **self.run,
        }

    def write(self, path: Path) -> None:
        """Write the kept problems with their provenance, atomically."""
        provenance = {
            synthetic.problem.id: {"provenance": synthetic.provenance()} for synthetic in self.kept
        }
        write_problems(path, [synthetic.problem for synthetic in self.kept], provenance)


def majority_config(config: Config) -> Config:
    """A copy of the configuration in which all chains are sampled, none is scored, and each has
    one vote."""
    search = config.search.model_copy(
        update={
            "token_budget": None,
            "confidence": None,
            "scorer": "none",
            "ppm": None,
            "answer": "majority",
        }
    )
    return config.model_copy(update={"search": search})


async def synthesize(
    job: SynthesisJob, folder: Path, listener: SynthesisListener | None = None
) -> Synthesis:
    """Write drafts, filter and solve them, and keep those on which enough solutions agree.

    Work that `folder` already holds is not repeated. The same model outputs give the same
    problems. Raises `ConfigError` if the folder was started with other options, and any
    `RstarError`. After an error or a cancellation the same call resumes.
    """
    listener = listener or SynthesisListener()
    options = job.options
    require_seeds(job.seeds, options)
    rejections = Rejections()
    run: StageResult = {"cost": {}, "failures": {}, "digest": None}
    agreements: dict[str, tuple[Agreement, bool]] = {}
    with DraftFile.open(folder / DRAFTS, _draft_conditions(job)) as file:
        await _write_missing_drafts(job, file, listener)
        responses = file.first(options.requests)
        listener.progress.begin(listener.stage, "filter drafts", None, 0)
        drafts = filter_drafts(responses, options, job.known, rejections)
        if drafts.problems:
            await _solve_drafts(job, folder / RUN, drafts, listener)
            run = run_summary(folder / RUN)
            agreements = _read_agreements(folder / RUN, job)
    kept = accept_by_agreement(drafts, agreements, options, rejections)
    costs = [run["cost"], *(response.cost for response in responses)]
    run["cost"] = reproducible_cost(Cost.total(Cost(**cost) for cost in costs))
    return Synthesis(
        kept=kept,
        counts={"asked for": options.max_drafts, **rejections.counts, "kept": len(kept)},
        examples=rejections.examples,
        overlaps=dict(Counter(match.evaluation for match in drafts.matches)),
        run=run,
    )


def _draft_conditions(job: SynthesisJob) -> dict[str, Any]:
    """Everything that drafts depend on, except the number of requests."""
    options = job.options.model_dump(exclude={"requests", "solutions", "min_agreement"})
    seeds = [[problem.id, problem.question.text] for problem in job.seeds]
    return {
        **options,
        "model": job.digests.get("model.name"),
        "seed problems": digest(seeds),
        "prompt": digest(synthesis_prompt([])),
    }


async def _write_missing_drafts(
    job: SynthesisJob, file: DraftFile, listener: SynthesisListener
) -> None:
    """Request the drafts that the file lacks."""
    options, model = job.options, job.config.model
    done = len(file.first(options.requests))
    if done == options.requests:
        return
    stage = f"{listener.stage}-drafts"
    listener.progress.begin(stage, "write new problems", options.requests, done)
    in_flight = model.in_flight * job.config.policy_server_count
    if model.embedded:  # it counts samples, not requests
        in_flight = max(1, in_flight // options.per_request)

    def on_response(response: DraftResponse) -> None:
        question = Question(f"{SYNTHETIC}/request-{response.request}", "")
        readable = any(text is not None and read_draft(text) for text in response.texts)
        tokens = int(response.cost.get("sampled_tokens", 0))
        problem = Problem(question, None, SYNTHETIC)
        listener.progress.advance(problem, solved=readable, tokens=tokens)
        listener.charge(tokens)

    connection = await connect(model, job.config.servers)
    try:
        file.require_model(connection.name)
        await write_drafts(
            connection,
            job.seeds,
            options,
            file,
            model=connection.name,
            width=in_flight,
            on_response=on_response,
        )
    finally:
        await connection.aclose()


async def _solve_drafts(
    job: SynthesisJob, run: Path, drafts: NewDrafts, listener: SynthesisListener
) -> None:
    """Solve the drafts that the run lacks."""
    options = job.options
    done = {problem.id for problem in drafts.problems} & finished_problems(run, job.strategy)
    description = f"solve them {options.solutions} times"
    listener.progress.begin(listener.stage, description, len(drafts.problems), len(done))

    def on_done(problem: Problem, packed: PackedResult) -> None:
        agreed, _ = _agreement_of(packed.result, options)
        tokens = packed.result.cost.sampled_tokens
        kept = agreed.reference(options.min_agreement) is not None
        listener.progress.advance(problem, solved=kept, tokens=tokens)
        listener.charge(tokens)

    await search_problems(
        run,
        drafts.problems,
        [job.strategy],
        job.config,
        digests=job.digests,
        on_done=on_done,
        cluster=job.cluster,
    )


def _read_agreements(run: Path, job: SynthesisJob) -> dict[str, tuple[Agreement, bool]]:
    """See `_agreement_of`, by problem id."""
    with RunStore.read(run) as store:
        results = store.results(job.strategy.name)
        return {result.problem: _agreement_of(result, job.options) for result in results}


def _agreement_of(result: Result, options: SynthesisConfig) -> tuple[Agreement, bool]:
    """What the solutions of a draft agree on, and whether the solver answered any request."""
    agreed = agreement(result.choice.votes, options.solutions)
    reached = bool(result.failures.keys() - set(PATH_ERRORS.values())) or not result.failures
    return agreed, reached


STAGE = "0/synthesis"


async def run_synthesis_stage(context: EvolutionContext) -> StageResult:
    """Run or resume the synthesis of an evolution; counts, and examples of rejected drafts.

    The problems are written to `problem_sets.SYNTHETIC`.
    """
    recipe, manifests = context.recipe, context.manifests
    job = _synthesis_job(recipe, manifests, context.cluster)
    inputs = {
        "made_by": job.digests,
        "synthesis": job.options.model_dump(mode="json"),
        "templates": recipe.problems.exclude_templates,
        "search": job.config.search.model_dump(
            mode="json", exclude={"ppm", *SPEED_ONLY_OPTIONS["search"]}
        ),
        "problems": (manifests.result("0/problems") or {})["files"],
    }

    async def work() -> StageResult:
        listener = SynthesisListener(context.listener, context.budget.charge, STAGE)
        synthesis = await synthesize(job, manifests.path("round-0"), listener)
        path = manifests.path("round-0", problem_sets.SYNTHETIC)
        synthesis.write(path)
        return {**synthesis.as_json(), "file": file_digest(path)}

    return await context.run_stage(STAGE, inputs, work)


def _synthesis_job(recipe: Recipe, manifests: ManifestStore, cluster: str | None) -> SynthesisJob:
    """The synthesis that a recipe asks for.

    The training problems are the examples. Drafts must not repeat training, held-out or benchmark
    problems.
    """
    model = recipe.synthesis_model
    assert model is not None
    strict = OverlapRule(templates=recipe.problems.exclude_templates)
    benchmarks = {
        title: problem_sets.read_problem_file(manifests, problem_sets.benchmark_file(number))
        for number, title in enumerate(problem_sets.unique_titles(recipe.evaluation.benchmarks), 1)
    }
    held_out = {"held out": problem_sets.read_problem_file(manifests, problem_sets.HELD_OUT)}
    seeds = problem_sets.read_problem_file(manifests, problem_sets.TRAIN)
    return SynthesisJob(
        options=SynthesisConfig(**recipe.synthesis.model_dump(exclude={"model"})),
        config=majority_config(
            teacher_config(recipe, model, seed=derive(recipe.search.seed, STAGE))
        ),
        seeds=seeds,
        known=(
            KnownProblems("in a set that is measured on", benchmarks, strict),
            KnownProblems("a held-out problem", held_out, strict),
            KnownProblems("a problem to learn from", {"to learn from": seeds}),
        ),
        digests={"model.name": model_identity(model.name, model.url), "search.ppm": "none"},
        cluster=cluster,
    )
