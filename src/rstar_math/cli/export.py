"""`rstar export`: what a run holds as one file of rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstar_math.cli.curate import Format, curated
from rstar_math.cli.options import AsJson, print_json, run
from rstar_math.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from rstar_math.training.material import Material


def export(
    run_file: Annotated[Path, typer.Argument(metavar="RUN", help="A run file.")],
    trees: Annotated[bool, typer.Option("--trees", help="Whole trees.")] = False,
    trajectories: Annotated[
        bool, typer.Option("--trajectories", help="All paths that came to an end.")
    ] = False,
    pairs: Annotated[
        bool,
        typer.Option("--pairs", help="Preference pairs as rstar curate makes them by default."),
    ] = False,
    format: Format = "jsonl",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write.", show_default="RUN.KIND.FORMAT"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's trees, its paths or its preference pairs to one file of rows."""
    from rstar_math.evolution.store import RunStore
    from rstar_math.training.export.files import require_parquet, whole, write_rows
    from rstar_math.training.material import Material

    kinds = {"trees": trees, "trajectories": trajectories, "pairs": pairs}
    asked = [kind for kind, wanted in kinds.items() if wanted]
    if len(asked) != 1:
        raise ConfigError("Give one of --trees, --trajectories and --pairs.")
    target = out or Path(f"{run_file}.{asked[0]}.{format}")
    if target.suffix != f".{format}":
        raise ConfigError(f"--out {target} does not end in .{format}; rename it, or see --format.")
    if format == "parquet":
        require_parquet()
    with RunStore.read(run_file) as store:
        model, rows = _rows(asked[0], Material(store, any_grammar=asked[0] != "pairs"))
        with whole(target) as path:
            count = write_rows(path, model, rows)
    if as_json:
        print_json({"file": str(target), "rows": count})
    else:
        typer.echo(f"{target}: {count} row{'' if count == 1 else 's'}")


def _rows(kind: str, material: "Material") -> tuple[type["BaseModel"], Iterator["BaseModel"]]:
    """What is asked for, as the model of its rows and the rows."""
    from rstar_math.training.curation import CurationConfig
    from rstar_math.training.export.raw import TrajectoryRow, TreeRow, trajectory_rows, tree_rows
    from rstar_math.training.export.rows import PreferenceRow, rows_of

    if kind == "trees":
        return TreeRow, tree_rows(material)
    if kind == "trajectories":
        return TrajectoryRow, trajectory_rows(material)
    material.require_verdicts()
    found = run(curated(material, CurationConfig(), ["preference"]), kept=False)
    return PreferenceRow, rows_of(found, "preference")
