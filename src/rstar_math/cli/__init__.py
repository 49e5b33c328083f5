"""The command line `rstar`: parses arguments, calls the library, prints results.

Exit codes: 0 success, 1 failure, 2 invalid arguments or input, 3 budget spent, 130 interrupted by
Ctrl-C (finished results are kept).
"""

import os
import sys

import typer

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
    serve,
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
)
app.command("solve")(solve.solve)
app.command("search")(solve.search)
app.command("eval")(evaluate.evaluate)
app.command("merge")(solve.merge)
app.command("estimate-cluster")(evolve.estimate_cluster)
app.command("benchmarks")(evaluate.benchmarks)
app.command("strategies")(evaluate.strategies)
app.command("report")(evaluate.report)
app.command("view")(serve.view)
app.command("serve")(serve.serve)
app.command("prepare")(problems.prepare)
app.command("synthesize")(problems.synthesize)
app.add_typer(problem_sets.app, name="problems")
app.command("curate")(data.curate)
app.command("export")(data.export)
app.add_typer(train.app, name="train")
app.command("evolve")(evolve.evolve)
app.add_typer(models.app, name="models")
app.command("deploy")(train.deploy)
app.command("eval-ppm")(eval_ppm.eval_ppm)
app.command("grade", context_settings={"ignore_unknown_options": True})(grade.grade)
app.command("doctor")(doctor.doctor)
app.command("demo")(solve.demo)


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
