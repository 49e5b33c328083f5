"""Manifests of finished stages: one small JSON file per stage, written when the stage is complete.

A stage is named `ROUND/NAME`, for example `2/search`. Its manifest holds:

inputs   what the stage depends on: its part of the recipe, digests of earlier results
found    the result of the stage
made     when, and with which version, the stage ran

A stage that has a manifest does not run again. Two runs of one recipe have equal manifests, except
for `made`.
"""

import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from rstar_math import __version__
from rstar_math.errors import ConfigError, InputError, StoreError
from rstar_math.files import lock_file, write_json
from rstar_math.runs.results import SPEED_ONLY_OPTIONS

FORMAT = 2
RECIPE = "recipe.json"
LOCK = ".lock"
ROUND = "round"
"""The last stage of a round. Its result says which models are in use after the round."""
StageResult = dict[str, Any]
"""The result of a stage, as JSON."""


class ManifestStore:
    """The folder of an evolution. At most one process has it open for writing."""

    def __init__(self, folder: Path, lock: int | None) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, recipe: Mapping[str, Any]) -> Self:
        """Open a folder for writing; a context manager that holds its lock.

        A new folder is created. An existing one must have the same recipe, but `recipe` may have
        more rounds, and other options that only change the speed. Raises `ConfigError` if the
        recipe differs otherwise, `StoreError` if the folder is not writable or locked by another
        process, `InputError` if it is not the folder of an evolution.
        """
        recipe_file = folder / RECIPE
        try:
            is_new = folder.exists() and not recipe_file.is_file()
            if is_new and any(map(_is_foreign, folder.iterdir())):
                raise InputError(f"{folder} contains other files; use an empty folder for --run.")
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{folder} is not writable ({error.strerror}).") from error
        try:
            lock_file(
                lock, f"Another process uses {folder}; wait until it ends, or use another --run."
            )
            if recipe_file.is_file():
                _require_same_recipe(folder, _read(recipe_file, "recipe")["recipe"], recipe)
            write_json(recipe_file, {"format": FORMAT, "recipe": recipe})
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, lock)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Open a folder for reading, also while another process writes to it."""
        if not (folder / RECIPE).is_file():
            raise InputError(
                f"{folder} is not the folder of an evolution; start one with: "
                f"rstar evolve RECIPE --run {folder}."
            )
        return cls(folder, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def recipe(self) -> dict[str, Any]:
        """The stored recipe, as JSON."""
        recipe: dict[str, Any] = _read(self.folder / RECIPE, "recipe")["recipe"]
        return recipe

    def path(self, *parts: str) -> Path:
        """A path inside the folder."""
        return self.folder.joinpath(*parts)

    def result(self, stage: str) -> StageResult | None:
        """The result of a stage; None if it is not finished."""
        path = self._manifest_path(stage)
        if not path.is_file():
            return None
        result: StageResult = _read(path, "found")["found"]
        return result

    def all(self) -> list[dict[str, Any]]:
        """The manifests of all finished stages, in the order in which they ended."""
        manifests = [_read(path, "made") for path in self.folder.glob("*/*.stage.json")]
        return sorted(manifests, key=lambda manifest: manifest["made"]["ended"])

    async def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[], Awaitable[StageResult]]
    ) -> StageResult:
        """The result of a stage: read from its manifest, or computed by `work` and stored.

        Raises `ConfigError` if the manifest has other inputs, and whatever `work` raises. After an
        error or a cancellation there is no manifest, and the next call runs `work` again.
        """
        inputs_json = json.loads(json.dumps(inputs))
        path = self._manifest_path(name)
        if path.is_file():
            manifest = _read(path, "inputs", "found")
            before = without_speed_options(manifest["inputs"])
            now = without_speed_options(inputs_json)
            if not same_values(before, now):
                raise ConfigError(
                    f"The stage {name} in {self.folder} has other inputs "
                    f"({_difference(before, now)}); use another --run."
                )
            stored: StageResult = manifest["found"]
            return stored
        began = time.time()
        result: StageResult = json.loads(json.dumps(await work()))
        made = {
            "version": __version__,
            "began": began,
            "ended": time.time(),
            "process": os.getpid(),
        }
        write_json(path, {"stage": name, "inputs": inputs_json, "found": result, "made": made})
        return result

    def _manifest_path(self, stage: str) -> Path:
        number, _, name = stage.partition("/")
        return self.folder / f"round-{number}" / f"{name}.stage.json"


def digest(value: object) -> str:
    """A hash of a JSON value, 32 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """A hash of a file's bytes, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def _is_foreign(path: Path) -> bool:
    """Whether a file in a folder without a recipe is not left over from an interrupted `open`."""
    return path.name != LOCK and not path.match(f".{RECIPE}.*.part")


def _read(path: Path, *required: str) -> dict[str, Any]:
    """A JSON object that holds an object under each `required` key. Raises `StoreError`."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}); use another --run.") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), dict) for key in required
    ):
        raise StoreError(f"{path} was not written by rstar-math; use another --run.")
    if content.get("format", FORMAT) != FORMAT:
        raise StoreError(
            f"{path} has format {content['format']!r}, and this version reads format {FORMAT}; use "
            "the version of rstar-math that wrote it."
        )
    return content


