"""`rstar eval`: strategies side by side on one set of problems."""

import re
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
    from rstar_math.cli.batch import OpenJob
    from rstar_math.config import Config
    from rstar_math.evaluation.metrics import Summary
    from rstar_math.evaluation.sanity import Gate
    from rstar_math.types import Problem


Strategies = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated: greedy, sc@8, bon@8, beam@8, dvts@8, tot, rap, value, mcts, "
        "mcts@16, mcts@16x4 (4 runs); in words: zero, cot, cot@8, gen@32, rstar@32, verify@32, "
        "peer.",
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
    from rstar_math.cli import batch
    from rstar_math.search.strategy import parse_strategies

    share = _share(published, check=check)
    settings = configure(config, [*(set_ or []), *_budget(budget)], model, discriminator)
    strategies = parse_strategies(strategy or f"greedy,sc@8,{settings.search.strategy}")
    given, name = _given(file, dataset, data, limit)
    job = batch.Job(
        file,
        run_file,
        limit,
        strategies,
        graded=True,
        given=given,
        cluster=cluster,
        shard=batch.part(shard),
    )
    with batch.opened(job, settings) as opened:
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
    from rstar_math.evaluation.sources import load

    if dataset is None:
        return None, str(file)
    if file is not None:
        raise ConfigError("Both FILE and --dataset name problems; give one of them.")
    loaded = load(dataset, folder=data, limit=limit)
    if loaded.note:
        typer.echo(f"rstar: {loaded.note}", err=True)
    return loaded.problems, loaded.name


def _show(rows: "list[Summary]", gates: "list[Gate]") -> None:
    """The table, and a line a gate."""
    from rstar_math.cli import show

    show.out.print(show.summaries(rows))
    for gate in gates:
        show.out.print(show.gate_line(gate), soft_wrap=True)


def _share(published: float | None, *, check: bool) -> float | None:
    """A published score as a share in [0, 1]."""
    from rstar_math.errors import ConfigError

    if published is not None and not check:
        raise ConfigError("--published is held against the plain baseline of --check; add --check.")
    return None if published is None else published / 100


def _gates(job: "OpenJob", settings: "Config", published: float | None) -> "list[Gate]":
    """The gates of --check."""
    from rstar_math.cli.checking import gates

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
    return [f"search.tokens={match[2]}", f"search.budget={kind}"]
