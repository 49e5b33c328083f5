"""Options that several commands share, and the function that runs a command's coroutine."""

import asyncio
import json
import os
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
    from rstar_math.tracking import TrackedRun

T = TypeVar("T")
S = TypeVar("S", bound="BaseModel")
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Model: local (embedded), trained (embedded, fine-tuned), a short name from rstar "
        "models list, FILE.gguf, hf:ORG/NAME:Q4_K_M (GGUF), hf:ORG/NAME or hf:FOLDER, "
        "vllm:ORG/NAME or vllm:FOLDER, or http://host:port/v1 (several separated by commas).",
        show_default="the best on this machine",
    ),
]
Discriminator = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Second model that checks the solutions of the strategy rstar; by default the same "
        "model.",
    ),
]
ConfigSource = Annotated[
    str | None,
    typer.Option(
        "--config",
        "--recipe",
        metavar="NAME",
        help="Preset name (laptop, rstar, ...) or TOML file. The embedded model uses laptop by "
        "default.",
    ),
]
TrustConfig = Annotated[
    bool,
    typer.Option(
        "--trust-config",
        help="Let the --config file run programs, import code, weaken the sandbox and use API "
        "keys. Only for files whose author you trust.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one option, for example search.rollouts=32. Repeatable.",
    ),
]
TrackerNames = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="NAME",
        help="Also record the figures with tensorboard, wandb, mlflow or trackio. Repeatable.",
        show_default="none",
    ),
]
TrackerRun = Annotated[
    str | None,
    typer.Option(
        "--tracker-run",
        metavar="NAME",
        help="Name of the run in the trackers; one of the same name continues.",
        show_default="name of the output and the time",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Also show the samples that were rejected, and their prompt."
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Use only the first N problems.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Search on the workers of a Ray cluster: auto (this machine's cluster), HOST:PORT or "
        "ray://HOST:PORT.",
        show_default="search in this process",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Search only every N-th problem, starting with the I-th; combine the runs with rstar "
        "merge.",
    ),
]
ProblemFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="JSONL file with the fields problem and, if known, answer."
    ),
]


def configure(
    source: str | None,
    settings: list[str] | None,
    model: str | None,
    discriminator: str | None = None,
    *,
    trusted: bool = False,
) -> "Config":
    """The configuration of a command line. Says on stderr which model is used if the command line
    names none. Raises `ConfigError`."""
    from rstar_math.models.default import VARIABLE, load_config

    config = load_config(
        source, settings or (), model=model, discriminator=discriminator, trusted=trusted
    )
    is_named = model or source or any(each.startswith("model.url") for each in settings or ())
    if not is_named and VARIABLE not in os.environ:
        print(
            f"rstar: using {config.model.url}, the best model on this machine; --model selects "
            "another.",
            file=sys.stderr,
        )
    return config


def parse_section(kind: type[S], settings: Sequence[str], example: str, prefix: str = "") -> S:
    """A section with `key=value` settings applied to its defaults. Each key starts with `prefix`.

    Raises `ConfigError`.
    """
    from pydantic import ValidationError

    from rstar_math.config.loading import explain, setting_value
    from rstar_math.errors import ConfigError

    values: dict[str, object] = {}
    for setting in settings:
        key, eq, value = setting.partition("=")
        name = key.strip()
        if not eq or not name.startswith(prefix) or name == prefix:
            raise ConfigError(
                f"Invalid value for --set: {setting!r} (expected {prefix}KEY=VALUE, for example "
                f"{prefix}{example})."
            )
        values[name.removeprefix(prefix)] = setting_value(value.strip())
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = explain(error, prefix=prefix)
        hint = ""
        if fault.kind == "unknown":
            nearest = get_close_matches(fault.key, kind.model_fields, 1)
            hint = f"; the options are {', '.join(kind.model_fields)}"
            if nearest:
                hint = f"; the nearest is {prefix}{nearest[0]}"
        raise ConfigError(f"--set: {fault.message}{hint}.") from None


def tracker_names(names: Sequence[str] | None) -> tuple[str, ...]:
    """The trackers of --tracker. Raises `ConfigError`, and `MissingDependencyError`."""
    from rstar_math.errors import ConfigError
    from rstar_math.tracking import TRACKERS, require_trackers

    unique = tuple(dict.fromkeys(names or ()))
    for name in unique:
        if name not in TRACKERS:
            raise ConfigError(
                f"Invalid value for --tracker: {name!r}; use one of {', '.join(TRACKERS)}."
            )
    require_trackers(unique)
    return unique


def tracked_run(
    names: Sequence[str] | None, run_name: str | None, stem: str
) -> "TrackedRun | None":
    """The run of --tracker and --tracker-run; None without trackers.

    `stem` begins the default name. Raises `ConfigError` and `MissingDependencyError`.
    """
    from rstar_math.tracking import TrackedRun, new_run_name

    trackers = tracker_names(names)
    return TrackedRun(trackers, run_name or new_run_name(stem)) if trackers else None


def single_strategy(text: str | None, config: "Config", verb: str) -> "Strategy":
    """The strategy of a command line, by default the configuration's. Raises `InputError`."""
    from rstar_math.errors import InputError
    from rstar_math.search.strategies import parse_strategies

    strategy, *others = parse_strategies(text or config.search.strategy)
    if others:
        raise InputError(f"rstar {verb} takes one strategy; compare several with rstar eval.")
    return name_by_budget([strategy], config)[0]


def name_by_budget(strategies: "Sequence[Strategy]", config: "Config") -> "list[Strategy]":
    """The strategies as the configuration's token budget runs them (`Strategy.within_budget`).

    Says on stderr which sizes have no effect. Raises `InputError` if two become the same.
    """
    from rstar_math.errors import InputError

    if config.search.token_budget is None:
        return list(strategies)
    found = [strategy.within_budget() for strategy in strategies]
    for before, after in zip(strategies, found, strict=True):
        if found.count(after) > 1:
            raise InputError(
                f"Within a token budget, {before.name} samples as many chains as the budget "
                f"allows, like {after.name}; list one of them."
            )
        if after != before:
            print(
                f"rstar: the token budget sets the number of chains of {before.name}; it is "
                f"called {after.name}.",
                file=sys.stderr,
            )
    return found


def run(
    work: Coroutine[Any, Any, T], *, is_saved: bool | None, download_for: "Config | None" = None
) -> T:
    """The result of a coroutine. Ctrl-C cancels it and exits with code 130.

    `is_saved` says whether finished results are in a run file; None if there are no results to
    save. Missing models of the configuration `download_for` are downloaded first.
    """
    try:
        if download_for is not None:
            from rstar_math.cli.downloads import download_config_models

            download_config_models(download_for)
        return asyncio.run(work)
    except KeyboardInterrupt:
        state = {True: "; finished results are kept", False: "; nothing was saved", None: ""}[
            is_saved
        ]
        print(f"\nrstar: stopped{state}.", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        work.close()  # no effect if it ran; avoids a warning if it never started


def print_json(value: object) -> None:
    """Print a value as JSON on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
