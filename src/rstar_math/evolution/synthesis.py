"""New problems in an evolution: a model writes drafts and solves them; the folder resumes after
any interruption.

Solutions are the chains of the strategy `sc`, read as an evaluation's majority reads them: each
chain is one vote, equal ones too, and one without an answer is one that does not agree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rstar_math.config.sections import Config
from rstar_math.evolution import problem_sets
from rstar_math.evolution.context import EvolutionContext
from rstar_math.evolution.manifest import Facts, ManifestStore, digest, file_digest, identity
from rstar_math.evolution.progress import NullListener, ProgressListener
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.stages import (
    finished_in,
    of_the_search,
    run_account,
    search,
    teacher_config,
)
from rstar_math.llm.connect import connect
from rstar_math.problems.drafts import DraftFile, DraftResponse
from rstar_math.problems.filtering import Rule
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
    """What is asked for, of whom, and what it may not ask again."""

    wanted: SynthesisConfig
    config: Config
    """Of whoever writes and solves; see `solving`."""
    seeds: Sequence[Problem]
    known: Sequence[KnownProblems]
    made_by: dict[str, str] = field(default_factory=dict)
    """What the model is, as for `searching.search`."""
    cluster: str | None = None
    """Whose workers solve; the drafts are asked for by this process."""

    @property
    def strategy(self) -> Strategy:
        """How a draft is solved."""
        return Strategy("sc", self.wanted.solutions)


@dataclass(frozen=True, slots=True)
class SynthesisListener:
    """Whom it is told, and who pays."""

    watch: ProgressListener = field(default_factory=NullListener)
    charge: Callable[[int], None] = lambda tokens: None
    """Told of sampled tokens; may raise."""
    stage: str = "synthesis"


@dataclass(frozen=True, slots=True)
class Synthesis:
    """What became of the drafts; each is kept or counted by one reason."""

    kept: list[Synthetic]
    counts: dict[str, int]
    """Drafts asked for, left out by reason, and kept; they add up."""
    examples: list[dict[str, str]]
    """Some that were left out: "why", "draft", "because"."""
    overlaps: dict[str, int]
    """Drafts that are known problems, by the set that asks the same."""
    facts: Facts
    """Cost without the clock, failures by reason, a hash of the solutions."""

    def as_json(self) -> dict[str, Any]:
        """All of it but the problems, under plain names."""
        shown = {name: getattr(self, name) for name in ("counts", "overlaps", "examples")}
        return {**shown, **self.facts}

    def write(self, path: Path) -> None:
        """Write the problems with their provenance, whole or not at all."""
        extra = {one.problem.id: {"provenance": one.provenance()} for one in self.kept}
        write_problems(path, [one.problem for one in self.kept], extra)


def solving(config: Config) -> Config:
    """A configuration with the options that the count of agreeing solutions goes by: all chains
    are sampled, none is scored, and each is a vote."""
    options = {"token_budget": None, "confidence": None, "scorer": "none", "ppm": None}
    options["answer"] = "majority"
    return config.model_copy(update={"search": config.search.model_copy(update=options)})


async def synthesize(
    order: SynthesisJob, folder: Path, look: SynthesisListener | None = None
) -> Synthesis:
    """Write drafts, tell them apart, solve them, keep those on which enough solutions agree; or do
    what is left of it in `folder`. The same answers of the model give the same problems.

    Raises `ConfigError` where the folder was begun otherwise, and any `RstarError`; the same call
    goes on.
    """
    look, wanted = look or SynthesisListener(), order.wanted
    require_seeds(order.seeds, wanted)
    out = Rejections()
    with DraftFile.open(folder / DRAFTS, _conditions(order)) as file:
        await _write(order, file, look)
        written = file.first(wanted.requests)
        look.watch.begin(look.stage, "tell drafts apart", None, 0)
        fresh = filter_drafts(written, wanted, order.known, out)
        facts: Facts = {"cost": {}, "failures": {}, "digest": None}
        found: dict[str, tuple[Agreement, bool]] = {}
        if fresh.problems:
            await _solve(order, folder / RUN, fresh, look)
            facts = run_account(folder / RUN)
            found = _agreements(folder / RUN, order)
    kept = accept_by_agreement(fresh, found, wanted, out)
    facts["cost"] = _sum([facts["cost"], *(one.cost for one in written)])
    asked = {"asked for": wanted.most}
    overlaps: dict[str, int] = {}
    for match in fresh.matches:
        overlaps[match.evaluation] = overlaps.get(match.evaluation, 0) + 1
    counts = {**asked, **out.counts, "kept": len(kept)}
    return Synthesis(kept, counts, out.examples, overlaps, facts)


def _conditions(order: SynthesisJob) -> dict[str, Any]:
    """What drafts depend on, but for how many requests there are."""
    shaping = order.wanted.model_dump(exclude={"requests", "solutions", "min_agreement"})
    asked = [[problem.id, problem.question.text] for problem in order.seeds]
    return {
        **shaping,
        "model": order.made_by.get("model.name"),
        "seed problems": digest(asked),
        "prompt": digest(synthesis_prompt([])),
    }


async def _write(order: SynthesisJob, file: DraftFile, look: SynthesisListener) -> None:
    """Ask for the drafts that are not there."""
    wanted, model = order.wanted, order.config.model
    done = len(file.first(wanted.requests))
    if done == wanted.requests:
        return
    look.watch.begin(f"{look.stage}-drafts", "write new problems", wanted.requests, done)
    most = model.in_flight * order.config.servers_of_policy
    width = max(1, most // wanted.per_request) if model.embedded else most

    def on_written(written: DraftResponse) -> None:
        name = Question(f"{SYNTHETIC}/request-{written.request}", "")
        readable = any(text is not None and read_draft(text) for text in written.texts)
        tokens = int(written.cost.get("sampled_tokens", 0))
        look.watch.advance(Problem(name, None, SYNTHETIC), solved=readable, tokens=tokens)
        look.charge(tokens)

    connection = await connect(model, order.config.servers)
    try:
        file.require_model(connection.name)
        await write_drafts(
            connection,
            order.seeds,
            wanted,
            file,
            model=connection.name,
            width=width,
            on_written=on_written,
        )
    finally:
        await connection.aclose()


async def _solve(order: SynthesisJob, run: Path, fresh: NewDrafts, look: SynthesisListener) -> None:
    """Solve the drafts that are not solved."""
    strategy, wanted = order.strategy, order.wanted
    done = {problem.id for problem in fresh.problems} & finished_in(run, strategy)
    what = f"solve them {wanted.solutions} times"
    look.watch.begin(look.stage, what, len(fresh.problems), len(done))

    def on_done(problem: Problem, packed: PackedResult) -> None:
        agreed, _ = _agreed(packed.result, wanted)
        tokens = packed.result.cost.sampled_tokens
        kept = agreed.reference(wanted.min_agreement) is not None
        look.watch.advance(problem, solved=kept, tokens=tokens)
        look.charge(tokens)

    await search(
        run,
        fresh.problems,
        [strategy],
        order.config,
        made_by=order.made_by,
        on_done=on_done,
        cluster=order.cluster,
    )


def _agreements(run: Path, order: SynthesisJob) -> dict[str, tuple[Agreement, bool]]:
    """By problem what its solutions agree on, and whether the solver could be asked."""
    with RunStore.read(run) as store:
        results = store.results(order.strategy.name)
        return {result.problem: _agreed(result, order.wanted) for result in results}


def _agreed(result: Result, wanted: SynthesisConfig) -> tuple[Agreement, bool]:
    """The same of one problem."""
    found = agreement(result.choice.votes, wanted.solutions)
    asked = bool(result.failures.keys() - set(PATH_ERRORS.values())) or not result.failures
    return found, asked


def _sum(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Costs without the clock, added up."""
    whole = Cost.total(Cost(**dict(cost)) for cost in costs)  # type: ignore[arg-type]
    return of_the_search(whole)


