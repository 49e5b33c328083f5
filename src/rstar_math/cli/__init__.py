"""The command line `rstar`: parses arguments, calls the library, prints results.

Exit codes: 0 success, 1 failure, 2 invalid arguments or input, 3 budget spent, 130 interrupted by
Ctrl-C (finished results are kept).
"""

import os
import sys
from typing import Annotated

import typer

from rstar_math import __version__
from rstar_math.cli import (
    data,
    doctor,
    downloads,
    eval_ppm,
    evaluate,
    evolve,
    grade,
    models,
    problem_sets,
    problems,
    push,
    serve,
    show,
    solve,
    train,
)
from rstar_math.errors import RstarError
from rstar_math.text import sanitize

app = typer.Typer(
    name="rstar",
    help="Solve math problems with small language models by tree search, and train on the results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
SOLVE, EVALUATE, LOOK, TRAIN, SET_UP = (
    "Solve",
    "Evaluate",
    "Look at runs",
    "Train",
    "Set up",
)
"""Groups of commands in the help, in order."""
app.command("demo", rich_help_panel=SOLVE)(solve.demo)
app.command("solve", rich_help_panel=SOLVE)(solve.solve)
app.command("search", rich_help_panel=SOLVE)(solve.search)
app.command("serve", rich_help_panel=SOLVE)(serve.serve)
app.command("eval", rich_help_panel=EVALUATE)(evaluate.evaluate)
app.command("report", rich_help_panel=EVALUATE)(evaluate.report)
app.command("eval-ppm", rich_help_panel=EVALUATE)(eval_ppm.eval_ppm)
app.command("grade", rich_help_panel=EVALUATE, context_settings={"ignore_unknown_options": True})(
    grade.grade
)
app.command("benchmarks", rich_help_panel=EVALUATE)(evaluate.benchmarks)
app.command("strategies", rich_help_panel=EVALUATE)(evaluate.strategies)
app.command("view", rich_help_panel=LOOK)(serve.view)
app.command("show", rich_help_panel=LOOK)(show.show)
app.command("export", rich_help_panel=LOOK)(data.export)
app.command("merge", rich_help_panel=LOOK)(solve.merge)
app.command("evolve", rich_help_panel=TRAIN)(evolve.evolve)
app.command("prepare", rich_help_panel=TRAIN)(problems.prepare)
app.command("synthesize", rich_help_panel=TRAIN)(problems.synthesize)
app.add_typer(problem_sets.app, name="problems", rich_help_panel=TRAIN)
app.command("curate", rich_help_panel=TRAIN)(data.curate)
app.add_typer(train.app, name="train", rich_help_panel=TRAIN)
app.command("deploy", rich_help_panel=TRAIN)(train.deploy)
app.command("push", rich_help_panel=TRAIN)(push.push)
app.command("estimate-cluster", rich_help_panel=TRAIN)(evolve.estimate_cluster)
app.add_typer(models.app, name="models", rich_help_panel=SET_UP)
app.command("doctor", rich_help_panel=SET_UP)(doctor.doctor)


def _print_version(wanted: bool) -> None:
    """Print the version and exit, if wanted."""
    if wanted:
        typer.echo(f"rstar-math {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `rstar` itself."""


def main() -> None:
    """Run the command line. Errors are printed as one sentence on stderr."""
    downloads.use_bar()
    try:
        app()
    except RstarError as error:
        print(f"rstar: {sanitize(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