def _require_same_recipe(folder: Path, before: Any, now: Any) -> None:
    """Raise `ConfigError` if a recipe changes more than the speed or the number of later rounds."""
    now = json.loads(json.dumps(now))
    now = {**now, "rounds": now["rounds"][: len(before["rounds"])]}
    before, now = without_speed_options(before), without_speed_options(now)
    if not same_values(before, now):
        raise ConfigError(
            f"{folder} was started with another recipe ({_difference(before, now)}); restore the "
            "old value, or use another --run."
        )


def without_speed_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, or the inputs of a stage, without options that only change the speed."""
    kept = {key: value for key, value in options.items() if key != "launcher"}
    for section, speed_only in SPEED_ONLY_OPTIONS.items():
        if isinstance(values := kept.get(section), dict):
            kept[section] = {key: value for key, value in values.items() if key not in speed_only}
    if isinstance(synthesis := kept.get("synthesis"), dict):
        kept["synthesis"] = _without_address(synthesis)
    if isinstance(rounds := kept.get("rounds"), list):
        kept["rounds"] = [_without_address(section) for section in rounds]
    return kept


def _without_address(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section whose model, if it has one, is given by identity instead of address."""
    model = section.get("model")
    if not isinstance(model, dict):
        return dict(section)
    kept = {key: value for key, value in model.items() if key not in SPEED_ONLY_OPTIONS["model"]}
    identity = model_identity(model.get("name"), model.get("url"))
    return {**section, "model": {**kept, "is": identity}}


def model_identity(name: str | None, address: str | None) -> str:
    """What identifies a model: its name, else "served" for an HTTP server, else its address.

    The address of a server may change; the name that the server reports is stored in the run.
    """
    served = (address or "").startswith(("http://", "https://"))
    return name or ("served" if served else str(address))


def same_values(before: Any, now: Any) -> bool:
    """Whether two JSON values are equal. Keys that only `now` has are ignored: a later version
    may have added them."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(key in now and same_values(value, now[key]) for key, value in before.items())
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(same_values, before, now))
    return bool(before == now)


def _difference(before: Any, now: Any, key: str = "") -> str:
    """The first key at which two JSON values differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before:
            if not same_values(before[name], now.get(name)):
                return _difference(before[name], now.get(name), f"{key}.{name}".lstrip("."))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (first, second) in enumerate(zip(before, now, strict=True), 1):
            if not same_values(first, second):
                return _difference(first, second, f"{key}.{number}")
    return f"{key} was {_shorten(before)} and is now {_shorten(now)}"


def _shorten(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
