"""Manifests of finished stages: one small file per stage, written when the stage is complete.

A stage is named `round/what`, as `2/search`. Its manifest says what it was made from (its part of
the recipe and what the stages before it came to), what it came to, and, apart from that, when and
with what it was done. A stage whose manifest is there is not done again; two runs of one recipe
come to the same manifests but for the last part.
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
"""The stage that ends a round: its manifest says which models are in use then."""
Facts = dict[str, Any]
"""What a stage came to, as JSON."""


class ManifestStore:
    """The folder of an evolution, held by one process."""

    def __init__(self, folder: Path, lock: int | None) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, recipe: Mapping[str, Any]) -> Self:
        """Begin an evolution, or go on with one of the same recipe; more rounds may be added.

        Raises `ConfigError` where the recipe is another, `StoreError` where the folder cannot be
        written or another process holds it, `InputError` where it holds something else.
        """
        told = folder / RECIPE
        try:
            if folder.exists() and not told.is_file() and any(map(_foreign, folder.iterdir())):
                raise InputError(f"{folder} holds something else; give another --run.")
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{folder} cannot be written ({error.strerror}).") from error
        try:
            lock_file(
                lock, f"Another process is at work in {folder}; wait for it, or give a new --run."
            )
            if told.is_file():
                _same_recipe(folder, _read(told, "recipe")["recipe"], recipe)
            write_json(told, {"format": FORMAT, "recipe": recipe})
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, lock)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """An evolution to look at, also while another process is at work."""
        if not (folder / RECIPE).is_file():
            raise InputError(
                f"{folder} is no evolution; begin one with: rstar evolve RECIPE --run {folder}."
            )
        return cls(folder, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def recipe(self) -> dict[str, Any]:
        """The recipe as plain values."""
        recipe: dict[str, Any] = _read(self.folder / RECIPE, "recipe")["recipe"]
        return recipe

    def path(self, *parts: str) -> Path:
        """A place in the folder."""
        return self.folder.joinpath(*parts)

    def facts(self, stage: str) -> Facts | None:
        """What a stage came to; None where it is not done."""
        path = self._manifest(stage)
        if not path.is_file():
            return None
        found: Facts = _read(path, "found")["found"]
        return found

    def manifests(self) -> list[dict[str, Any]]:
        """The manifests of all stages that are done, in the order they were."""
        found = [_read(path, "made") for path in self.folder.glob("*/*.stage.json")]
        return sorted(found, key=lambda one: one["made"]["ended"])

    async def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[], Awaitable[Facts]]
    ) -> Facts:
        """What a stage comes to: done now, or known from before. What `work` raises is raised; it
        goes on where it was when it is called again."""
        given = json.loads(json.dumps(inputs))
        path = self._manifest(name)
        if path.is_file():
            manifest = _read(path, "inputs", "found")
            before, now = without_speed_options(manifest["inputs"]), without_speed_options(given)
            if not same_values(before, now):
                raise ConfigError(
                    f"The stage {name} of {self.folder} was made from other inputs "
                    f"({_difference(before, now)}); give a new --run."
                )
            found: Facts = manifest["found"]
            return found
        began = time.time()
        found = json.loads(json.dumps(await work()))
        made = {
            "version": __version__,
            "began": began,
            "ended": time.time(),
            "process": os.getpid(),
        }
        write_json(path, {"stage": name, "inputs": given, "found": found, "made": made})
        return found

    def _manifest(self, stage: str) -> Path:
        number, _, what = stage.partition("/")
        return self.folder / f"round-{number}" / f"{what}.stage.json"


def digest(value: object) -> str:
    """A hash of a JSON value, 32 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """A hash of a file's bytes, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def _foreign(path: Path) -> bool:
    """Whether a file in a folder without a recipe is none that a beginning leaves behind."""
    return path.name != LOCK and not path.match(f".{RECIPE}.*.part")


def _read(path: Path, *holds: str) -> dict[str, Any]:
    """A JSON object of ours, which holds an object under each of some names."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}); give another --run.") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(k), dict) for k in holds):
        raise StoreError(f"{path} is none of rstar-math's; give another --run.")
    if found.get("format", FORMAT) != FORMAT:
        raise StoreError(
            f"{path} is of format {found['format']!r} and this version reads {FORMAT}; use the "
            "rstar-math that wrote it."
        )
    return found


def _same_recipe(folder: Path, before: Any, now: Any) -> None:
    """Raise `ConfigError` where a recipe does more than add rounds to another, or change how fast
    it goes."""
    now = json.loads(json.dumps(now))
    rounds = len(before["rounds"])
    now = {**now, "rounds": now["rounds"][:rounds]}
    before, shorter = without_speed_options(before), without_speed_options(now)
    if not same_values(before, shorter):
        raise ConfigError(
            f"{folder} was begun with another recipe ({_difference(before, shorter)}); set it "
            "back, or give a new --run."
        )


def without_speed_options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, or what a stage was made from, without the options that change how fast an
    evolution goes and not what it finds."""
    found = {key: value for key, value in recipe.items() if key != "launcher"}
    for section, free in SPEED_ONLY_OPTIONS.items():
        if isinstance(options := found.get(section), dict):
            found[section] = {key: value for key, value in options.items() if key not in free}
    if isinstance(synthesis := found.get("synthesis"), dict):
        found["synthesis"] = _without_address(synthesis)
    if isinstance(rounds := found.get("rounds"), list):
        found["rounds"] = [_without_address(one) for one in rounds]
    return found


def _without_address(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section that may name a model, with what such a model is apart from where it is asked."""
    model = section.get("model")
    if not isinstance(model, dict):
        return dict(section)
    kept = {key: value for key, value in model.items() if key not in SPEED_ONLY_OPTIONS["model"]}
    return {**section, "model": {**kept, "is": identity(model.get("name"), model.get("url"))}}


def identity(name: str | None, address: str | None) -> str:
    """What a model is known by: its name; without one its place, but for a server, whose address
    may change and whose own name for its model is kept with what it answers."""
    served = (address or "").startswith(("http://", "https://"))
    return name or ("served" if served else str(address))


def same_values(before: Any, now: Any) -> bool:
    """Whether two JSON values are the same, but for options that a later version added."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(key in now and same_values(value, now[key]) for key, value in before.items())
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(same_values, before, now))
    return bool(before == now)


def _difference(before: Any, now: Any, where: str = "") -> str:
    """Where two JSON values first differ, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before:
            if not same_values(before[key], now.get(key)):
                return _difference(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for at, (a, b) in enumerate(zip(before, now, strict=True), 1):
            if not same_values(a, b):
                return _difference(a, b, f"{where}.{at}")
    return f"{where} was {_short(before)} and now is {_short(now)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
