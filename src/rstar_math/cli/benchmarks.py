"""`rstar benchmarks`: the problem sets that are known by name."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rstar_math.cli.options import AsJson, print_json


def benchmarks(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Say all about one of them.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help="Folder of local sets.", show_default="$RSTAR_DATA"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the benchmarks: size, answers, licence, where they are, what is wrong with them.

    Use one with: rstar eval --dataset NAME
    """
    import os

    from rstar_math.cli import show
    from rstar_math.evaluation.benchmarks import benchmark
    from rstar_math.evaluation.benchmarks import benchmarks as known
    from rstar_math.evaluation.sources import FOLDER_VARIABLE

    folder = data or Path(os.environ.get(FOLDER_VARIABLE, "."))
    chosen = known() if name is None else (benchmark(name),)
    rows = [asdict(one) | {"file": (f := one.file(folder)) and str(f)} for one in chosen]
    if as_json:
        print_json({"benchmarks": rows})
    elif name is None:
        show.out.print(show.listed_benchmarks(rows))
    else:
        for key, value in rows[0].items():
            show.out.print(f"{key:8} {'-' if value in (None, '') else value}", markup=False)
