"""The page of options, presets and recipes."""

import inspect
import re
import tomllib
import typing
from functools import cache
from pathlib import Path
from typing import Any

from docs.reference.markdown import cell, plain

SOURCE = Path(__file__).resolve().parents[2] / "src" / "rstar_math"


def configuration_page() -> str:
    """The page of options, presets and recipes."""
    from rstar_math.config import Config, presets
    from rstar_math.evolution.recipe import Recipe, recipe_names
    from rstar_math.training.curation.records import CurationConfig
    from rstar_math.training.settings import PolicyTraining, PreferenceTraining, ProbeTraining

    lines = [
        "# Configuration",
        "",
        "A TOML file or a preset (`--config`), with single options over it "
        "(`--set section.key=value`). Unknown keys are refused, and the error names the nearest "
        "that exists. Without `--config` the embedded model comes with the preset `laptop`, any "
        "other model with the defaults below.",
        "",
    ]
    for name, field in Config.model_fields.items():
        lines += section(name, field.annotation)
    lines += ["## Curation", "", "`rstar curate --set curation.KEY=VALUE`", ""]
    lines += table("curation", CurationConfig)
    for title, where, model in (
        ("Training a policy", "rstar train policy --set KEY=VALUE; in a recipe", PolicyTraining),
        (
            "Training a preference model",
            "rstar train ppm --set KEY=VALUE; in a recipe",
            PreferenceTraining,
        ),
        ("Training a probe", "rstar train ppm --probe --set KEY=VALUE; in a recipe", ProbeTraining),
    ):
        key = {PolicyTraining: "sft", PreferenceTraining: "preference", ProbeTraining: "probe"}[
            model
        ]
        lines += [f"## {title}", "", f"`{where}: [{key}]`", "", *table("", model)]
    lines += ["## Recipes of an evolution", ""]
    lines += [
        "`rstar evolve RECIPE`: a name or a TOML file. Sections that are not here are those above.",
        "",
    ]
    lines += table("", Recipe)
    lines += _presets("Presets", SOURCE / "config" / "presets", presets())
    lines += _presets("Recipes", SOURCE / "evolution" / "recipes", recipe_names())
    return "\n".join(lines)


def section(name: str, model: Any) -> list[str]:
    """A heading and the table of one section of the configuration."""
    doc = inspect.cleandoc(model.__doc__ or "")
    return [f"## {name}", "", plain(doc), "", *table(name, model)]


def table(prefix: str, model: Any) -> list[str]:
    """Rows of key, values, default and description; nested sections of a recipe follow."""
    known = _sections()
    rows, below = ["| key | values | default | |", "|---|---|---|---|"], []
    for key, field in model.model_fields.items():
        dotted = f"{prefix}.{key}" if prefix else key
        inner = [one for one in _models(field.annotation) if one not in known]
        if inner:
            many = "tuple" in str(field.annotation)
            title = f"[[{dotted}]]" if many else f"[{dotted}]"
            below += [f"### {title}", "", plain(inspect.cleandoc(inner[0].__doc__ or "")), ""]
            below += table("", inner[0])
        elif not _models(field.annotation):
            default = (
                "(needed)"
                if field.is_required()
                else f"`{_toml(field.get_default(call_default_factory=True))}`"
            )
            said = " ".join((field.description or "").split())
            rows.append(
                f"| `{dotted}` | {cell(_values(field))} | {default} | {cell(plain(said))} |"
            )
    return [*rows, "", *below]


@cache
def _sections() -> tuple[Any, ...]:
    """Models that have a heading of their own on the page."""
    from rstar_math.config import Config
    from rstar_math.training.curation.records import CurationConfig
    from rstar_math.training.settings import PolicyTraining, PreferenceTraining, ProbeTraining

    own = tuple(field.annotation for field in Config.model_fields.values())
    return (*own, CurationConfig, PolicyTraining, PreferenceTraining, ProbeTraining)


def _models(annotation: Any) -> list[Any]:
    """The pydantic models that a field holds."""
    parts = [annotation, *typing.get_args(annotation)]
    return [part for part in parts if hasattr(part, "model_fields")]


def _values(field: Any) -> str:
    """What a key may be: its type or choices, and its range."""
    if typing.get_origin(field.annotation) is typing.Literal or any(
        typing.get_origin(part) is typing.Literal for part in typing.get_args(field.annotation)
    ):
        holder = [field.annotation, *typing.get_args(field.annotation)]
        (literal, *_) = [part for part in holder if typing.get_origin(part) is typing.Literal]
        said = ", ".join(f"`{value}`" for value in typing.get_args(literal))
        return f"list of {said}" if typing.get_origin(field.annotation) is tuple else said
    said = re.sub(r"<class '(\w+)'>", r"\1", str(field.annotation))
    said = said.replace(" | None", "").replace("tuple[", "list of ").replace(", ...]", "")
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    ranges = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return ", ".join([said, *ranges])


def _toml(value: Any) -> str:
    """A default as it is written in a file; nothing is empty."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if value is None:
        return "none"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _presets(title: str, folder: Path, names: list[str]) -> list[str]:
    """The files of a kind as they are."""
    lines = [f"## {title}", ""]
    for name in names:
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
        tomllib.loads(text)
        lines += [f"### {name}.toml", "", "```toml", text.strip(), "```", ""]
    return lines
