"""The page of commands."""

import inspect
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docs.reference.markdown import cell, plain


@cache
def commands() -> dict[str, Any]:
    """Every command of `rstar` by its words after `rstar`, as in "train ppm"."""
    import typer.main

    from rstar_math.cli import app

    def leaves(words: list[str], command: Any) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, below in command.commands.items():
                yield from leaves([*words, name], below)
        else:
            yield " ".join(words), command

    return dict(leaves([], typer.main.get_command(app)))


def cli_page() -> str:
    """The page of commands."""
    import rstar_math.cli

    codes = (rstar_math.cli.__doc__ or "").partition("\n\n")[2].strip()
    lines = ["# Commands", "", "`rstar COMMAND --help` says the same in a terminal. " + codes, ""]
    for name, command in commands().items():
        shown = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([f"rstar {name}", *(_argument(p) for p in shown), "[OPTIONS]"])
        lines += [f"## rstar {name}", "", plain(inspect.cleandoc(command.help or "")), ""]
        lines += [f"    {usage}", ""]
        lines += ["| | default | |", "|---|---|---|"]
        for param in command.params:
            if not param.hidden:
                lines.append(_parameter(param, command.callback))
        lines.append("")
    return "\n".join(lines)


def _argument(param: Any) -> str:
    """How a positional argument is written in the usage line."""
    name = _metavar(param, None)
    name += "..." if param.nargs == -1 and not name.endswith("...") else ""
    return name if param.required else f"[{name}]"


def _parameter(param: Any, callback: Any) -> str:
    """A row of the table of options."""
    option = param.param_type_name == "option"
    names = ", ".join([*param.opts, *param.secondary_opts]) if option else _metavar(param, None)
    flag = getattr(param, "is_flag", False)
    written = f"`{names}`" if flag or not option else f"`{names} {_metavar(param, callback)}`"
    default = param.show_default if isinstance(param.show_default, str) else param.default
    if param.required:
        default = "(needed)"
    elif default is None or default is False or callable(default) or default == []:
        default = ""
    return f"| {cell(written)} | {cell(str(default))} | {cell(plain(param.help or ''))} |"


def _metavar(param: Any, callback: Any) -> str:
    """What stands for a parameter's value."""
    if param.metavar or callback is None:
        return str(param.metavar or param.name.upper())
    hint = typing.get_type_hints(callback).get(param.name)
    kinds = {int: "N", float: "X", Path: "PATH"}
    of = [kind for kind in (hint, *typing.get_args(hint)) if kind in kinds]
    choices = [
        value
        for one in (hint, *typing.get_args(hint))
        if typing.get_origin(one) is typing.Literal
        for value in typing.get_args(one)
    ]
    return "|".join(map(str, choices)) or (kinds[of[0]] if of else "TEXT")
