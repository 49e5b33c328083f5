"""`rstar eval`, `report`, `benchmarks` and `strategies`."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import (
    AsJson,
    Cluster,
    ConfigSource,
    Discriminator,
    Limit,
    Model,
    Settings,
    ShardOption,
    TrackerNames,
    TrackerRun,
    TrustConfig,
    configure,
    name_by_budget,
    print_json,
    run,
    tracked_run,
)

if TYPE_CHECKING:
    from rstar_math.cli.jobs import OpenJob
    from rstar_math.config.sections import Config
    from rstar_math.evaluation.metrics import Summary
    from rstar_math.evaluation.sanity import SanityCheck
    from rstar_math.search.strategies import Strategy
    from rstar_math.types import Problem


def strategies(as_json: AsJson = False) -> None:
    """List the search strategies with their default sizes.

    Select one with: rstar solve --strategy NAME@SIZE
    """
    from rstar_math.cli import display
    from rstar_math.search.strategies import STRATEGIES

    rows = [
        {
            "name": name,
            "default_size": spec.default_size,
            "scorer": spec.scorer,
            "summary": spec.summary,
        }
        for name, spec in STRATEGIES.items()
    ]
    if as_json:
        print_json({"strategies": rows})
    else:
        display.out.print(display.strategy_table(rows))


def benchmarks(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show the details of one benchmark.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Folder with benchmark files.",
            show_default="$RSTAR_DATA",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the benchmarks: size, answer type, licence, source.

    Run one with: rstar eval --dataset NAME
    """
    import os

    from rstar_math.cli import display
    from rstar_math.problems.benchmarks import DATA_VARIABLE, all_benchmarks, find_benchmark

    folder = data or Path(os.environ.get(DATA_VARIABLE, "."))
    selected = all_benchmarks() if name is None else (find_benchmark(name),)
    rows = [asdict(b) | {"file": (file := b.file(folder)) and str(file)} for b in selected]
    if as_json:
        print_json({"benchmarks": rows})
    elif name is None:
        display.out.print(display.benchmark_table(rows))
    else:
        for key, value in rows[0].items():
            display.out.print(f"{key:8} {'-' if value in (None, '') else value}", markup=False)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run files.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Output folder.")] = Path(
        "report"
    ),
    plots: Annotated[bool, typer.Option(help="Draw plots (requires matplotlib).")] = True,
    trees: Annotated[bool, typer.Option(help="Write a page with the trees of each run.")] = True,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Also write inspect_ai logs, one per strategy.")
    ] = False,
    lm_eval: Annotated[
        bool, typer.Option("--lm-eval", help="Also write lm-eval result files.")
    ] = False,
    as_json: AsJson = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
) -> None:
    """Write a report on one or more runs: report.md, report.html and pages with their trees.

    The report contains accuracies with intervals, pass@k estimates, paired tests, accuracy by cost,
    published figures, every problem's result, and the commands and options to reproduce it.
    """
    from rstar_math.evaluation.interchange import export_names, write_inspect_logs, write_lm_eval

    run_names = list(zip(runs, export_names(runs), strict=True))
    written = run(_write(runs, out, plots=plots, trees=trees), is_saved=False)
    if inspect:
        written += [
            log
            for path, name in run_names
            for log in write_inspect_logs(path, out / "inspect", name)
        ]
    if lm_eval:
        written += [write_lm_eval(path, out / "lm-eval", name) for path, name in run_names]
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            typer.echo(path)
    if open_:
        typer.launch(str(written[1]))


async def _write(runs: list[Path], out: Path, *, plots: bool, trees: bool) -> list[Path]:
    """Write the report and return its files."""
    from rstar_math.evaluation.report import write_report
    from rstar_math.evaluation.results import AnswerJudge
    from rstar_math.verification.judges import Judges
    from rstar_math.viewer.export import write_page

    async with Judges() as judges:
        grading = AnswerJudge(judges.grouper, judges.judge)
        return await write_report(
            runs, out, grading, plots=plots, write_trees=write_page if trees else None
        )


Strategies = Annotated[
    str | None,
    typer.Option(
        metavar="STRATEGIES",
        help="Strategies, separated by commas, with sizes after @: greedy, sc@8, mcts@16, "
        "mcts@16x4 (4 runs), rstar@32, or your own module:SPEC. See rstar strategies.",
        show_default="greedy,sc@8 and the configured strategy, or mcts",
    ),
]
RunFile = Annotated[
    Path | None, typer.Option("--run", metavar="RUN", help="Run file to write or resume.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="tokens=N",
        help="Token budget per problem, equal for all strategies: tokens=N counts sampled tokens, "
        "total=N also prompt tokens.",
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Check for answer leaks, for a prompt that does not fit the model, and for a plain "
        "baseline that is as good.",
    ),
]
Published = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        metavar="PERCENT",
        help="Published score of the model on this benchmark, for --check.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Benchmark instead of FILE: a name from rstar benchmarks, hf:NAME:CONFIG@SPLIT or "
        "gym:NAME?size=100. Add ?question=KEY&answer=KEY to name the columns.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FOLDER", help="Folder with benchmark files.", show_default="$RSTAR_DATA"
    ),
]
OptionalFile = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="JSONL file with the fields problem and answer."),
]


