"""`rstar curate` and `rstar export`: trees of a run as training data or raw rows."""

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rstar_math.cli.options import AsJson, print_json, run, section_of
from rstar_math.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from rstar_math.runs.export import SearchedProblems
    from rstar_math.training.curation.records import Curated, CurationConfig, Data

Format = Annotated[
    Literal["jsonl", "parquet"],
    typer.Option("--format", help="Parquet needs the extra rstar-math[train]."),
]


def curate(
    run_file: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run that was searched with --guided.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to write.")],
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Comma-separated; by default all of the run."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="KINDS",
            help="Comma-separated: sft (solutions), preference (pairs), outcome (for an ORM), "
            "value (for a PQM), steps (step labels).",
        ),
    ] = "sft,preference",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set one option, as curation.min_q_gap=0.5. Repeatable.",
        ),
    ] = None,
    format: Format = "jsonl",
    as_json: AsJson = False,
) -> None:
    """Choose training data from a run's trees, and say what was dropped and why.

    Options with --set are those of the section curation, as in curation.min_q_gap=0.5.
    """
    from rstar_math.runs.export import SearchedProblems, require_parquet
    from rstar_math.runs.store import RunStore
    from rstar_math.training.dataset import DatasetSource, write_folder

    config, kinds = curation_config(set_ or ()), _kinds(data)
    if format == "parquet":
        require_parquet()
    with RunStore.read(run_file) as store:
        material = SearchedProblems(store, None if strategy is None else strategy.split(","))
        material.require_verdicts()
        found = run(curated(material, config, kinds), kept=False)
        origin = DatasetSource(
            run_file.name, store.digest(), store.conditions(), tuple(material.strategies)
        )
    mark = write_folder(out, found, origin, config, data=kinds, format=format)
    suspects = [asdict(one) for one in found.suspects]
    files = {name: entry["rows"] for name, entry in mark["files"].items()}
    if as_json:
        left_out = {"trees_of_other_grammars": material.left_out}
        report = {**mark["report"], **left_out, "suspects": suspects}
        report["unreliable"] = mark.get("unreliable", [])
        print_json({"run": str(run_file), "folder": str(out), "rows": files, **report})
        return
    from rstar_math.cli import tables

    tables.show_curated(found, left_out=material.left_out)
    said = ", ".join(f"{rows} rows in {name}" for name, rows in files.items())
    typer.echo(f"{out}: {said or 'no rows, since nothing in the run fits'}")


async def curated(
    material: "SearchedProblems", config: "CurationConfig", kinds: Sequence["Data"]
) -> "Curated":
    """The training data of a run, with a bar; the grader is started only if it is needed."""
    from rstar_math.cli import display
    from rstar_math.grading.grader import Grader
    from rstar_math.training.curation.curate import curate as choose

    graders: list[Grader] = []
    async with AsyncExitStack() as stack:

        async def group(answers: Sequence[str]) -> list[int]:
            if not graders:
                graders.append(await stack.enter_async_context(Grader()))
            return await graders[0].group(answers)

        with display.counting("trees", len(material), 0) as bar:
            watched = bar.track(material, total=len(material), task_id=bar.task_ids[0])
            return await choose(watched, group, config, kinds)


def curation_config(settings: Sequence[str]) -> "CurationConfig":
    """The options of a command line. Raises `ConfigError`."""
    from rstar_math.training.curation.records import CurationConfig

    return section_of(CurationConfig, settings, "min_q_gap=0.5", "curation.")


def _kinds(text: str) -> list["Data"]:
    """The kinds of data of a comma-separated list."""
    from rstar_math.training.curation.records import ALL_DATA

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ALL_DATA:
            raise ConfigError(f"--data {name!r} is none of {', '.join(ALL_DATA)}.")
    return [kind for kind in ALL_DATA if kind in names]


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
    from rstar_math.runs.export import SearchedProblems, atomic_output, require_parquet, write_rows
    from rstar_math.runs.store import RunStore

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
        model, rows = _rows(asked[0], SearchedProblems(store, any_grammar=asked[0] != "pairs"))
        with atomic_output(target) as path:
            count = write_rows(path, model, rows)
    if as_json:
        print_json({"file": str(target), "rows": count})
    else:
        typer.echo(f"{target}: {count} row{'' if count == 1 else 's'}")


def _rows(
    kind: str, material: "SearchedProblems"
) -> tuple[type["BaseModel"], Iterator["BaseModel"]]:
    """What is asked for, as the model of its rows and the rows."""
    from rstar_math.runs.export import TrajectoryRow, TreeRow, trajectory_rows, tree_rows
    from rstar_math.training.curation.records import CurationConfig
    from rstar_math.training.rows import PreferenceRow, rows_of

    if kind == "trees":
        return TreeRow, tree_rows(material)
    if kind == "trajectories":
        return TrajectoryRow, trajectory_rows(material)
    material.require_verdicts()
    found = run(curated(material, CurationConfig(), ["preference"]), kept=False)
    return PreferenceRow, rows_of(found, "preference")
