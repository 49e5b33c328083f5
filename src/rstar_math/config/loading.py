"""Options from TOML, a preset and `--set section.key=value`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from rstar_math.config.sections import HF, LOCAL, TRAINED, VLLM, Config, canonical
from rstar_math.errors import ConfigError

_OWN = {LOCAL: "laptop", TRAINED: "trained"}
"""The presets that models come with."""


def import_object(name: str) -> Any:
    """The object that "package.module:name" stands for. Raises `ConfigError` where it cannot be
    imported."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{name} cannot be imported ({error}); use package.module:NAME of an installed module."
        ) from error


def load_config(
    source: str | None = None,
    settings: Sequence[str] = (),
    *,
    model: str | None = None,
    discriminator: str | None = None,
) -> Config:
    """The configuration of a TOML file or a preset's name, with `section.key=value` settings and
    the models' addresses over it.

    Without a source, the embedded model comes with the preset `laptop`, what was trained of it with
    the preset `trained`, and any other model with the papers' defaults. Raises `ConfigError` with
    the option, the value seen and what it may be.
    """
    over: dict[str, Any] = {}
    for setting in settings:
        key, eq, value = setting.partition("=")
        if not eq or key.count(".") != 1:
            raise ConfigError(
                f"--set {setting!r} is not section.key=value; for example --set search.rollouts=32."
            )
        section, name = key.strip().split(".")
        over.setdefault(section, {})[name] = setting_value(value.strip())
    for name, address in (("model", model), ("discriminator", discriminator)):
        if address is not None:
            over.setdefault(name, {})["url"] = address
    if source is None:
        url = canonical(str(over.get("model", {}).get("url", LOCAL)))
        source = _OWN.get(url.removeprefix(HF).removeprefix(VLLM))
    tree: dict[str, Any] = _read(source) if source else {}
    for section, values in over.items():
        group = tree.setdefault(section, {})
        if isinstance(group, dict):
            group.update(values)
    return _checked(tree)


def presets() -> list[str]:
    """Names of the configurations that come with the package."""
    folder = files("rstar_math.config") / "presets"
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def _read(source: str) -> dict[str, Any]:
    """The tables of a TOML file or a preset."""
    if source in presets():
        text = (files("rstar_math.config") / "presets" / f"{source}.toml").read_text(
            encoding="utf-8"
        )
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--config {source!r} is neither a readable file nor a preset "
                f"({', '.join(presets())})."
            ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error


def setting_value(text: str) -> Any:
    """A setting's value as TOML reads it; a bare word is a string."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong with some data, for all callers of pydantic."""

    path: tuple[str, ...]
    """Where it is: list positions are counted from 1."""
    kind: Literal["unknown", "missing", "invalid"]
    message: str
    """A sentence without its full stop."""

    @property
    def key(self) -> str:
        """The path with dots."""
        return ".".join(self.path)


def explain(error: ValidationError, *, prefix: str = "") -> Fault:
    """The first fault of a validation, with `prefix` before its key."""
    fault = error.errors(include_url=False)[0]
    path = tuple(str(part + 1) if isinstance(part, int) else str(part) for part in fault["loc"])
    key = prefix + ".".join(path)
    if fault["type"] == "extra_forbidden":
        return Fault(path, "unknown", f"Unknown option {key}")
    if fault["type"] == "missing":
        return Fault(path, "missing", f"{key} is missing")
    reason = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in ("tuple_type", "list_type"):
        reason = 'expected a list, as ["a", "b"]'
    if fault["type"] == "int_parsing":
        reason = "expected an integer"
    reason = reason[:1].lower() + reason[1:] if reason.startswith("Input") else reason
    if not key:
        return Fault(path, "invalid", reason)
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return Fault(path, "invalid", f"Invalid value for {key}: {shown} ({reason})")


def _checked(tree: Mapping[str, Any]) -> Config:
    """The tree as a Config; the first fault as a sentence."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        fault = explain(error)
        hint = _nearest(fault.path) if fault.kind == "unknown" else ""
        raise ConfigError(f"{fault.message}{hint}.") from error


def _nearest(where: Sequence[str]) -> str:
    """A hint at the options that an unknown one may have meant."""
    known = {name: list(type(getattr(Config(), name)).model_fields) for name in Config.model_fields}
    section, *names = where
    if not names:
        close = get_close_matches(section, known, 1)
        close += [f"{home}.{section}" for home, keys in known.items() if section in keys]
    else:
        homes = [section] if section in known else [*known]
        homes += [home for home in known if home not in homes]
        close = [
            f"{home}.{key}" for home in homes for key in get_close_matches(names[0], known[home], 1)
        ]
    if close:
        return f"; the nearest is {close[0]}"
    if section in known:
        return f"; {section} has {', '.join(known[section])}"
    return f"; the sections are {', '.join(known)}"
