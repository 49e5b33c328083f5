"""Options that several verbs share, and how a verb's coroutine is run."""

import asyncio
import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rstar_math.config import Config
    from rstar_math.search.strategy import Strategy

T = TypeVar("T")

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="local (embedded), trained (the same after training), a .gguf file, hf:FOLDER, "
        "vllm:FOLDER, or http://host:port/v1 (of several servers with commas).",
        show_default="local",
    ),
]
Discriminator = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Second model that checks the work of rstar; by default the same model.",
    ),
]
ConfigSource = Annotated[
    str | None,
    typer.Option(
        "--config",
        "--recipe",
        metavar="NAME",
        help="A preset (laptop, which comes with the embedded model, rstar, ...) or a TOML file.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set one option, as in search.rollouts=32. Repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Take the first N problems.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Search on the workers of a Ray cluster: auto (the one this machine belongs to), "
        "HOST:PORT or ray://HOST:PORT.",
        show_default="this process searches",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Search every N-th problem from the I-th on; rstar merge makes the runs one.",
    ),
]
ProblemFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="JSONL with problem, and answer if known.")
]


def configure(
    source: str | None,
    settings: list[str] | None,
    model: str | None,
    discriminator: str | None = None,
) -> "Config":
    """The configuration that a command line asks for."""
    from rstar_math.config import load_config

    return load_config(source, settings or (), model=model, discriminator=discriminator)


def one_strategy(text: str | None, config: "Config", verb: str) -> "Strategy":
    """The strategy that a command line asks for, or the configuration's own."""
    from rstar_math.errors import InputError
    from rstar_math.search.strategy import parse_strategies

    chosen, *others = parse_strategies(text or config.search.strategy)
    if others:
        raise InputError(f"rstar {verb} takes one strategy; compare several with rstar eval.")
    return chosen


def run(work: Coroutine[Any, Any, T], *, kept: bool | None) -> T:
    """The result of a coroutine; Ctrl-C ends it cleanly and the process with code 130.

    `kept` says whether what was finished by then is in a run; None where nothing is to be kept.
    """
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        state = {True: "; what was finished is kept", False: "; nothing was kept", None: ""}[kept]
        print(f"\nrstar: stopped{state}.", file=sys.stderr)
        raise typer.Exit(130) from None


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
