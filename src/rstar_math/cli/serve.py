"""`rstar serve` and `rstar view`."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import (
    AsJson,
    ConfigSource,
    Discriminator,
    Model,
    Settings,
    configure,
    one_strategy,
    print_json,
    run,
)
from rstar_math.errors import InputError, MissingDependencyError

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
    max_body_kib: Annotated[int, typer.Option(min=1, help="Largest request, in KiB.")] = 1024,
    trees: Annotated[int, typer.Option(min=0, help="Trees of last answers to keep.")] = 128,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log JSON, one a line.")] = False,
) -> None:
    """Serve the OpenAI API; every answer is searched for.

    Clients choose the search by the model's name (rstar, rstar-fast, rstar-mcts16, ...) or by
    fields; see docs/serving.md.
    """
    from rstar_math.errors import MissingDependencyError

    settings = configure(config, set_, model, discriminator)
    chosen = one_strategy(strategy, settings, "serve").name
    search = settings.search.model_copy(update={"strategy": chosen})
    settings = settings.model_copy(update={"search": search})
    try:
        from rstar_math.serve.app import Capacity
        from rstar_math.serve.requests import ServerLimits
        from rstar_math.serve.server import ServerOptions, serve
        from rstar_math.web.access import AccessPolicy, load_keys, normalize_origins
    except ImportError as error:
        raise MissingDependencyError(
            f"rstar serve needs {error.name}; type: pip install 'rstar-math[serve]'"
        ) from error
    origins = normalize_origins(allow_origin or ())
    options = ServerOptions(
        host=host,
        port=port,
        limits=ServerLimits(search, max_seconds, max_tokens),
        capacity=Capacity(concurrency, queue, trees),
        access=AccessPolicy(load_keys(api_keys), origins, max_body_kib * 1024),
        json_logs=json_logs,
    )
    run(serve(settings, options), kept=None, needs=settings)


def view(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="A run, a folder of runs or the JSON of a tree; two side by side.",
        ),
    ],
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write one self-contained page instead."),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(
            "--svg", metavar="ID", help="Write the tree of this problem as RUN.svg instead."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes any that is free.")
    ] = 0,
    as_json: AsJson = False,
    open_: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            help="Open it in the browser.",
            show_default="if it is not exported",
        ),
    ] = None,
) -> None:
    """Show runs in the browser: every problem, its tree and why its answer won.

    A run that is being written is shown as it grows. Only this machine can reach the page.
    """
    if picture is not None:
        _draw(runs, picture, export, as_json=as_json)
    elif export is not None:
        _export(runs, export, as_json=as_json)
        if open_:
            typer.launch(str(export))
    else:
        _serve(runs, port, as_json=as_json, open_=open_ is not False)


def _draw(runs: list[Path], problem: str, target: Path | None, *, as_json: bool) -> None:
    """Write one tree as a picture."""
    from rstar_math.runs.store import RunStore
    from rstar_math.viewer.tree_svg import write_picture

    if len(runs) > 1:
        raise InputError("--svg draws a tree of one run; give one.")
    target = target or Path(f"{runs[0]}.svg")
    with RunStore.read(runs[0]) as store:
        write_picture(store, problem, target)
    _said(target, 1, as_json=as_json)


def _export(runs: list[Path], target: Path, *, as_json: bool) -> None:
    """Write the page."""
    from contextlib import ExitStack

    from rstar_math.viewer.app import write_page
    from rstar_math.viewer.sources import open_source, run_files

    with ExitStack() as held:
        sources = []
        for path in run_files(runs):
            sources.append(open_source(path))
            held.callback(sources[-1].close)
        trees = write_page(sources, target)
    _said(target, trees, as_json=as_json)


def _said(target: Path, trees: int, *, as_json: bool) -> None:
    """Say what was written."""
    if as_json:
        print_json({"file": str(target), "trees": trees})
    else:
        typer.echo(f"{target}: {trees} tree{'' if trees == 1 else 's'}")


def _serve(runs: list[Path], port: int, *, as_json: bool, open_: bool) -> None:
    """Show the page until Ctrl-C."""
    try:
        from rstar_math.viewer.app import serve_viewer
    except ImportError as error:
        raise MissingDependencyError(
            f"rstar view needs {error.name} to show a page; type: pip install "
            "'rstar-math[serve]', or write the page to a file with --export FILE"
        ) from error

    def ready(url: str) -> None:
        if as_json:
            print_json({"url": url})
            sys.stdout.flush()
        else:
            typer.echo(f"{url}  (Ctrl-C ends it)", err=True)
        if open_:
            typer.launch(url)

    with suppress(KeyboardInterrupt):
        asyncio.run(serve_viewer(runs, port, ready))
