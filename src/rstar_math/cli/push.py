"""`rstar push`: models and data sets to the Hugging Face hub."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rstar_math.cli.options import AsJson, print_json
from rstar_math.errors import ConfigError

if TYPE_CHECKING:
    from rstar_math.publishing.push import PushPlan


def push(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            help="Checkpoint or adapter folder, .gguf file, folder of rstar curate, exported rows, "
            "run file, or folder of an evolution.",
        ),
    ],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the hub.")],
    part: Annotated[
        Literal["policy", "ppm", "data"] | None,
        typer.Option(help="Part of an evolution to send.", show_default="policy"),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as a private one.")
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            metavar="NAME",
            help="Licence in the hub's spelling, such as apache-2.0.",
            show_default="that of the base model or of the problem sources",
        ),
    ] = None,
    allow_secrets: Annotated[
        bool, typer.Option("--allow-secrets", help="Send files that seem to contain keys.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be sent, with the card; send nothing."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a model or a data set to the Hugging Face hub, with a card, hashes and a licence.

    The command shows what it will send and asks. An interrupted upload continues when the command
    is run again. Set HF_TOKEN to a token with write access.
    """
    from rstar_math.models.uploads import require_target
    from rstar_math.publishing.contents import open_contents
    from rstar_math.publishing.push import plan_push
    from rstar_math.publishing.push import push as send

    require_target(repo)
    options = {"private": private, "allow_secrets": allow_secrets}
    with open_contents(path, part) as contents:
        plan = plan_push(contents, repo, licence=licence, **options)
        _show(plan, as_json=as_json, is_dry_run=dry_run)
        if dry_run:
            return
        _confirm(plan, yes)
        url = send(plan)
        if as_json:
            print_json({**plan.as_json(), "commit": url})
        else:
            typer.echo(f"Sent: {url}")


def _show(plan: "PushPlan", *, as_json: bool, is_dry_run: bool) -> None:
    """Print the files, their sizes and the target; in a dry run also the card."""
    if as_json:
        if is_dry_run:
            print_json({**plan.as_json(), "card": plan.card})
        return
    from rstar_math.progress import megabytes
    from rstar_math.text import sanitize

    report = plan.as_json()
    for file in report["files"]:
        typer.echo(f"{megabytes(file['bytes']):>9}  {sanitize(file['file'])}")
    visibility = "private, if it is new" if plan.target.private else "public, if it is new"
    typer.echo(
        f"{megabytes(report['bytes'])} in {len(report['files'])} files to {plan.target.url} "
        f"({plan.target.type}, {visibility}); licence {plan.licence}, base model "
        f"{sanitize(plan.contents.base or 'not recorded')}."
    )
    if is_dry_run:
        typer.echo(f"\n{sanitize(plan.card)}")


def _confirm(plan: "PushPlan", yes: bool) -> None:
    """Ask whether to send, unless `yes`. Raises `ConfigError` if nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("rstar push asks before it sends; pass --yes to send without asking.")
    if not typer.confirm(f"Send to {plan.target.repo}?", err=True):
        raise typer.Exit(1)
