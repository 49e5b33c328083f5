"""Loads options from TOML files, presets and `--set section.key=value`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from rstar_math.config.sections import (
    HF,
    LOCAL,
    NO_MODEL,
    TRAINED,
    VLLM,
    Config,
    ModelConfig,
    normalize_url,
)
from rstar_math.config.trust import require_trust
from rstar_math.errors import ConfigError
from rstar_math.files import parse_toml

_PACKAGED_PRESETS = {LOCAL: "laptop", TRAINED: "trained"}
"""Preset of each packaged model, used if no configuration is given."""


def import_object(name: str) -> Any:
    """Return the object named "package.module:NAME". Raises `ConfigError` if the import fails."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{name} cannot be imported ({error}); give package.module:NAME of an installed module."
        ) from error


def load_config(
    source: str | None = None,
    settings: Sequence[str] = (),
    *,
    model: str | None = None,
    discriminator: str | None = None,
    default_model: str = LOCAL,
    trusted: bool = False,
) -> Config:
    """Return the configuration of a TOML file or preset, with overrides applied.

    `settings` are `section.key=value` strings; `model` and `discriminator` are addresses. Both
    override the source. `default_model` is the model if neither they nor the source name one.
    Without a source, the packaged model uses the preset `laptop`, its trained version uses the
    preset `trained`, other models in this process use `in-process`, and
    servers use the papers' defaults.

    A file that is not `trusted` may not run programs, import code, weaken the sandbox or name the
    variable of an API key (see `config.trust`). Raises `ConfigError` with the option, the value
    seen and the expected value.
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, eq, value = setting.partition("=")
        if not eq or key.count(".") != 1:
            raise ConfigError(
                f"--set {setting!r} is not section.key=value; for example --set search.rollouts=32."
            )
        section, name = key.strip().split(".")
        overrides.setdefault(section, {})[name] = setting_value(value.strip())
    for name, address in (("model", model), ("discriminator", discriminator)):
        if address is not None:
            overrides.setdefault(name, {})["url"] = address
    if source is None:
        url = normalize_url(str(overrides.get("model", {}).get("url", default_model)))
        source = _default_preset(url)
    tables: dict[str, Any] = _read_tables(source) if source else {}
    if source and not trusted and source not in presets():
        given = {f"{section}.{name}" for section, values in overrides.items() for name in values}
        require_trust(tables, source, overridden=given)
    for section, values in overrides.items():
        table = tables.setdefault(section, {})
        if isinstance(table, dict):
            table.update(values)
    if isinstance(table := tables.setdefault("model", {}), dict):
        table.setdefault("url", default_model)
    return _validate(tables)


def _default_preset(url: str) -> str | None:
    """Return the preset for a model address in its normal form; None for the papers' defaults."""
    in_process = url != NO_MODEL and ModelConfig(url=url).embedded
    packaged = _PACKAGED_PRESETS.get(url.removeprefix(HF).removeprefix(VLLM))
    return packaged or ("in-process" if in_process else None)


def presets() -> list[str]:
    """Return the names of the configurations that come with the package."""
    folder = files("rstar_math.config") / "presets"
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def _read_tables(source: str) -> dict[str, Any]:
    """Return the tables of a TOML file or a preset. Raises `ConfigError`."""
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
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error


def setting_value(text: str) -> Any:
    """Parse a setting's value as TOML; text that is not valid TOML is a string."""
    try:
        return parse_toml(f"v = {text}")["v"]
    except ValueError:
        return text


@dataclass(frozen=True, slots=True)
class Fault:
    """The first error of a pydantic validation, in plain words."""

    path: tuple[str, ...]
    """Keys from the root to the invalid value; list positions are counted from 1."""
    kind: Literal["unknown", "missing", "invalid"]
    message: str
    """A sentence without a full stop."""

    @property
    def key(self) -> str:
        """The path joined with dots."""
        return ".".join(self.path)


def explain(error: ValidationError, *, prefix: str = "") -> Fault:
    """Return the first error of a validation; `prefix` is put before its key in the message."""
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
    value = repr(fault["input"])
    value = value if len(value) <= 60 else f"{value[:57]}..."
    return Fault(path, "invalid", f"Invalid value for {key}: {value} ({reason})")


def _validate(tables: Mapping[str, Any]) -> Config:
    """Return the tables as a `Config`. Raises `ConfigError` that describes the first fault."""
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        fault = explain(error)
        hint = _suggestion(fault.path) if fault.kind == "unknown" else ""
        raise ConfigError(f"{fault.message}{hint}.") from error


def _suggestion(path: Sequence[str]) -> str:
    """Return the end of an error message that suggests known options for an unknown one."""
    known = {name: list(type(getattr(Config(), name)).model_fields) for name in Config.model_fields}
    section, *keys = path
    if not keys:
        matches = get_close_matches(section, known, 1)
        matches += [f"{other}.{section}" for other, names in known.items() if section in names]
    else:
        searched = [section] if section in known else [*known]
        searched += [other for other in known if other not in searched]
        matches = [
            f"{other}.{key}"
            for other in searched
            for key in get_close_matches(keys[0], known[other], 1)
        ]
    if matches:
        return f"; the nearest is {matches[0]}"
    if section in known:
        return f"; {section} has {', '.join(known[section])}"
    return f"; the sections are {', '.join(known)}"
