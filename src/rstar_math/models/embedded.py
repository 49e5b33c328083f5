"""The embedded SmolLM2-135M: bundled weights, repacked once for speed, with this package's
adapters.

The package holds SmolLM2-135M-Instruct (Apache-2.0) as Q4_1. On a CPU llama.cpp decodes the same
weights about 1.5 times as fast as Q8_0, and the repacking loses next to nothing: 4-bit values fit
8 bits.
"""

import sys
from pathlib import Path

from rstar_math.checkpoints.folders import bundled_adapter, bundled_weights, cache_dir
from rstar_math.config.sections import LOCAL, TRAINED
from rstar_math.errors import InputError

REPACKED = "SmolLM2-135M-Instruct.Q8_0.v1.gguf"


def weights_file(model: str) -> Path:
    """The GGUF file of the policy "local" or "trained" (written into the cache when it is first
    asked for), or of a path that the user gave. Raises `InputError` and
    `MissingDependencyError`."""
    if model == LOCAL:
        return _cached(REPACKED, None)
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
                f"{path} is not a GGUF model file; make one with rstar deploy (of a model that "
                "rstar trained) or with llama.cpp's converter."
            )
    return path


def bundled_model(kind: str) -> Path:
    """The GGUF file of the embedded model with this package's adapter of a kind ("policy" or "ppm")
    in it, written into the cache when it is first asked for. Raises `InputError` and
    `MissingDependencyError`."""
    with bundled_adapter(kind) as (adapter, mark):
        return _cached(f"SmolLM2-135M-rstar-{kind}.{mark}.gguf", adapter)


def _cached(name: str, adapter: Path | None) -> Path:
    """A file made of the shipped weights, in the cache. Where none can be kept there, a model
    without an adapter is used as it was shipped."""
    from rstar_math.checkpoints.gguf_adapters import repack_weights

    source, target = bundled_weights(), cache_dir() / name
    if _is_complete(target, source):
        return target
    try:
        repack_weights(source, target, adapter)
    except OSError as error:
        trouble = f"cannot keep the model in {target.parent} ({error.strerror})"
        remedy = "set RSTAR_CACHE to a folder with 200 MB free"
        if adapter is not None:
            raise InputError(f"rstar {trouble}; {remedy}.") from error
        print(f"rstar: {trouble}; using slower weights. To mend it, {remedy}.", file=sys.stderr)
        return source
    return target


def _is_complete(target: Path, source: Path) -> bool:
    """Whether a file in the cache is there and not visibly damaged; it is larger than its
    source."""
    try:
        with target.open("rb") as file:
            return file.read(4) == b"GGUF" and target.stat().st_size > source.stat().st_size
    except OSError:
        return False
