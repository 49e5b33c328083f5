"""Command lines of the documentation held against the command: verbs, options, values, settings.

Nothing is run. The values of --set, --strategy, --config and recipes go to the functions that read
them in earnest.
"""

import re
import shlex
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docs.reference.commands import commands
from rstar_math.config import load_config, presets
from rstar_math.errors import RstarError
from rstar_math.evolution.recipe import load_recipe, recipe_names
from rstar_math.search.strategies import parse_strategies

_ASSIGNMENT = re.compile(r"[A-Z_]+=")
UNSAID = ("...", "…")
"""What stands for words left out."""


def command_lines(code: str, program: str) -> Iterator[list[str]]:
    """The words of each line of a block that calls a program, without comments."""
    for line in code.replace("\\\n", " ").splitlines():
        if program not in line:
            continue
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:
            continue
        while words and (_ASSIGNMENT.match(words[0]) or words[0] in ("flock", "nice", "time")):
            words = words[1:]
        if words and words[0] == program:
            yield words[1:]


def faults(words: list[str], *, whole: bool = True) -> list[str]:
    """What is wrong with the words after `rstar`; `whole` also asks for what a command needs."""
    if words[:1] in ([], ["--help"], [""]):
        return []
    known = commands()
    verb = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
    if verb not in known:
        group = any(name.startswith(f"{verb} ") for name in known)
        return [] if group and not whole else [f"there is no command {verb!r}"]
    command, rest = known[verb], words[len(verb.split()) :]
    found, given, placed = [], set(), []
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    while rest:
        word, *rest = rest
        if not word.startswith("-") or word in ("-", "--") or re.match(r"-\d", word):
            placed.append(word)
            continue
        option, eq, value = word.partition("=")
        param = option_of(command, option)
        if param is None:
            found.append(f"rstar {verb} has no option {option}")
            continue
        given.add(param.name)
        if not getattr(param, "is_flag", False) and not eq:
            if not rest:
                found.extend([f"{option} lacks its value"] if whole else [])
                continue
            value, *rest = rest
        found += _value_faults(verb, command, param, value, [*words])
    endless = any(p.nargs == -1 for p in arguments) or set(UNSAID) & set(placed)
    if len(placed) > len(arguments) and not endless:
        found.append(f"rstar {verb} takes {len(arguments)} arguments, not {placed}")
    if whole:
        needed = [p for p in arguments if p.required][len(placed) :]
        needed += [
            p
            for p in command.params
            if p.param_type_name == "option" and p.required and p.name not in given
        ]
        found += [f"rstar {verb} needs {p.metavar or p.name}" for p in needed]
    if verb == "evolve" and placed:
        found += _tried(lambda: load_recipe(placed[0], ())) if placed[0] in recipe_names() else []
        if placed[0] not in recipe_names() and not placed[0].isupper() and "." not in placed[0]:
            found.append(f"there is no recipe {placed[0]!r}")
    return found


def option_of(command: Any, option: str) -> Any:
    """The parameter of a command that an option names, or None."""
    if option == "--help":
        return command.params[-1]
    named = [p for p in command.params if option in (*p.opts, *p.secondary_opts)]
    return named[0] if named and named[0].param_type_name == "option" else None


@cache
def all_options() -> frozenset[str]:
    """Every option of every command."""
    return frozenset(
        option
        for command in commands().values()
        for param in command.params
        for option in (*param.opts, *param.secondary_opts, "--help")
        if option.startswith("-")
    )


def _value_faults(verb: str, command: Any, param: Any, value: str, words: list[str]) -> list[str]:
    """What is wrong with an option's value."""
    if value in UNSAID or value.isupper() or "[...]" in value:
        return []
    if param.name == "set_":
        return _tried(lambda: _read_setting(verb, words, value))
    if param.name == "strategy" and verb != "curate":
        return _tried(lambda: parse_strategies(value))
    if param.name == "config":
        return [] if value in presets() or "." in value else [f"there is no preset {value!r}"]
    hint = typing.get_type_hints(command.callback).get(param.name)
    choices = [
        choice
        for part in (hint, *typing.get_args(hint))
        if typing.get_origin(part) is typing.Literal
        for choice in typing.get_args(part)
    ]
    if choices and value not in choices:
        return [f"{param.opts[0]} {value!r} is none of {choices}"]
    if int in (hint, *typing.get_args(hint)) and not value.isdigit():
        return [f"{param.opts[0]} {value!r} is no number"]
    return []


def _read_setting(verb: str, words: list[str], setting: str) -> None:
    """Has a setting read as the command reads it."""
    from rstar_math.cli.data import curation_config
    from rstar_math.cli.options import parse_section
    from rstar_math.training.settings import PolicyTraining, PreferenceTraining, ProbeTraining

    if setting.isupper() or setting.endswith("=VALUE"):
        return
    if verb == "evolve":
        load_recipe(words[1] if words[1] in recipe_names() else "laptop", [setting])
    elif verb == "curate":
        curation_config([setting])
    elif verb.startswith("train"):
        ppm = ProbeTraining if "--probe" in words else PreferenceTraining
        parse_section(PolicyTraining if verb.endswith("policy") else ppm, [setting], "epochs=1")
    else:
        load_config("laptop", [setting])


def _tried(read: typing.Callable[[], object]) -> list[str]:
    """The error of a reader as a fault."""
    try:
        read()
    except RstarError as error:
        return [str(error)]
    return []


def benchmark_faults(words: list[str], root: Path) -> list[str]:
    """What is wrong with the words after `python`, where they name a file."""
    if not words or not words[0].endswith(".py"):
        return []
    file = root / words[0]
    if not file.exists():
        return [f"there is no {words[0]}"]
    code = file.read_text(encoding="utf-8")
    return [
        f"{words[0]} has no option {word}"
        for word in words[1:]
        if word.startswith("--") and f'"{word.partition("=")[0]}"' not in code
    ]
