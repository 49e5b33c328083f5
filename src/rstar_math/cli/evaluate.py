"""`rstar eval`: strategies side by side on one set of problems."""

import re
from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import (
    AsJson,
    ConfigSource,
    Discriminator,
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
        str | None,
        typer.Option(
            help="Comma-separated: greedy, sc@8, bon@8, beam@8, dvts@8, tot, rap, value, mcts, "
            "mcts@16, mcts@16x4 (4 runs); in words: zero, cot, cot@8, gen@32, rstar@32, "
            "verify@32, peer.",
            show_default="greedy,sc@8 and mcts or the recipe's",
        ),
    ] = None,
    run_file: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Run file to keep and go on with.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="tokens=N", help="Sampled tokens a problem that every strategy is given."
        ),
    ] = None,
    model: Model = None,
    discriminator: Discriminator = None,
    limit: Limit = None,
    config: ConfigSource = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure strategies: accuracy with its interval, tokens, calls, seconds, failures.

    With --budget every strategy is given the same: a comparison at equal cost. No search sees a
    reference answer; they are used afterwards to grade.
    """
    from rstar_math.cli import batch
    from rstar_math.search.strategy import parse_strategies

    settings = configure(config, [*(set_ or []), *_budget(budget)], model, discriminator)
    strategies = parse_strategies(strategy or f"greedy,sc@8,{settings.search.strategy}")
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


def _budget(text: str | None) -> list[str]:
    """A budget as settings."""
    from rstar_math.errors import ConfigError

    if text is None:
        return []
    if not re.fullmatch(r"tokens=[1-9]\d{0,11}", text):
        raise ConfigError(f"--budget {text!r} is not tokens=N; for example --budget tokens=2000.")
    return [f"search.{text}"]
