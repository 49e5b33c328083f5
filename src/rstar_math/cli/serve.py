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
    TrustConfig,
    configure,
    print_json,
    run,
    single_strategy,
)
from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.text import count_noun

KeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with accepted API keys, one per line; RSTAR_API_KEYS=A,B adds more.",
    ),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="Allow browser requests from this origin. Repeatable."),
]
ServedStrategy = Annotated[
    str | None,
    typer.Option(
        metavar="STRATEGY",
        help="Strategy of the model name rstar: mcts@16, sc@8, ...",
        show_default="the configured strategy",
    ),
]
Host = Annotated[
    str,
    typer.Option(
        metavar="HOST",
        help="Address to listen on; any other than the loopback requires API keys.",
    ),
]
Port = Annotated[
    int,
    typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 selects a free one."),
]
Concurrency = Annotated[
    int, typer.Option(min=1, metavar="N", help="Maximum number of requests that run at once.")
]
QueueSize = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", help="Maximum number of waiting requests; more get status 429."
    ),
]
MaxSeconds = Annotated[
    float,
    typer.Option(
        min=0.1,
        metavar="SECONDS",
        help="Time limit of a search; the answer is then the best so far.",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Maximum number of tokens that a search samples."),
]
MaxBody = Annotated[
    int, typer.Option(min=1, metavar="KIB", help="Maximum size of a request body, in KiB.")
]
TreeCount = Annotated[
    int, typer.Option(min=0, metavar="N", help="Number of recent search trees to keep.")
]
JsonLogs = Annotated[
    bool, typer.Option("--json-logs", help="Write the log as JSON, one object per line.")
]


def serve(
    model: Model = None,
    discriminator: Discriminator = None,
    strategy: ServedStrategy = None,
    config: ConfigSource = None,
    trust_config: TrustConfig = False,
    set_: Settings = None,
    host: Host = "127.0.0.1",
    port: Port = 8420,
    api_keys: KeyFile = None,
    allow_origin: Origins = None,
    concurrency: Concurrency = 8,
    queue: QueueSize = 256,
    max_seconds: MaxSeconds = 300.0,
    max_tokens: MaxTokens = None,
    max_body_kib: MaxBody = 1024,
    trees: TreeCount = 128,
    json_logs: JsonLogs = False,
) -> None:
    """Serve an OpenAI-compatible API that finds every answer by search.

    Clients select the search by the model name (rstar, rstar-fast, rstar-mcts16, ...) or by request
    fields; see docs/serving.md.
    """
    settings = configure(config, set_, model, discriminator, trusted=trust_config)
    name = single_strategy(strategy, settings, "serve").name
    search = settings.search.model_copy(update={"strategy": name})
    settings = settings.model_copy(update={"search": search})
    try:
        from rstar_math.serve.app import Capacity
        from rstar_math.serve.requests import ServerLimits
        from rstar_math.serve.server import ServerOptions, serve
        from rstar_math.web.access import AccessPolicy, load_keys, normalize_origins
    except ImportError as error:
        raise MissingDependencyError(
            f"rstar serve requires {error.name}; install it with: pip install 'rstar-math[serve]'"
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
    run(serve(settings, options), is_saved=None, download_for=settings)


def view(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run files, folders of runs, or JSON files of trees; two are compared.",
        ),
    ],
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="FILE", help="Write one self-contained HTML page instead."
        ),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(
            "--svg",
            metavar="ID",
            help="Write the tree of this problem as RUN.svg (or the --export file) instead.",
        ),
    ] = None,
    port: Port = 0,
    as_json: AsJson = False,
    open_: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            help="Open the page in the browser.",
            show_default="open unless exported",
        ),
    ] = None,
) -> None:
    """Show runs in the browser: every problem, its search tree and why its answer won.

    The page updates while a run is being written. Only this machine can reach it.
    """
    if picture is not None:
        _write_svg(runs, picture, export, as_json=as_json)
    elif export is not None:
        _export(runs, export, as_json=as_json)
        if open_:
            typer.launch(str(export))
    else:
        _serve(runs, port, as_json=as_json, open_=open_ is not False)


def _write_svg(runs: list[Path], problem: str, target: Path | None, *, as_json: bool) -> None:
    """Write the tree of one problem as an SVG picture."""
    from rstar_math.runs.store import RunStore
    from rstar_math.viewer.export import write_picture

    if len(runs) > 1:
        raise InputError("--svg accepts one run; pass only one.")
    target = target or Path(f"{runs[0]}.svg")
    with RunStore.read(runs[0]) as store:
        write_picture(store, problem, target)
    _report_file(target, 1, as_json=as_json)


def _export(runs: list[Path], target: Path, *, as_json: bool) -> None:
    """Write the self-contained page."""
    from contextlib import ExitStack

    from rstar_math.viewer.export import write_page
    from rstar_math.viewer.sources import open_source, run_files

    with ExitStack() as stack:
        sources = []
        for path in run_files(runs):
            sources.append(open_source(path))
            stack.callback(sources[-1].close)
        trees = write_page(sources, target)
    _report_file(target, trees, as_json=as_json)


def _report_file(target: Path, trees: int, *, as_json: bool) -> None:
    """Print the written file and its number of trees."""
    if as_json:
        print_json({"file": str(target), "trees": trees})
    else:
        typer.echo(f"{target}: {count_noun(trees, 'tree')}")


def _serve(runs: list[Path], port: int, *, as_json: bool, open_: bool) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from rstar_math.viewer.app import serve_viewer
    except ImportError as error:
        raise MissingDependencyError(
            f"rstar view requires {error.name}; install it with: pip install 'rstar-math[serve]', "
            "or write the page to a file with --export FILE"
        ) from error

    def on_ready(url: str) -> None:
        if as_json:
            print_json({"url": url})
            sys.stdout.flush()
        else:
            typer.echo(f"{url}  (press Ctrl-C to stop)", err=True)
        if open_:
            typer.launch(url)

    with suppress(KeyboardInterrupt):
        asyncio.run(serve_viewer(runs, port, on_ready))
