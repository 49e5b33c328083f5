"""`rstar doctor`: what works on this machine, and commands to fix the rest."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from rstar_math.cli.options import AsJson, configure, print_json


def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="Also show how this model is prompted."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one option. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is installed, what is missing, how to install it, and which sandbox layers work."""
    from rstar_math.cli.diagnosis import check_model, run_checks
    from rstar_math.sandbox.programs import UNPROTECTED

    checks = run_checks()
    if model is not None:
        config = configure(None, set_ or [], model, None)
        checks += asyncio.run(check_model(config))
    if as_json:
        print_json(
            {"checks": [asdict(check) for check in checks], "not_covered": list(UNPROTECTED)}
        )
        return
    from rich.table import Table
    from rich.text import Text

    from rstar_math.cli import display

    group = None
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        if check.group != group:
            group = check.group
            table.add_row(Text(group.capitalize(), "bold"), "", "")
        mark = Text("ok", "green") if check.ok else Text("no", "yellow")
        table.add_row(Text(f"  {check.name}"), mark, Text(check.detail))
        if check.fix:
            table.add_row("", "", Text(f"run: {check.fix}", "cyan"))
    display.out.print(table)
    display.out.print("\n[bold]The sandbox does not cover[/]")
    for sentence in UNPROTECTED:
        display.out.print(f"  - {sentence}")
