"""`rstar search`: a file of problems into a run of trees."""

from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import (
    AsJson,
    Cluster,
    ConfigSource,
    Discriminator,
    Limit,
    Model,
    Part,
    ProblemFile,
    Settings,
    configure,
    one_strategy,
    print_json,
    run,
)


def search(
    file: ProblemFile,
    run_file: Annotated[
        Path, typer.Option("--run", metavar="RUN", help="Run file to write or to go on with.")
    ],
    model: Model = None,
    limit: Limit = None,
    guided: Annotated[
        bool,
        typer.Option(
            "--guided",
            help="Let the search see which ends are right: for training data, not for evaluation.",
        ),
    ] = False,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="One way to search, as for rstar eval.", show_default="mcts, or the recipe's"
        ),
    ] = None,
    discriminator: Discriminator = None,
    cluster: Cluster = None,
    shard: Part = None,
    config: ConfigSource = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Search every problem of a file and keep the trees in a run; started again, it goes on."""
    from rstar_math.cli import batch

    settings = configure(config, set_, model, discriminator)
    chosen = one_strategy(strategy, settings, "search")
    part = batch.part(shard)
    job = batch.Job(file, run_file, limit, [chosen], guided=guided, cluster=cluster, shard=part)
    with batch.opened(job, settings) as opened:
        run(opened.work(settings), kept=True, needs=None if cluster else settings)
        summary = opened.summary(chosen)
    if as_json:
        more = {**opened.cluster_json(), **opened.servers_json()}
        print_json({"run": str(run_file), **summary.as_json(), **more})
        return
    from rstar_math.cli import show

    show.out.print(show.summaries([summary]))
    typer.echo(f"Trees are in {run_file}; look at them with: rstar view {run_file}")
