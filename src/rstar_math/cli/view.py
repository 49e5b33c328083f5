"""`rstar view`: runs in the browser."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import AsJson, print_json
from rstar_math.errors import InputError, MissingExtra


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
            "--picture", metavar="ID", help="Write the tree of this problem as RUN.svg instead."
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
    from rstar_math.evolution.store import RunStore
    from rstar_math.serve.picture import write_picture

    if len(runs) > 1:
        raise InputError("--picture draws a tree of one run; give one.")
    target = target or Path(f"{runs[0]}.svg")
    with RunStore.read(runs[0]) as store:
        write_picture(store, problem, target)
    _said(target, 1, as_json=as_json)


def _export(runs: list[Path], target: Path, *, as_json: bool) -> None:
    """Write the page."""
    from contextlib import ExitStack

    from rstar_math.serve.viewer.export import write_page
    from rstar_math.serve.viewer.sources import files_of, opened

    with ExitStack() as held:
        sources = []
        for path in files_of(runs):
            sources.append(opened(path))
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
        from rstar_math.serve.viewer.app import look
    except ImportError as error:
        raise MissingExtra(
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
        asyncio.run(look(runs, port, ready))
