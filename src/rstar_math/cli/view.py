"""`rstar view`: the trees of a run as a page."""

from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import AsJson, print_json


def view(
    run_file: Annotated[Path, typer.Argument(metavar="RUN", help="A run file.")],
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="FILE", help="Where to write it.", show_default="RUN.html"
        ),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(
            "--picture", metavar="ID", help="Write the tree of this problem as RUN.svg instead."
        ),
    ] = None,
    as_json: AsJson = False,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write one self-contained HTML page with every tree of a run."""
    from rstar_math.evolution.store import RunStore
    from rstar_math.serve.page import write_page, write_picture

    target = export or Path(f"{run_file}.{'html' if picture is None else 'svg'}")
    with RunStore.read(run_file) as store:
        trees = 1
        if picture is None:
            trees = write_page(store, target)
        else:
            write_picture(store, picture, target)
    if as_json:
        print_json({"file": str(target), "trees": trees})
    else:
        typer.echo(f"{target}: {trees} tree{'' if trees == 1 else 's'}")
    if open_:
        typer.launch(str(target))
