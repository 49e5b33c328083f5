"""`rstar curate` and `rstar export`: a run's trees as training data or as raw rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from rstar_math.cli.options import AsJson, parse_section, print_json, run
from rstar_math.errors import ConfigError
from rstar_math.text import count_noun

if TYPE_CHECKING:
    from pydantic import BaseModel

    from rstar_math.runs.export import SearchedProblems
    from rstar_math.runs.store import RunStore
    from rstar_math.training.curation.records import Curated, CurationConfig, Data
    from rstar_math.training.layouts import Exported, Layout

Format = Annotated[
    Literal["jsonl", "parquet"],
    typer.Option("--format", help="File format; parquet requires the extra rstar-math[train]."),
]
StrategyNames = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Strategies to use, separated by commas; by default all in the run.",
    ),
]
DataKinds = Annotated[
    str,
    typer.Option(
        metavar="KINDS",
        help="Kinds of data, separated by commas: sft (solutions), preference (pairs), outcome "
        "(for an ORM), value (for a PQM).",
    ),
]


def curate(
    run_file: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run file that was searched with --guided.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Output folder.")],
    strategy: StrategyNames = None,
    data: DataKinds = "sft,preference",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set one option, for example curation.min_q_gap=0.5. Repeatable.",
        ),
    ] = None,
    format: Format = "jsonl",
    as_json: AsJson = False,
) -> None:
    """Select training data from a run's trees and report what was dropped and why.

    --set takes the options of the section curation, for example curation.min_q_gap=0.5.
    """
    from rstar_math.runs.export import SearchedProblems, require_parquet
    from rstar_math.runs.store import RunStore
    from rstar_math.training.dataset import DatasetSource, write_folder

    config, kinds = curation_config(set_ or ()), _kinds(data)
    if format == "parquet":
        require_parquet()
    with RunStore.read(run_file) as store:
        problems = SearchedProblems(store, None if strategy is None else strategy.split(","))
        problems.require_verdicts()
        curated = run(curate_problems(problems, config, kinds), is_saved=False)
        source = DatasetSource(
            run_file.name, store.digest(), store.conditions(), tuple(problems.strategies)
        )
    manifest = write_folder(out, curated, source, config, data=kinds, format=format)
    files = {name: entry["rows"] for name, entry in manifest["files"].items()}
    if as_json:
        report = {**manifest["report"], "trees_of_other_grammars": problems.left_out}
        report["suspects"] = [asdict(suspect) for suspect in curated.suspects]
        report["unreliable"] = manifest.get("unreliable", [])
        print_json({"run": str(run_file), "folder": str(out), "rows": files, **report})
        return
    from rstar_math.cli import tables

    tables.print_curated(curated, left_out=problems.left_out)
    counts = ", ".join(f"{count_noun(rows, 'row')} in {name}" for name, rows in files.items())
    typer.echo(f"{out}: {counts or 'no rows, because no data in the run qualifies'}")


async def curate_problems(
    problems: "SearchedProblems", config: "CurationConfig", kinds: Sequence["Data"]
) -> "Curated":
    """The training data of a run. Shows a progress bar and starts the grader only if needed."""
    from rstar_math.cli import display
    from rstar_math.training.curation.curate import curate as select
    from rstar_math.verification.judges import Judges

    async with Judges() as judges:
        with display.progress_bar("trees", len(problems), 0) as bar:
            tracked = bar.track(problems, total=len(problems), task_id=bar.task_ids[0])
            return await select(tracked, judges.grouper, config, kinds)


def curation_config(settings: Sequence[str]) -> "CurationConfig":
    """The curation options of a command line. Raises `ConfigError`."""
    from rstar_math.training.curation.records import CurationConfig

    return parse_section(CurationConfig, settings, "min_q_gap=0.5", "curation.")


def _kinds(text: str) -> list["Data"]:
    """The kinds of data in a comma-separated list. Raises `ConfigError`."""
    from rstar_math.training.curation.records import ALL_DATA

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ALL_DATA:
            raise ConfigError(
                f"Invalid value for --data: {name!r}; use one of {', '.join(ALL_DATA)}."
            )
    return [kind for kind in ALL_DATA if kind in names]


Trees = Annotated[bool, typer.Option("--trees", help="Export complete trees.")]
Trajectories = Annotated[bool, typer.Option("--trajectories", help="Export all complete paths.")]
Results = Annotated[
    bool, typer.Option("--results", help="Export one row per problem and strategy.")
]
Problems = Annotated[
    bool, typer.Option("--problems", help="Export the problems with their reference answers.")
]
Solutions = Annotated[
    bool, typer.Option("--solutions", help="Export the solutions that rstar curate selects.")
]
Pairs = Annotated[
    bool, typer.Option("--pairs", help="Export the preference pairs that rstar curate selects.")
]
Outcomes = Annotated[
    bool, typer.Option("--outcomes", help="Export whole solutions, labelled right or wrong.")
]
LayoutName = Annotated[
    Literal["trl", "verl", "openrlhf"],
    typer.Option(
        "--layout",
        help="Columns of problems, solutions, pairs and outcomes: those that TRL and datasets, "
        "verl (Parquet only) or OpenRLHF read.",
    ),
]
ExportFormat = Annotated[
    Literal["jsonl", "parquet"] | None,
    typer.Option(
        "--format",
        help="File format; parquet requires the extra rstar-math[train].",
        show_default="jsonl; parquet for verl",
    ),
]


def export(
    run_file: Annotated[Path, typer.Argument(metavar="RUN", help="A run file.")],
    trees: Trees = False,
    trajectories: Trajectories = False,
    results: Results = False,
    problems: Problems = False,
    solutions: Solutions = False,
    pairs: Pairs = False,
    outcomes: Outcomes = False,
    layout: LayoutName = "trl",
    format: ExportFormat = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Output file.", show_default="RUN.KIND.FORMAT"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export one kind of rows of a run to one file.

    Solutions, pairs and outcomes are those that rstar curate selects by default.
    """
    from rstar_math.runs.export import atomic_output, require_parquet, write_rows
    from rstar_math.runs.store import RunStore

    kinds = {"results": results, "trees": trees, "trajectories": trajectories}
    kinds |= {"problems": problems, "solutions": solutions, "pairs": pairs, "outcomes": outcomes}
    kind = _single_kind(kinds, layout, format)
    suffix: Literal["jsonl", "parquet"] = format or ("parquet" if layout == "verl" else "jsonl")
    target = out or Path(f"{run_file}.{kind}.{suffix}")
    if target.suffix != f".{suffix}":
        raise ConfigError(f"--out {target} must end in .{suffix}; rename it, or change --format.")
    if suffix == "parquet":
        require_parquet()
    with RunStore.read(run_file) as store:
        model, rows = _rows(kind, store, layout)
        with atomic_output(target) as path:
            count = write_rows(path, model, rows, format=suffix)
    if as_json:
        print_json({"file": str(target), "rows": count})
    else:
        typer.echo(f"{target}: {count_noun(count, 'row')}")


