"""`rstar evolve`: rounds of self-evolution with one command."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import AsJson, Cluster, print_json, run

if TYPE_CHECKING:
    from rstar_math.evolution.recipe import Recipe
    from rstar_math.evolution.watching import Budget


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
    from rstar_math.cli import watching
    from rstar_math.errors import ConfigError
    from rstar_math.evolution.journal import Journal
    from rstar_math.evolution.recipe import load_recipe
    from rstar_math.evolution.rounds import evolve as work
    from rstar_math.evolution.summary import outcome, write_summary

    chosen = load_recipe(recipe, set_ or ())
    spending = _budget(budget or [])
    if plan:
        _fetch(chosen)
        _plan(chosen, as_json)
        return
    if folder is None:
        raise ConfigError(f"Name a folder for the rounds: rstar evolve {recipe} --run RUN.")
    _fetch(chosen)
    with watching.rounds() as watch:
        try:
            rounds = work(chosen, folder, watch=watch, budget=spending, cluster=cluster)
            run(rounds, kept=True)
        finally:
            if (folder / "recipe.json").is_file():
                with Journal.read(folder) as journal:
                    written = write_summary(journal)
                    found = outcome(journal)
    if as_json:
        print_json({"run": str(folder), **found})
    else:
        typer.echo(f"{written[0]}: what the rounds came to (also {written[1].name})")


def _fetch(recipe: "Recipe") -> None:
    """Download the models that an evolution begins with, if they are not on this disk."""
    from rstar_math.cli.downloading import fetch
    from rstar_math.evolution.learning import TINY

    strong = [recipe.synthesis.model, *(one.model for one in recipe.rounds)]
    base = None if recipe.base == TINY else recipe.base
    fetch(*(model.url for model in strong if model is not None), base=base)


def _budget(given: list[str]) -> "Budget":
    """What this call may spend."""
    from rstar_math.errors import ConfigError
    from rstar_math.evolution.watching import Budget

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
    return Budget(**found)


def _plan(recipe: Any, as_json: bool) -> None:
    """What an evolution would take, from a short pilot."""
    from rstar_math.cli import watching
    from rstar_math.evolution.plan import estimate

    with watching.rounds() as watch:
        found = run(estimate(recipe, watch=watch), kept=False)
    if as_json:
        print_json(found.as_json())
    else:
        watching.show_plan(found)
