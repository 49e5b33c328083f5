"""`rstar evolve` and `rstar estimate-cluster`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import AsJson, Cluster, print_json, run

if TYPE_CHECKING:
    from rstar_math.evolution.capacity import ClusterEstimate
    from rstar_math.evolution.progress import RunBudget
    from rstar_math.evolution.recipe import Recipe

Folder = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Folder to write or to go on with; not needed with --plan.",
        show_default=False,
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one option, as in rounds.2.rollouts=8 or sft.epochs=1. Repeatable.",
    ),
]


def evolve(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A TOML file, or paper-7b, single-gpu, laptop, smoke.",
        ),
    ],
    folder: Folder = None,
    set_: Options = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="hours=H|tokens=N",
            help="Stop after so much; the same command goes on. Repeatable.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only say what it would take: problems, calls, tokens, hours."),
    ] = False,
    cluster: Cluster = None,
    as_json: AsJson = False,
) -> None:
    """Search, curate, train, keep what is better on held-out problems, measure; round after round.

    Can be stopped or killed at any moment: the same command goes on. After each round RUN/report.md
    and RUN/report.html say what it came to.
    """
    from rstar_math.cli import progress
    from rstar_math.errors import ConfigError
    from rstar_math.evolution.manifest import ManifestStore
    from rstar_math.evolution.pipeline import evolve as work
    from rstar_math.evolution.recipe import load_recipe
    from rstar_math.evolution.report import summary_json, write_summary

    chosen = load_recipe(recipe, set_ or ())
    spending = _budget(budget or [])
    if plan:
        _fetch(chosen)
        _plan(chosen, as_json)
        return
    if folder is None:
        raise ConfigError(f"Name a folder for the rounds: rstar evolve {recipe} --run RUN.")
    _fetch(chosen)
    with progress.watch_rounds() as watch:
        try:
            rounds = work(chosen, folder, listener=watch, budget=spending, cluster=cluster)
            run(rounds, kept=True)
        finally:
            if (folder / "recipe.json").is_file():
                with ManifestStore.read(folder) as manifests:
                    written = write_summary(manifests)
                    found = summary_json(manifests)
    if as_json:
        print_json({"run": str(folder), **found})
    else:
        typer.echo(f"{written[0]}: what the rounds came to (also {written[1].name})")


def _fetch(recipe: "Recipe") -> None:
    """Download the models that an evolution begins with, if they are not on this disk."""
    from rstar_math.cli.downloads import fetch
    from rstar_math.evolution.stages import TINY

    strong = [recipe.synthesis.model, *(one.model for one in recipe.rounds)]
    base = None if recipe.base_model == TINY else recipe.base_model
    fetch(*(model.url for model in strong if model is not None), base=base)


def _budget(given: list[str]) -> "RunBudget":
    """What this call may spend."""
    from rstar_math.errors import ConfigError
    from rstar_math.evolution.progress import RunBudget

    found: dict[str, Any] = {}
    for text in given:
        match = re.fullmatch(r"(hours)=(\d{1,5}(?:\.\d+)?)|(tokens)=([1-9]\d{0,14})", text)
        if match is None:
            raise ConfigError(
                f"--budget {text!r} is neither hours=H nor tokens=N; for example --budget hours=2."
            )
        if match[1]:
            found["hours"] = float(match[2])
        else:
            found["tokens"] = int(match[4])
    return RunBudget(**found)


def _plan(recipe: Any, as_json: bool) -> None:
    """What an evolution would take, from a short pilot."""
    from rstar_math.cli import progress
    from rstar_math.evolution.estimate import estimate

    with progress.watch_rounds() as watch:
        found = run(estimate(recipe, listener=watch), kept=False)
    if as_json:
        print_json(found.as_json())
    else:
        progress.show_plan(found)


Measured = Annotated[
    Path | None,
    typer.Option(
        "--profile-run",
        metavar="RUN",
        help="A run whose searches say how many calls, tokens and programs a problem takes.",
        show_default="assumed",
    ),
]
Speed = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="Sampled tokens a second of one GPU that is full, as measured.",
        show_default="estimated from its data sheet",
    ),
]
Cores = Annotated[
    int | None,
    typer.Option(min=1, help="Cores that run code, all nodes.", show_default="8 a GPU"),
]
Gpus = Annotated[
    str, typer.Option(metavar="COUNTxNAME", help="GPUs that serve the policy, as 60xA100.")
]
RecipeName = Annotated[
    str, typer.Option(help="Recipe whose rounds are estimated, as for rstar evolve.")
]
Params = Annotated[float, typer.Option(min=0.01, metavar="BILLION", help="Size of the policy.")]
Slots = Annotated[int, typer.Option(min=1, help="Samples decoded at once by one GPU.")]
Programs = Annotated[float, typer.Option(min=0.01, help="Programs a second and core, as measured.")]
Unsolved = Annotated[
    float, typer.Option(min=0, max=1, help="Share of problems left to further rollouts.")
]
Price = Annotated[
    float | None, typer.Option(min=0, metavar="MONEY", help="Price of a GPU for an hour.")
]


def estimate_cluster(
    problems: Annotated[int, typer.Option(min=1, help="Problems to search.")],
    gpus: Gpus,
    recipe: RecipeName = "paper-7b",
    run_file: Measured = None,
    params: Params = 7.6,
    tokens_per_second: Speed = None,
    batch_size: Slots = 256,
    cores: Cores = None,
    programs_per_second: Programs = 100.0,
    unsolved_share: Unsolved = 0.2,
    price: Price = None,
    as_json: AsJson = False,
) -> None:
    """Estimate hours, price and bottleneck of a recipe's searches on a cluster.

    Nothing is run. For this machine, and for the trainings too, there is: rstar evolve RECIPE
    --run RUN --plan.
    """
    from dataclasses import replace

    from rstar_math.distributed.ray_cluster import CORES_PER_WORKER
    from rstar_math.evolution import capacity
    from rstar_math.evolution.recipe import load_recipe

    count, gpu = _gpus(gpus)
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
        load_recipe(recipe).rounds, problems, profile, unsolved=unsolved_share
    )
    found = capacity.ClusterEstimate(
        searches=[
            capacity.estimate_search(stage, work, hardware, count, price)
            for stage, work in workloads
        ],
        hardware=hardware,
        profile=profile,
        gpus=count,
        gpu=gpu,
        speed_measured=tokens_per_second is not None,
    )
    if as_json:
        print_json(found.as_json())
    else:
        _show(found)


def _gpus(text: str) -> tuple[int, str]:
    """What --gpus means."""
    from rstar_math.errors import ConfigError

    match = re.fullmatch(r"([1-9]\d{0,5})x([\w.-]+)", text)
    if match is None:
        raise ConfigError(f"--gpus {text!r} is not COUNTxNAME; for example 60xA100.")
    return int(match[1]), match[2]


def _show(found: "ClusterEstimate") -> None:
    """The plan as a table on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rstar_math.cli.display import out

    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in ("problems", "tokens", "hours", "GPU hours", "price"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("held up by")
    for search in found.searches:
        price = "-" if search.price is None else f"{search.price:,.0f}"
        figures = (f"{search.problems:,}", f"{search.tokens:.3g}", f"{search.hours:.1f}")
        alone = search.resource_hours[search.bottleneck]
        held = f"{search.bottleneck} ({alone:.1f} h alone)"
        table.add_row(search.stage, *figures, f"{search.gpu_hours:,.0f}", price, held)
    whole = found.as_json()
    price = "-" if whole["price"] is None else f"{whole['price']:,.0f}"
    tokens = f"{sum(search.tokens for search in found.searches):.3g}"
    table.add_row("all", "", tokens, f"{found.hours:.1f}", f"{whole['gpu_hours']:,.0f}", price, "")
    speed, profile = found.hardware.server, found.profile
    said = "measured" if found.speed_measured else "estimated from its data sheet"
    where = (
        f"measured in {profile.measured_run}"
        if profile.measured_run
        else "assumed (measure: --profile-run RUN)"
    )
    table.caption_justify = "left"
    table.caption = (
        f"{found.gpus} x {found.gpu}, {speed.full_tokens_per_s:.0f} tokens/s each when full "
        f"({said}); {found.hardware.cores} cores, "
        f"{found.hardware.programs_per_s:g} programs/s each;\n"
        f"a rollout: {profile.calls:.1f} calls, {profile.tokens:.0f} tokens a sample, "
        f"{profile.programs:.2f} programs a sample, {where}.\n"
        "Searches alone: trainings and measurements are in rstar evolve --plan."
    )
    out.print(table)
