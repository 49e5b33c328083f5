"""Checkpoints on disk that are whole or not there.

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
from pathlib import Path
from typing import Any

from rstar_math.config import LOCAL
from rstar_math.errors import InputError, MissingExtra, RstarError, StoreError
from rstar_math.models.gguf_header import read_header
from rstar_math.models.weights import shipped_weights

MARK = "rstar.json"
FORMAT = 1


def require_torch() -> None:
    """Nothing, where training's packages are installed; else raises `MissingExtra`."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "Trained models in this process need torch and transformers; type: "
            "pip install 'rstar-math[train]'."
        ) from error


@contextmanager
def writing(target: Path, notes: Mapping[str, object]) -> Iterator[Path]:
    """A folder to write a checkpoint's files into, which becomes `target` when the block ends well
    and is removed when it does not.

    `notes` go into the mark. Raises `InputError` where there is something at `target` already, and
    `StoreError` in one sentence where the disk is full or cannot be written.
    """
    if target.exists():
        raise InputError(f"{target} is there already; name another place or remove it.")
    part = target.with_name(f".{target.name}.part")
    with saying_what_fails(target):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            mark(part, notes)
            os.replace(part, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def mark(folder: Path, notes: Mapping[str, object]) -> None:
    """Declare a folder's files whole: they are forced to disk, then the mark is written. Raises
    `OSError`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    for path in files:
        _sync(path)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    part = folder / f"{MARK}.part"
    text = json.dumps({"format": FORMAT, **notes, "files": sizes}, ensure_ascii=False, indent=1)
    part.write_text(text, encoding="utf-8")
    _sync(part)
    os.replace(part, folder / MARK)
    _sync(folder)


def is_whole(folder: Path) -> bool:
    """Whether a folder bears a mark and every file is as long as it says."""
    try:
        notes = json.loads((folder / MARK).read_text(encoding="utf-8"))
        sizes = notes["files"].items()
        return all((folder / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError, AttributeError):
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
    if not (folder / MARK).is_file():
        return {}
    if not is_whole(folder):
        raise InputError(
            f"The checkpoint {folder} is damaged or was not copied whole; copy it again or train "
            "again."
        )
    notes = json.loads((folder / MARK).read_text(encoding="utf-8"))
    if notes.get("format") != FORMAT:
        raise InputError(
            f"The checkpoint {folder} has format {notes.get('format')!r}, and this version reads "
            f"{FORMAT}; use the rstar-math that wrote it."
        )
    return dict(notes)


@contextmanager
def saying_what_fails(target: Path) -> Iterator[None]:
    """A block in which an error of the disk becomes one sentence (`StoreError`), and files are
    written without bars."""
    try:
        with _without_bars():
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


def load_policy(base: str) -> tuple[Any, Any]:
    """A causal language model in float32 and its tokenizer.

    `base` is "local" (the embedded SmolLM2-135M), a .gguf file, a checkpoint folder, or a name that
    transformers knows. Raises `InputError` and `MissingExtra`.
    """
    require_torch()
    import torch
    from transformers import AutoModelForCausalLM

    where, options = locate(base)
    with saying_what_is_wrong(base):
        _require_policy(base, where, options)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            where, dtype=torch.float32, output_loading_info=True, **options
        )
        if loaded["missing_keys"]:
            raise InputError(
                f"{base} lacks {min(map(str, loaded['missing_keys']))}, so it is no whole language "
                "model; give one that has its word head."
            )
        forget_quantisation(model)
        tokenizer = load_tokenizer(base)
    require_fit(base, model, tokenizer)
    return model, tokenizer


def _require_policy(base: str, where: str, options: Mapping[str, str]) -> None:
    """Refuse what was saved as something else than a causal language model: transformers would
    load it, with a word head of random numbers."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(where, **options)
    for name in config.architectures or ():
        if name.endswith("ForSequenceClassification"):
            raise InputError(
                f"{base} is a scorer ({name}) and not a policy; give the policy that it was "
                "trained from, or another language model."
            )
        if name.endswith(("ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")):
            raise InputError(
                f"{base} is no causal language model ({name}); give one that continues text."
            )


def require_fit(base: str, model: Any, tokenizer: Any) -> None:
    """Nothing, where a tokenizer is one for the model; else raises `InputError`."""
    room = model.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= room:
        raise InputError(
            f"The tokenizer in {base} has {largest + 1} tokens and the model knows {room}: they do "
            "not belong together; copy the tokenizer that came with the model."
        )
    if tokenizer.pad_token is None:
        raise InputError(
            f"The tokenizer in {base} has neither a padding nor an end token; give it one "
            "(eos_token in its tokenizer_config.json)."
        )


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a model, with a padding token; it cuts text as llama.cpp does."""
    from transformers import AutoTokenizer

    where, options = locate(base)
    tokenizer = AutoTokenizer.from_pretrained(where, **options)
    if "gguf_file" in options:
        _cut_as_llama_cpp(tokenizer, Path(where) / options["gguf_file"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _cut_as_llama_cpp(tokenizer: Any, file: Path) -> None:
    """Have a tokenizer that was read from a GGUF file take digits one by one where the file says
    so: transformers does not look, and then joins the spaces before a number otherwise."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if read_header(file).facts.get("tokenizer.ggml.pre") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )


def locate(base: str) -> tuple[str, dict[str, str]]:
    """What to hand to `from_pretrained` for a model: a place, and options."""
    path = shipped_weights() if base == LOCAL else Path(base).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"There is no model file {path}; give a .gguf file or a checkpoint.")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        read_notes(path)
        return str(path), {}
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise InputError(f"There is no checkpoint {path}; give a folder that rstar train wrote.")
    return base, {}


def forget_quantisation(model: Any) -> None:
    """Let a model that was read from a GGUF file be trained and saved as what it now is: full
    weights."""
    for config in (model.config, *(m.config for m in model.modules() if hasattr(m, "config"))):
        for name in ("quantization_config", "_is_quantized"):
            if hasattr(config, name):
                delattr(config, name)
    model.hf_quantizer = None
    model.is_quantized = False


@contextmanager
def saying_what_is_wrong(base: str) -> Iterator[None]:
    """A block in which a model's files are read; what transformers, safetensors and torch say of
    bad ones becomes one sentence (`InputError`), and their bars and reports are not shown."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with _without_bars():
            yield
    except (RstarError, MemoryError):
        raise
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(
            f"{base} cannot be loaded as a model ({type(error).__name__}: {first}); is it a whole "
            "checkpoint that transformers reads?"
        ) from error
    finally:
        logging.set_verbosity(before)


@contextmanager
def _without_bars() -> Iterator[None]:
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
