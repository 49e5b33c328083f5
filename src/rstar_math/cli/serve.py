"""`rstar serve`: an OpenAI-compatible server whose answers are searched for."""

from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import (
    ConfigSource,
    Discriminator,
    Model,
    Settings,
    configure,
    one_strategy,
    run,
)

KeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="API keys that are taken, one a line; also RSTAR_API_KEYS=A,B."
    ),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="A site whose pages may ask. Repeatable."),
]


def serve(
    model: Model = None,
    discriminator: Discriminator = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="What the model name rstar stands for: mcts@16, sc@8, ...",
            show_default="mcts, or the recipe's",
        ),
    ] = None,
    config: ConfigSource = None,
    set_: Settings = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; any but the loopback needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8420,
    api_keys: KeyFile = None,
    allow_origin: Origins = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests searched for at once.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="Requests that wait; others get 429.")] = 256,
    max_seconds: Annotated[
        float, typer.Option(min=0.1, help="Longest search; then the best answer so far is given.")
    ] = 300.0,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens that a search samples.")
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Largest request, in KiB.")] = 1024,
    trees: Annotated[int, typer.Option(min=0, help="Trees of last answers to keep.")] = 128,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log JSON, one a line.")] = False,
) -> None:
    """Serve the OpenAI API; every answer is searched for.

    Clients choose the search by the model's name (rstar, rstar-fast, rstar-mcts16, ...) or by
    fields; see docs/serving.md.
    """
    from rstar_math.errors import MissingExtra

    settings = configure(config, set_, model, discriminator)
    chosen = one_strategy(strategy, settings, "serve").name
    search = settings.search.model_copy(update={"strategy": chosen})
    settings = settings.model_copy(update={"search": search})
    try:
        from rstar_math.serve.api import Limits
        from rstar_math.serve.door import Rules, sites
        from rstar_math.serve.keys import load_keys
        from rstar_math.serve.listening import Options, listen
        from rstar_math.serve.orders import Terms
    except ImportError as error:
        raise MissingExtra(
            f"rstar serve needs {error.name}; type: pip install 'rstar-math[serve]'"
        ) from error
    options = Options(
        host=host,
        port=port,
        terms=Terms(search, max_seconds, max_tokens),
        limits=Limits(concurrency, queue, trees),
        rules=Rules(load_keys(api_keys), sites(allow_origin or ()), max_body * 1024),
        json_logs=json_logs,
    )
    run(listen(settings, options), kept=None, needs=settings)