def _single_kind(kinds: Mapping[str, bool], layout: str, format: str | None) -> str:
    """The selected kind. Raises `ConfigError` if there is not exactly one, or if the layout or the
    format does not fit."""
    selected = [kind for kind, is_selected in kinds.items() if is_selected]
    if len(selected) != 1:
        names = [f"--{kind}" for kind in kinds]
        raise ConfigError(f"Pass exactly one of {', '.join(names[:-1])} and {names[-1]}.")
    if layout != "trl" and selected[0] in ("results", "trees", "trajectories"):
        raise ConfigError(f"--layout {layout} does not apply to --{selected[0]}; omit it.")
    if layout == "verl" and format == "jsonl":
        raise ConfigError("verl reads only Parquet; omit --format jsonl.")
    return selected[0]


def _rows(
    kind: str, store: "RunStore", layout: "Layout"
) -> tuple[type["BaseModel"], Iterator["BaseModel"]]:
    """The pydantic model of the rows, and the rows."""
    from rstar_math.runs.export import (
        SearchedProblems,
        TrajectoryRow,
        TreeRow,
        trajectory_rows,
        tree_rows,
    )
    from rstar_math.runs.table import ResultRow, result_rows
    from rstar_math.training.curation.records import CurationConfig
    from rstar_math.training.layouts import in_layout, problem_rows
    from rstar_math.training.rows import rows_of

    data: dict[str, Data] = {"solutions": "sft", "pairs": "preference", "outcomes": "outcome"}
    problems = SearchedProblems(store, any_grammar=kind not in data)
    if kind == "results":
        return ResultRow, result_rows(store)
    if kind == "trees":
        return TreeRow, tree_rows(problems)
    if kind == "trajectories":
        return TrajectoryRow, trajectory_rows(problems)
    if kind == "problems":
        return in_layout(layout, "problems", problem_rows(store.problems()))
    problems.require_verdicts()
    curated = run(curate_problems(problems, CurationConfig(), [data[kind]]), is_saved=False)
    return in_layout(layout, cast("Exported", kind), rows_of(curated, data[kind]))
