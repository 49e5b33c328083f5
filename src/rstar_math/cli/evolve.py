"""`rstar evolve` and `rstar estimate-cluster`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import (
    AsJson,
    Cluster,
    TrackerNames,
    TrackerRun,
    TrustConfig,
    print_json,
    run,
    tracker_names,
)

if TYPE_CHECKING:
    from rstar_math.evolution.capacity import ClusterEstimate
    from rstar_math.evolution.progress import RunBudget
    from rstar_math.evolution.recipe import Recipe

Folder = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Folder to write or resume; not required with --plan.",
        show_default=False,
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one option, for example rounds.2.rollouts=8 or sft.epochs=1. Repeatable.",
    ),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="hours=H|tokens=N",
        help="Stop after this many hours or sampled tokens; the same command resumes. Repeatable.",
    ),
]


def evolve(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Recipe: a TOML file, or paper-7b, single-gpu, laptop or smoke.",
        ),
    ],
    folder: Folder = None,
    set_: Options = None,
    trust_config: TrustConfig = False,
    budget: Budget = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only estimate problems, calls, tokens and hours."),
    ] = False,
    cluster: Cluster = None,
    tracker: TrackerNames = None,
    tracker_run: TrackerRun = None,
    as_json: AsJson = False,
) -> None:
    """Run rounds of self-evolution: search, curate, train, promote better models, evaluate.

    The command can be interrupted or killed at any time; run it again to resume. RUN/report.md and
    RUN/report.html are updated after each round.
    """
    from rstar_math.cli import progress
    from rstar_math.errors import ConfigError
    from rstar_math.evolution.pipeline import evolve as run_rounds
    from rstar_math.evolution.recipe import load_recipe

    loaded = load_recipe(recipe, set_ or (), trusted=trust_config)
    run_budget, trackers = _parse_budget(budget or []), tracker_names(tracker)
    if folder is None and not plan:
        raise ConfigError(
            f"The option --run is missing; for example: rstar evolve {recipe} --run RUN"
        )
    _download_models(loaded)
    if folder is None or plan:
        _print_plan(loaded, as_json)
        return
    with progress.watch_rounds() as listener:
        try:
            rounds = run_rounds(
                loaded,
                folder,
                listener=listener,
                budget=run_budget,
                cluster=cluster,
                trackers=trackers,
                tracker_run=tracker_run,
            )
            run(rounds, is_saved=True)
        finally:
            reports, results = _write_reports(folder)
    if as_json:
        print_json({"run": str(folder), **results})
    else:
        typer.echo(f"The results are in {reports[0]} (also {reports[1].name}).")


def _write_reports(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    """Write the reports of an evolution; their paths, and the results as JSON.

    Both are empty if the evolution has not started.
    """
    from rstar_math.evolution.manifest import ManifestStore
    from rstar_math.evolution.report import summary_json, write_summary

    if not (folder / "recipe.json").is_file():
        return [], {}
    with ManifestStore.read(folder) as manifest:
        return write_summary(manifest), summary_json(manifest)


def _download_models(recipe: "Recipe") -> None:
    """Download the initial models of an evolution if they are missing."""
    from rstar_math.cli.downloads import download_missing
    from rstar_math.evolution.stages import TINY

    teachers = [recipe.synthesis.model, *(settings.model for settings in recipe.rounds)]
    base = None if recipe.base_model == TINY else recipe.base_model
    download_missing(*(model.url for model in teachers if model is not None), base=base)


def _parse_budget(texts: list[str]) -> "RunBudget":
    """The budget of this call. Raises `ConfigError`."""
    from rstar_math.errors import ConfigError
    from rstar_math.evolution.progress import RunBudget

    limits: dict[str, Any] = {}
    for text in texts:
        match = re.fullmatch(r"(hours)=(\d{1,5}(?:\.\d+)?)|(tokens)=([1-9]\d{0,14})", text)
        if match is None:
            raise ConfigError(
                f"Invalid value for --budget: {text!r} (expected hours=H or tokens=N, for example "
                "hours=2)."
            )
        if match[1]:
            limits["hours"] = float(match[2])
        else:
            limits["tokens"] = int(match[4])
    return RunBudget(**limits)


def _print_plan(recipe: Any, as_json: bool) -> None:
    """Print the cost estimate of an evolution, from a short pilot run."""
    from rstar_math.cli import progress
    from rstar_math.evolution.estimate import estimate

    with progress.watch_rounds() as listener:
        plan = run(estimate(recipe, listener=listener), is_saved=False)
    if as_json:
        print_json(plan.as_json())
    else:
        progress.print_plan(plan)


ProfileRun = Annotated[
    Path | None,
    typer.Option(
        "--profile-run",
        metavar="RUN",
        help="Run file whose searches give the calls, tokens and programs per problem.",
        show_default="assumed values",
    ),
]
Speed = Annotated[
    float | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Measured throughput of one fully loaded GPU, in sampled tokens per second.",
        show_default="estimated from its data sheet",
    ),
]
Cores = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="CPU cores that run code, on all nodes.", show_default="8 per GPU"
    ),
]
Gpus = Annotated[
    str, typer.Option(metavar="COUNTxNAME", help="GPUs that serve the policy, for example 60xA100.")
]
RecipeName = Annotated[
    str,
    typer.Option(
        metavar="RECIPE", help="Recipe whose rounds are estimated: a name or a TOML file."
    ),
]
Params = Annotated[
    float, typer.Option(min=0.01, metavar="BILLION", help="Parameters of the policy, in billions.")
]
BatchSize = Annotated[
    int, typer.Option(min=1, metavar="N", help="Samples that one GPU decodes at once.")
]
Programs = Annotated[
    float, typer.Option(min=0.01, metavar="N", help="Measured programs per second per core.")
]
Unsolved = Annotated[
    float,
    typer.Option(
        min=0, max=1, metavar="SHARE", help="Share of problems that need the retry rollouts."
    ),
]
Price = Annotated[float | None, typer.Option(min=0, metavar="MONEY", help="Price per GPU hour.")]


def estimate_cluster(
    problems: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of problems to search.")
    ],
    gpus: Gpus,
    recipe: RecipeName = "paper-7b",
    run_file: ProfileRun = None,
    params: Params = 7.6,
    tokens_per_second: Speed = None,
    batch_size: BatchSize = 256,
    cores: Cores = None,
    programs_per_second: Programs = 100.0,
    unsolved_share: Unsolved = 0.2,
    price: Price = None,
    as_json: AsJson = False,
) -> None:
    """Estimate hours, price and bottleneck of a recipe's searches on a cluster.

    Nothing is executed. For an estimate of searches and trainings on this machine, use: rstar
    evolve RECIPE --plan.
    """
    from dataclasses import replace

    from rstar_math.distributed.ray_cluster import CORES_PER_WORKER
    from rstar_math.evolution import capacity
    from rstar_math.evolution.recipe import load_recipe

    count, gpu = _parse_gpus(gpus)
    speed = capacity.gpu_speed(gpu, params=params, max_batch=batch_size)
    if tokens_per_second is not None:
        speed = replace(speed, full_tokens_per_s=tokens_per_second)
    profile = capacity.WorkloadProfile() if run_file is None else capacity.profile_of_run(run_file)
    cores = cores or 8 * count
    hardware = capacity.Hardware(
        speed,
        replicas=count,
        cores=cores,
        workers=max(1, cores // CORES_PER_WORKER),
        programs_per_s=programs_per_second,
    )
    workloads = capacity.search_workloads(
        load_recipe(recipe, trusted=True).rounds, problems, profile, unsolved=unsolved_share
    )
    estimate = capacity.ClusterEstimate(
        searches=[
            capacity.estimate_search(stage, workload, hardware, count, price)
            for stage, workload in workloads
        ],
        hardware=hardware,
        profile=profile,
        gpus=count,
        gpu=gpu,
        speed_measured=tokens_per_second is not None,
    )
    if as_json:
        print_json(estimate.as_json())
    else:
        _print_estimate(estimate)


def _parse_gpus(text: str) -> tuple[int, str]:
    """The count and name of --gpus. Raises `ConfigError`."""
    from rstar_math.errors import ConfigError

    match = re.fullmatch(r"([1-9]\d{0,5})x([\w.-]+)", text)
    if match is None:
        raise ConfigError(
            f"Invalid value for --gpus: {text!r} (expected COUNTxNAME, for example 60xA100)."
        )
    return int(match[1]), match[2]


def _print_estimate(estimate: "ClusterEstimate") -> None:
    """Print the estimate as a table on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rstar_math.cli.display import out

    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in ("problems", "tokens", "hours", "GPU hours", "price"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bottleneck")
    for search in estimate.searches:
        price = "-" if search.price is None else f"{search.price:,.0f}"
        figures = (f"{search.problems:,}", f"{search.tokens:.3g}", f"{search.hours:.1f}")
        alone_h = search.resource_hours[search.bottleneck]
        bottleneck = f"{search.bottleneck} ({alone_h:.1f} h alone)"
        table.add_row(search.stage, *figures, f"{search.gpu_hours:,.0f}", price, bottleneck)
    total = estimate.as_json()
    price = "-" if total["price"] is None else f"{total['price']:,.0f}"
    tokens = f"{sum(search.tokens for search in estimate.searches):.3g}"
    hours, gpu_hours = f"{estimate.hours:.1f}", f"{total['gpu_hours']:,.0f}"
    table.add_row("total", "", tokens, hours, gpu_hours, price, "")
    speed, hardware, profile = estimate.hardware.server, estimate.hardware, estimate.profile
    speed_origin = "measured" if estimate.speed_measured else "estimated from the data sheet"
    profile_origin = (
        f"measured in {profile.measured_run}"
        if profile.measured_run
        else "assumed (measure with --profile-run RUN)"
    )
    table.caption_justify = "left"
    table.caption = (
        f"{estimate.gpus} x {estimate.gpu}, {speed.full_tokens_per_s:.0f} tokens/s each at full "
        f"load ({speed_origin}); {hardware.cores} cores, {hardware.programs_per_s:g} programs/s "
        "each;\n"
        f"per rollout: {profile.calls:.1f} calls; per sample: {profile.tokens:.0f} tokens, "
        f"{profile.programs:.2f} programs; {profile_origin}.\n"
        "Only searches are included; rstar evolve --plan includes trainings and evaluations."
    )
    out.print(table)
