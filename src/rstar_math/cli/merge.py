"""`rstar merge`: the runs of shards, or of several machines, as one."""

from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import AsJson, print_json


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Run file to make or to go on with.")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs to put into it.")],
    as_json: AsJson = False,
) -> None:
    """Put several runs into one, as if one command had made it. The runs are left as they are.

    They must have been made under the same conditions. A search that two runs hold is taken once,
    the first; merging again changes nothing.
    """
    from dataclasses import asdict

    from rstar_math.cli import show
    from rstar_math.evolution import shards

    with show.err.status("merging ...") as status:
        read = 0

        def note(more: int) -> None:
            nonlocal read
            read += more
            status.update(f"merging: {read:,} results read ...")

        found = shards.merge(out, runs, note)
    if as_json:
        print_json({"run": str(out), **asdict(found)})
        return
    typer.echo(
        f"{out} holds {found.problems:,} problems and {found.results:,} results, "
        f"{found.added:,} of them new."
    )
    if found.twice:
        typer.echo(
            f"{found.twice:,} were there already; {found.differing:,} of these differ and the "
            "first was kept."
        )
