"""`rstar eval`, `report`, `benchmarks` and `strategies`."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstar_math.cli.options import (
    AsJson,
    Cluster,
    ConfigSource,
    Discriminator,
    Limit,
    Model,
    Part,
    Settings,
    configure,
    print_json,
    run,
)

if TYPE_CHECKING:
    from rstar_math.cli.jobs import OpenJob
    from rstar_math.config.sections import Config
    from rstar_math.evaluation.metrics import Summary
    from rstar_math.evaluation.sanity import SanityCheck
    from rstar_math.types import Problem


def strategies(as_json: AsJson = False) -> None:
    """List the strategies: what each does, and its size.

    Use one with: rstar solve --strategy NAME@SIZE
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
        display.out.print(display.listed_strategies(rows))


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

    from rstar_math.cli import display
    from rstar_math.problems.benchmarks import DATA_VARIABLE, all_benchmarks, find_benchmark

    folder = data or Path(os.environ.get(DATA_VARIABLE, "."))
    chosen = all_benchmarks() if name is None else (find_benchmark(name),)
    rows = [asdict(one) | {"file": (f := one.file(folder)) and str(f)} for one in chosen]
    if as_json:
        print_json({"benchmarks": rows})
    elif name is None:
        display.out.print(display.listed_benchmarks(rows))
    else:
        for key, value in rows[0].items():
            display.out.print(f"{key:8} {'-' if value in (None, '') else value}", markup=False)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run files.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write it.")] = Path(
        "report"
    ),
    plots: Annotated[bool, typer.Option(help="Draw plots (needs matplotlib).")] = True,
    trees: Annotated[bool, typer.Option(help="Write each run's trees beside it.")] = True,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Write logs of inspect_ai too, one a strategy.")
    ] = False,
    lm_eval: Annotated[
        bool, typer.Option("--lm-eval", help="Write results files of lm-eval too.")
    ] = False,
    as_json: AsJson = False,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write a report on one or more runs: report.md, report.html and pages of their trees.

    Shares with intervals, expected results of k attempts, paired tests, accuracy against cost, the
    papers' figures beside ours, every problem under every strategy, and what it takes to repeat it.
    """
    from rstar_math.evaluation.interchange import export_names, write_inspect_logs, write_lm_eval

    named = list(zip(runs, export_names(runs), strict=True))
    written = run(_write(runs, out, plots=plots, trees=trees), kept=False)
    if inspect:
        written += [
            log for path, name in named for log in write_inspect_logs(path, out / "inspect", name)
        ]
    if lm_eval:
        written += [write_lm_eval(path, out / "lm-eval", name) for path, name in named]
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            typer.echo(path)
    if open_:
        typer.launch(str(written[1]))


async def _write(runs: list[Path], out: Path, *, plots: bool, trees: bool) -> list[Path]:
    """The files of a report."""
    from rstar_math.evaluation.report import write_report
    from rstar_math.evaluation.results import AnswerJudge
    from rstar_math.grading.grader import Grader
    from rstar_math.types import Verdict
    from rstar_math.viewer.app import write_page

    async with Grader() as grader:

        async def judge(answer: str, reference: str) -> Verdict:
            return await grader.verifier(reference).judge(answer)

        grading = AnswerJudge(grader.group, judge)
        return await write_report(
            runs, out, grading, plots=plots, write_trees=write_page if trees else None
        )


Strategies = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated names of rstar strategies, with sizes: greedy, sc@8, mcts@16, "
        "mcts@16x4 (4 runs), rstar@32; or module:SPEC of your own.",
        show_default="greedy,sc@8 and mcts or the recipe's",
    ),
]
RunFile = Annotated[
    Path | None, typer.Option("--run", metavar="RUN", help="Run file to keep and go on with.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="tokens=N",
        help="Sampled tokens per problem that every strategy is given; total=N counts prompt "
        "tokens too.",
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Then look for leaks of the answers, a prompt that does not fit the model, and a "
        "plain baseline that is as good.",
    ),
]
Published = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        metavar="PERCENT",
        help="With --check: the model's published score on this set.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Instead of FILE: a name that rstar benchmarks lists, or "
        "hf:NAME:CONFIG@SPLIT?question=COLUMN&answer=COLUMN, or gym:NAME?size=100.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FOLDER", help="Folder of local sets.", show_default="$RSTAR_DATA"
    ),
]
AnyFile = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="JSONL with problem and answer.")
]


def evaluate(
    file: AnyFile = None,
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
    shard: Part = None,
    limit: Limit = None,
    config: ConfigSource = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure strategies: accuracy with its interval, tokens, calls, seconds, failures.

    With --budget every strategy is given the same: a comparison at equal cost. No search sees a
    reference answer; they are used afterwards to grade, and --check proves it.
    """
    from rstar_math.cli import jobs
    from rstar_math.search.strategies import parse_strategies

    share = _share(published, check=check)
    settings = configure(config, [*(set_ or []), *_budget(budget)], model, discriminator)
    strategies = parse_strategies(strategy or f"greedy,sc@8,{settings.search.strategy}")
    given, name = _given(file, dataset, data, limit)
    job = jobs.Job(
        file,
        run_file,
        limit,
        strategies,
        graded=True,
        given=given,
        cluster=cluster,
        shard=jobs.parse_shard(shard),
    )
    with jobs.open_job(job, settings) as opened:
        needs = None if cluster else settings
        run(opened.work(settings), kept=run_file is not None, needs=needs)
        rows = [opened.summary(s) for s in strategies]
        gates = _gates(opened, settings, share) if check else None
    if as_json:
        report = {
            "file": name,
            "run": run_file and str(run_file),
            "strategies": [row.as_json() for row in rows],
            **opened.cluster_json(),
            **opened.servers_json(),
        }
        if gates is not None:
            report["check"] = [gate.as_json() for gate in gates]
        print_json(report)
    else:
        _show(rows, gates or [])
    if any(gate.state == "failed" for gate in gates or []):
        raise typer.Exit(1)


