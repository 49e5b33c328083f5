"""`rstar plan`: what a search of many problems would take on a cluster."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstar_math.cli.options import AsJson, print_json

if TYPE_CHECKING:
    from rstar_math.cluster.capacity import Capacity


Measured = Annotated[
    Path | None,
    typer.Option(
        "--from",
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
        show_default="reckoned from its data sheet",
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
    str, typer.Option(help="Recipe whose rounds are reckoned, as for rstar evolve.")
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


def plan(
    problems: Annotated[int, typer.Option(min=1, help="Problems to search.")],
    gpus: Gpus,
    recipe: RecipeName = "paper-7b",
    run_file: Measured = None,
    params: Params = 7.6,
    tokens_a_second: Speed = None,
    slots: Slots = 256,
    cores: Cores = None,
    programs: Programs = 100.0,
    unsolved: Unsolved = 0.2,
    price: Price = None,
    as_json: AsJson = False,
) -> None:
    """Reckon what a recipe's searches would take on a cluster: hours, price, what holds them up.

    Nothing is run. For this machine, and for the trainings too, there is: rstar evolve RECIPE
    --run RUN --plan.
    """
    from dataclasses import replace

    from rstar_math.cluster import capacity
    from rstar_math.cluster.rays import CORES
    from rstar_math.cluster.timeline import Machines
    from rstar_math.evolution.recipe import load_recipe

    count, gpu = _gpus(gpus)
    engine = capacity.engine_of(gpu, params=params, slots=slots)
    if tokens_a_second is not None:
        engine = replace(engine, full=tokens_a_second)
    habits = capacity.Habits() if run_file is None else capacity.habits_of(run_file)
    hands = cores or 8 * count
    machines = Machines(
        engine,
        replicas=count,
        cores=hands,
        workers=max(1, hands // CORES),
        programs=programs,
    )
    loads = capacity.reckon(load_recipe(recipe).rounds, problems, habits, unsolved=unsolved)
    parts = [capacity.part(name, load, machines, count, price) for name, load in loads]
    found = capacity.Capacity(parts, machines, habits, count, gpu, tokens_a_second is not None)
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


def _show(found: "Capacity") -> None:
    """The plan as a table on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rstar_math.cli.show import out

    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in ("problems", "tokens", "hours", "GPU hours", "price"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("held up by")
    for part in found.parts:
        price = "-" if part.price is None else f"{part.price:,.0f}"
        figures = (f"{part.problems:,}", f"{part.tokens:.3g}", f"{part.hours:.1f}")
        held = f"{part.bottleneck} ({part.hours_alone[part.bottleneck]:.1f} h alone)"
        table.add_row(part.name, *figures, f"{part.gpu_hours:,.0f}", price, held)
    whole = found.as_json()
    price = "-" if whole["price"] is None else f"{whole['price']:,.0f}"
    tokens = f"{sum(part.tokens for part in found.parts):.3g}"
    table.add_row("all", "", tokens, f"{found.hours:.1f}", f"{whole['gpu_hours']:,.0f}", price, "")
    engine, habits = found.machines.engine, found.habits
    said = "measured" if found.engine_measured else "reckoned from its data sheet"
    where = f"measured in {habits.measured}" if habits.measured else "assumed (measure: --from RUN)"
    table.caption_justify = "left"
    table.caption = (
        f"{found.gpus} x {found.gpu}, {engine.full:.0f} tokens/s each when full ({said}); "
        f"{found.machines.cores} cores, {found.machines.programs:g} programs/s each;\n"
        f"a rollout: {habits.calls:.1f} calls, {habits.tokens:.0f} tokens a sample, "
        f"{habits.programs:.2f} programs a sample, {where}.\n"
        "Searches alone: trainings and measurements are in rstar evolve --plan."
    )
    out.print(table)