STAGE = "0/synthesis"


async def draft(context: EvolutionContext) -> Facts:
    """Have new problems written and solved, or what is left of them; counts, and what was left out
    and why. They are in `problem_sets.SYNTHETIC` from then on."""
    recipe, journal = context.recipe, context.journal
    order = _order(recipe, journal, context.cluster)
    inputs = {
        "made_by": order.made_by,
        "synthesis": order.wanted.model_dump(mode="json"),
        "templates": recipe.problems.exclude_templates,
        "search": order.config.search.model_dump(
            mode="json", exclude={"ppm", *SPEED_ONLY_OPTIONS["search"]}
        ),
        "problems": (journal.facts("0/problems") or {})["files"],
    }

    async def work() -> Facts:
        look = SynthesisListener(context.watch, context.budget.charge, STAGE)
        found = await synthesize(order, journal.path("round-0"), look)
        path = journal.path("round-0", problem_sets.SYNTHETIC)
        found.write(path)
        return {**found.as_json(), "file": file_digest(path)}

    return await context.stage(STAGE, inputs, work)


def _order(recipe: Recipe, journal: ManifestStore, cluster: str | None) -> SynthesisJob:
    """What the recipe asks for: the problems to learn from are the pattern; those held out and
    those that are measured on are asked by nobody."""
    model = recipe.writer
    assert model is not None
    strict = Rule(templates=recipe.problems.exclude_templates)
    names = problem_sets.unique_titles(recipe.evaluation.benchmarks)
    files = [problem_sets.evaluation_file(at) for at in range(1, len(names) + 1)]
    sets = {
        name: problem_sets.problems_in(journal, file)
        for name, file in zip(names, files, strict=True)
    }
    held_out = {"held out": problem_sets.problems_in(journal, problem_sets.HELD_OUT)}
    seeds = problem_sets.problems_in(journal, problem_sets.TRAIN)
    return SynthesisJob(
        wanted=SynthesisConfig(**recipe.synthesis.model_dump(exclude={"model"})),
        config=solving(teacher_config(recipe, model, seed=derive(recipe.search.seed, STAGE))),
        seeds=seeds,
        known=(
            KnownProblems("in a set that is measured on", sets, strict),
            KnownProblems("a held-out problem", held_out, strict),
            KnownProblems("a problem to learn from", {"to learn from": seeds}),
        ),
        made_by={"model.name": identity(model.name, model.url), "search.ppm": "none"},
        cluster=cluster,
    )
