"""Options that several commands share, and how a command runs its coroutine."""

import asyncio
import json
import sys
from collections.abc import Coroutine, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from rstar_math.config.sections import Config
    from rstar_math.search.strategies import Strategy

T = TypeVar("T")
S = TypeVar("S", bound="BaseModel")
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="local (embedded), trained (the same after training), a short name of rstar models "
        "list, a .gguf file, hf:ORG/NAME:Q4_K_M (GGUF of the hub), hf:ORG/NAME or hf:FOLDER, "
        "vllm:ORG/NAME or vllm:FOLDER, or http://host:port/v1 (of several servers with commas).",
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
    from rstar_math.config.loading import load_config

    return load_config(source, settings or (), model=model, discriminator=discriminator)


def section_of(kind: type[S], given: Sequence[str], example: str, prefix: str = "") -> S:
    """A section with `key=value` settings over its defaults; before each key stands `prefix`.

    Raises `ConfigError`.
    """
    from pydantic import ValidationError

    from rstar_math.config.loading import explain, setting_value
    from rstar_math.errors import ConfigError

    values: dict[str, object] = {}
    for setting in given:
        key, eq, value = setting.partition("=")
        name = key.strip()
        if not eq or not name.startswith(prefix) or name == prefix:
            raise ConfigError(
                f"--set {setting!r} is not {prefix}key=value; for example --set {prefix}{example}."
            )
        values[name.removeprefix(prefix)] = setting_value(value.strip())
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = explain(error, prefix=prefix)
        hint = ""
        if fault.kind == "unknown":
            near = get_close_matches(fault.key, kind.model_fields, 1)
            known = f"; there are {', '.join(kind.model_fields)}"
            hint = f"; the nearest is {prefix}{near[0]}" if near else known
        raise ConfigError(f"--set: {fault.message}{hint}.") from None


def one_strategy(text: str | None, config: "Config", verb: str) -> "Strategy":
    """The strategy that a command line asks for, or the configuration's own."""
    from rstar_math.errors import InputError
    from rstar_math.search.strategies import parse_strategies

    chosen, *others = parse_strategies(text or config.search.strategy)
    if others:
        raise InputError(f"rstar {verb} takes one strategy; compare several with rstar eval.")
    return chosen


def run(work: Coroutine[Any, Any, T], *, kept: bool | None, needs: "Config | None" = None) -> T:
    """The result of a coroutine; Ctrl-C ends it cleanly and the process with code 130.

    `kept` says whether what was finished by then is in a run; None where nothing is to be kept. The
    models that the configuration `needs` names are downloaded first.
    """
    try:
        if needs is not None:
            from rstar_math.cli.downloads import fetch_for

            fetch_for(needs)
        return asyncio.run(work)
    except KeyboardInterrupt:
        state = {True: "; what was finished is kept", False: "; nothing was kept", None: ""}[kept]
        print(f"\nrstar: stopped{state}.", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        work.close()  # does nothing to what has run


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
