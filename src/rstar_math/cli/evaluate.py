"""`rstar eval`: strategies side by side on one set of problems."""

from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import (
    AsJson,
    ConfigSource,
    Limit,
    Model,
    ProblemFile,
    Settings,
    configure,
    print_json,
    run,
)


def evaluate(
    file: ProblemFile,
    strategy: Annotated[
        str, typer.Option(help="Comma-separated: greedy, sc@8, mcts, mcts@16.")
    ] = "greedy,sc@8,mcts",
    run_file: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Run file to keep and go on with.")
    ] = None,
    model: Model = None,
    limit: Limit = None,
    config: ConfigSource = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure strategies: accuracy with its interval, tokens, calls, seconds, failures.

    No search sees a reference answer; they are used afterwards to grade.
    """
    from rstar_math.cli import batch
    from rstar_math.search.strategy import parse_strategies

    strategies = parse_strategies(strategy)
    settings = configure(config, set_, model)
    job = batch.Job(file, run_file, limit, strategies, graded=True)
    with batch.opened(job, settings) as opened:
        run(opened.work(settings), kept=run_file is not None)
        rows = [opened.summary(s) for s in strategies]
    if as_json:
        report = [row.as_json() for row in rows]
        print_json({"file": str(file), "run": run_file and str(run_file), "strategies": report})
        return
    from rstar_math.cli import show

    show.out.print(show.summaries(rows))