def evaluate(
    file: OptionalFile = None,
    dataset: Dataset = None,
    data: Data = None,
    strategy: Strategies = None,
    run_file: RunFile = None,
    budget: Budget = None,
    check: Check = False,
    published: Published = None,
    model: Model = None,
    discriminator: Discriminator = None,
    cluster: Cluster = None,
    shard: ShardOption = None,
    limit: Limit = None,
    config: ConfigSource = None,
    trust_config: TrustConfig = False,
    set_: Settings = None,
    tracker: TrackerNames = None,
    tracker_run: TrackerRun = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate strategies: accuracy with interval, tokens, calls, seconds, failures.

    --budget compares strategies at equal cost. Searches never see the reference answers, which are
    used only for grading; --check verifies this.
    """
    from rstar_math.cli import jobs

    published_share = _published_share(published, check=check)
    settings = configure(
        config, [*(set_ or []), *_budget(budget)], model, discriminator, trusted=trust_config
    )
    strategies = _strategies(strategy, settings)
    problems, name = _load_dataset(file, dataset, data, limit)
    job = jobs.Job(
        file,
        run_file,
        limit,
        strategies,
        graded=True,
        problems=problems,
        cluster=cluster,
        shard=jobs.parse_shard(shard),
        tracked=tracked_run(tracker, tracker_run, run_file.stem if run_file else "eval"),
    )
    with jobs.open_job(job, settings) as opened:
        search = opened.run(settings)
        run(search, is_saved=run_file is not None, download_for=None if cluster else settings)
        rows = [opened.summary(s) for s in strategies]
        checks = _run_checks(opened, settings, published_share) if check else None
    if as_json:
        report: dict[str, Any] = {"file": name, "run": run_file and str(run_file)}
        report |= {"strategies": [row.as_json() for row in rows], **opened.statistics_json()}
        report |= {} if checks is None else {"check": [result.as_json() for result in checks]}
        print_json(report)
    else:
        _show(rows, checks or [])
    if any(result.state == "failed" for result in checks or []):
        raise typer.Exit(1)


def _load_dataset(
    file: Path | None, dataset: str | None, data: Path | None, limit: int | None
) -> "tuple[list[Problem] | None, str]":
    """The problems of a dataset and its name. Without a dataset: None and the name of the file."""
    from rstar_math.errors import ConfigError
    from rstar_math.problems.benchmarks import load_benchmark

    if dataset is None:
        return None, str(file)
    if file is not None:
        raise ConfigError("FILE and --dataset cannot be combined; pass one of them.")
    loaded = load_benchmark(dataset, folder=data, limit=limit)
    if loaded.note:
        typer.echo(f"rstar: {loaded.note}", err=True)
    return loaded.problems, loaded.name


def _show(rows: "list[Summary]", checks: "list[SanityCheck]") -> None:
    """Print the table and one line per check."""
    from rstar_math.cli import display

    display.out.print(display.summary_table(rows))
    for check in checks:
        display.out.print(display.check_line(check), soft_wrap=True)


def _strategies(text: str | None, settings: "Config") -> "list[Strategy]":
    """The strategies to compare, by default greedy, sc@8 and the configured one or mcts."""
    from rstar_math.search.strategies import parse_strategies

    configured = settings.search.strategy
    default = f"greedy,sc@8,{'mcts' if configured in ('greedy', 'sc@8') else configured}"
    return name_by_budget(parse_strategies(text or default), settings)


def _published_share(published: float | None, *, check: bool) -> float | None:
    """A published score as a share in [0, 1]. Raises `ConfigError` without --check."""
    from rstar_math.errors import ConfigError

    if published is not None and not check:
        raise ConfigError(
            "--published requires --check, which compares it with the plain baseline; add --check."
        )
    return None if published is None else published / 100


def _run_checks(job: "OpenJob", settings: "Config", published: float | None) -> "list[SanityCheck]":
    """The results of --check."""
    from rstar_math.cli.sanity import run_checks

    return run(run_checks(job, settings, published), is_saved=True)


def _budget(text: str | None) -> list[str]:
    """The settings of a token budget. Raises `ConfigError`."""
    from rstar_math.errors import ConfigError

    if text is None:
        return []
    match = re.fullmatch(r"(tokens|total)=([1-9]\d{0,11})", text)
    if match is None:
        raise ConfigError(
            f"Invalid value for --budget: {text!r} (expected tokens=N or total=N, for example "
            "tokens=2000)."
        )
    kind = "total" if match[1] == "total" else "sampled"
    return [f"search.token_budget={match[2]}", f"search.budget={kind}"]
