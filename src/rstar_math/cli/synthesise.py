"""`rstar synthesise`: new problems that a model writes from seed problems and solves itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import (
    AsJson,
    Cluster,
    ConfigSource,
    Model,
    Settings,
    configure,
    print_json,
    run,
)
from rstar_math.foreign import plain

if TYPE_CHECKING:
    from rstar_math.evolution.synthesis import Order, Synthesis
    from rstar_math.problems.settings import SynthesisConfig

_EXAMPLES = 3
"""Examples shown of each reason."""


Seeds = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE...", help="Seed problems, as for rstar problems."),
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="JSONL file to write; .gz is gzipped.")]
Folder = Annotated[
    Path, typer.Option("--run", metavar="RUN", help="Folder to write drafts to, or to go on with.")
]
Requests = Annotated[
    int, typer.Option(min=1, metavar="N", help="Requests for new problems; more may be added.")
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SOURCE", help="Leave out drafts that this evaluation set asks. Repeatable."
    ),
]
Templates = Annotated[
    bool,
    typer.Option("--templates", help="Leave out an evaluation's questions with other numbers too."),
]
Each = Annotated[int, typer.Option(min=1, help="New problems sampled with a request.")]
Shots = Annotated[int, typer.Option(min=1, help="Seed problems shown in a request.")]
Solutions = Annotated[
    int, typer.Option(min=1, help="Independent solutions of each new problem (paper: 10).")
]
Agreeing = Annotated[
    int, typer.Option(min=1, help="Solutions that must agree on the answer (paper: 3).")
]
Temperature = Annotated[
    float, typer.Option(min=0, max=5, help="Sampling temperature of the new problems.")
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of a new problem.")]
Seed = Annotated[int, typer.Option(help="Seed of the drawing and of the sampling.")]


def synthesise(
    sources: Seeds,
    out: Out,
    run_folder: Folder,
    requests: Requests,
    model: Model = None,
    without: Without = None,
    templates: Templates = False,
    each: Each = 4,
    shots: Shots = 3,
    solutions: Solutions = 10,
    agreeing: Agreeing = 3,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
    cluster: Cluster = None,
    config: ConfigSource = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Have a model write new problems from seed problems and solve each several times; keep those
    on whose answer enough solutions agree.

    Can be stopped or killed at any moment: the same command goes on. Says what was left out, and
    why, with examples.
    """
    wanted = _wanted(
        requests=requests,
        each=each,
        shots=shots,
        solutions=solutions,
        agreeing=agreeing,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
    )
    settings = configure(config, set_, model)
    order = _order(wanted, settings, (sources, without or [], templates), cluster)
    found = _work(order, run_folder, out)
    if as_json:
        print_json({"run": str(run_folder), "out": str(out), **found.as_json()})
        return
    _show(found)
    typer.echo(f"{len(found.kept)} problems are in {out}.")


def _work(order: "Order", folder: Path, out: Path) -> "Synthesis":
    """Do what is left, and write the file. Raises `InputError` where nothing is kept."""
    from rstar_math.cli import watching
    from rstar_math.errors import InputError
    from rstar_math.evolution.synthesis import Onlooker
    from rstar_math.evolution.synthesis import synthesise as work

    with watching.rounds() as watch:
        found = run(work(order, folder, Onlooker(watch)), kept=True, needs=order.config)
    if not found.kept:
        reasons = [f"{n} {name}" for name, n in found.counts.items() if name != "kept" and n]
        raise InputError(
            f"No draft was kept ({', '.join(reasons)}); give other seeds, a stronger model or "
            "more --requests."
        )
    found.write(out)
    return found


def _order(
    wanted: "SynthesisConfig",
    config: Any,
    asked: tuple[list[str], list[str], bool],
    cluster: str | None,
) -> "Order":
    """What the command line asks for; its problems are read."""
    from rstar_math.cli import show
    from rstar_math.evolution.fill import conditions
    from rstar_math.evolution.synthesis import Order, solving
    from rstar_math.problems.decontamination import Rule
    from rstar_math.problems.sources import parse_source, read_source, read_sources
    from rstar_math.problems.synthesis import Known, require_seeds

    sources, without, templates = asked
    with show.err.status("reading ..."):
        seeds = read_sources(sources)
        require_seeds(seeds, wanted)
        sets = {}
        for text in without:
            title = parse_source(text).title
            sets[text if title in sets else title] = read_source(text)
    solver = solving(config)
    return Order(
        wanted=wanted,
        config=solver,
        seeds=seeds,
        known=(
            Known("in an evaluation set", sets, Rule(templates=templates)),
            Known("a seed problem", {"seeds": seeds}),
        ),
        made_by={"model.name": conditions(solver, guided=False)["model.name"]},
        cluster=cluster,
    )


def _wanted(**options: Any) -> "SynthesisConfig":
    """What the options ask for. Raises `ConfigError`."""
    from pydantic import ValidationError

    from rstar_math.errors import ConfigError
    from rstar_math.problems.settings import SynthesisConfig

    try:
        return SynthesisConfig(**options)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"The options of rstar synthesise will not do: {said}.") from error


def _show(found: "Synthesis") -> None:
    """The counts and some examples, for a person."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rstar_math.cli import show

    table = Table("drafts", "", box=SIMPLE_HEAD, header_style="bold")
    table.columns[1].justify = "right"
    for name, count in found.counts.items():
        table.add_row(name, str(count))
    show.out.print(table)
    shown: dict[str, int] = {}
    for one in found.examples:
        shown[one["why"]] = shown.get(one["why"], 0) + 1
        if shown[one["why"]] <= _EXAMPLES:
            because = f" ({one['because']})" if one["because"] else ""
            show.out.print(plain(f"{one['why']}: {one['draft']}{because}"), markup=False)