def _given(
    file: Path | None, dataset: str | None, data: Path | None, limit: int | None
) -> "tuple[list[Problem] | None, str]":
    """The problems of a data set (None: those of the file), and what they are called."""
    from rstar_math.errors import ConfigError
    from rstar_math.problems.benchmarks import load_benchmark

    if dataset is None:
        return None, str(file)
    if file is not None:
        raise ConfigError("Both FILE and --dataset name problems; give one of them.")
    loaded = load_benchmark(dataset, folder=data, limit=limit)
    if loaded.note:
        typer.echo(f"rstar: {loaded.note}", err=True)
    return loaded.problems, loaded.name


def _show(rows: "list[Summary]", gates: "list[SanityCheck]") -> None:
    """The table, and a line a gate."""
    from rstar_math.cli import display

    display.out.print(display.summaries(rows))
    for gate in gates:
        display.out.print(display.gate_line(gate), soft_wrap=True)


def _share(published: float | None, *, check: bool) -> float | None:
    """A published score as a share in [0, 1]."""
    from rstar_math.errors import ConfigError

    if published is not None and not check:
        raise ConfigError("--published is held against the plain baseline of --check; add --check.")
    return None if published is None else published / 100


def _gates(job: "OpenJob", settings: "Config", published: float | None) -> "list[SanityCheck]":
    """The gates of --check."""
    from rstar_math.cli.sanity import gates

    return run(gates(job, settings, published), kept=True)


def _budget(text: str | None) -> list[str]:
    """A budget as settings."""
    from rstar_math.errors import ConfigError

    if text is None:
        return []
    match = re.fullmatch(r"(tokens|total)=([1-9]\d{0,11})", text)
    if match is None:
        raise ConfigError(
            f"--budget {text!r} is neither tokens=N nor total=N; for example --budget tokens=2000."
        )
    kind = "total" if match[1] == "total" else "sampled"
    return [f"search.token_budget={match[2]}", f"search.budget={kind}"]
