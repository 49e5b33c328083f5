"""What `rstar push` sends: the files of a model or a data set, and the facts for its card."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from rstar_math.checkpoints.folders import (
    ADAPTER_FILE,
    COMPLETION_FILE,
    read_json_object,
    read_notes,
)
from rstar_math.checkpoints.tensors import read_header
from rstar_math.config.sections import LOCAL, TRAINED
from rstar_math.errors import InputError
from rstar_math.evolution.manifest import RECIPE, ROUND, ManifestStore
from rstar_math.models.names import find_model
from rstar_math.runs.export import (
    SearchedProblems,
    TrajectoryRow,
    trajectory_rows,
    write_rows,
)
from rstar_math.runs.results import SearchedProblem
from rstar_math.runs.store import RunStore
from rstar_math.training.dataset import MANIFEST_FILE, read_manifest

Kind = Literal["policy", "ppm", "adapter", "gguf", "data"]
Part = Literal["policy", "ppm", "data"]
CARD = "README.md"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The hub's name of the embedded model."""
_LOADED = (".json", ".txt", ".jinja", ".model", ".safetensors")
"""Suffixes of the files that a download of a checkpoint fetches."""
_IGNORED = {CARD, ".DS_Store"}
_MAX_DEPTH = 20
"""Most bases of bases that are followed."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A model or a data set to publish."""

    kind: Kind
    name: str
    """Name of the file or folder."""
    files: Mapping[str, Path | bytes]
    """By their path in the repository; without the card."""
    base: str | None = None
    """The model that it was trained from: a hub name, a short name, or the last part of a path."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`rstar.json` of a model, `curation.json` of a data set; {} if there is none."""
    sources: tuple[str, ...] = ()
    """Problem sources of a data set."""

    @property
    def is_data(self) -> bool:
        """Whether it is a data set."""
        return self.kind == "data"


def size_of(content: Path | bytes) -> int:
    """The size of a file, in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def sha256_of(content: Path | bytes) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    if isinstance(content, bytes):
        return sha256(content).hexdigest()
    with content.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@contextmanager
def open_contents(path: Path, part: Part | None = None) -> Iterator[Contents]:
    """Yields what a path holds: a checkpoint, an adapter, a GGUF file, curated or exported rows, a
    run file, or a part of an evolution (by default its policy).

    The paths of a run file are exported to a folder that is deleted after the block. Raises
    `InputError` for anything else, and for damaged contents.
    """
    if path.is_dir() and (path / RECIPE).is_file():
        path = _part_of_evolution(path, part or "policy")
    elif part is not None:
        raise InputError(
            f"{path} is not the folder of an evolution, so it has no parts; omit --part."
        )
    with TemporaryDirectory(prefix="rstar-push-") as scratch:
        yield _read(path, Path(scratch))


def _read(path: Path, scratch: Path) -> Contents:
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(f"There is no {path}; give a model, a data set or a run.")
    if path.suffix == ".gguf":
        base = str(read_header(path).metadata.get("rstar.base", ""))
        return Contents("gguf", path.name, {path.name: path}, base=public_base(base) or None)
    if path.suffix in (".jsonl", ".parquet"):
        return Contents("data", path.name, {path.name: path})
    return _read_run(path, scratch)


def _part_of_evolution(folder: Path, part: Part) -> Path:
    """The folder of an evolution's current policy or preference model, or of its last data."""
    with ManifestStore.read(folder) as manifests:
        rounds = len(manifests.recipe().get("rounds", ()))
        finished = [n for n in range(1, rounds + 1) if manifests.result(f"{n}/{ROUND}")]
        if not finished:
            raise InputError(f"No round of {folder} is finished; run rstar evolve again.")
        models = manifests.result(f"{finished[-1]}/{ROUND}") or {}
        number = finished[-1] if part == "data" else models.get(part)
        if not number:
            raise InputError(
                f"No round of {folder} promoted a {part}; push another --part or a folder in it."
            )
        return manifests.path(f"round-{number}", part)


def _read_folder(folder: Path) -> Contents:
    name = folder.resolve().name
    if (folder / MANIFEST_FILE).is_file():
        manifest = read_manifest(folder)
        files: dict[str, Path | bytes] = {n: folder / Path(n).name for n in manifest["files"]}
        files[MANIFEST_FILE] = folder / MANIFEST_FILE
        sources = tuple(source for source in manifest["origin"]["sources"] if source)
        return Contents("data", name, files, facts=manifest, sources=sources)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _IGNORED and not path.is_symlink()
    }
    if (folder / ADAPTER_FILE).is_file():
        origin = public_base(str(read_json_object(folder / ADAPTER_FILE).get(_BASE_KEY) or ""))
        return Contents("adapter", name, _with_public_base(files), base=origin or None)
    notes = read_notes(folder)
    base = public_base(str(notes.get("base") or "")) or None
    kind: Kind = "policy" if notes.get("kind", "policy") == "policy" else "ppm"
    return Contents(kind, name, _with_public_base(files), base=base, facts=notes)


_BASE_KEY = "base_model_name_or_path"


def _with_public_base(files: dict[str, Path | bytes]) -> dict[str, Path | bytes]:
    """The files, without paths of this machine in those that name the base model.

    `rstar.json` lists only the files that a download fetches, so that the copy counts as complete.
    """
    changed = dict(files)
    for name, content in files.items():
        if not isinstance(content, Path):
            continue
        if content.name == ADAPTER_FILE:
            about = read_json_object(content)
            about[_BASE_KEY] = public_base(str(about.get(_BASE_KEY) or ""))
            changed[name] = json.dumps(about, indent=2).encode()
        elif name == COMPLETION_FILE:
            about = read_json_object(content)
            about["base"] = public_base(str(about.get("base") or ""))
            loaded = {n for n in files if "/" not in n and n.endswith(_LOADED)}
            about["files"] = {n: s for n, s in about.get("files", {}).items() if n in loaded}
            changed[name] = json.dumps(about, ensure_ascii=False, indent=1).encode()
    return changed


def public_base(base: str, depth: int = 0) -> str:
    """The name of a base model that means something elsewhere.

    A folder is replaced by the model that it was trained from, else by its last part. Short names
    are replaced by the hub's.
    """
    name = base.removeprefix("hf:").removeprefix("vllm:")
    if name in (LOCAL, TRAINED):
        return SMOLLM2
    model = find_model(name)
    if model is not None:
        return model.checkpoint or model.repo or SMOLLM2
    path = Path(name).expanduser()
    if path.is_dir() and depth < _MAX_DEPTH:
        if (path / COMPLETION_FILE).is_file():
            inner = str(read_json_object(path / COMPLETION_FILE).get("base") or "")
            if inner and inner != base:
                return public_base(inner, depth + 1)
        return _snapshot_repo(path) or path.resolve().name
    return path.name if path.is_absolute() or name.endswith(".gguf") else name


def _snapshot_repo(path: Path) -> str | None:
    """The repository of a folder in the hub client's cache; None for other folders."""
    for part in path.resolve().parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return None


def _read_run(path: Path, scratch: Path) -> Contents:
    """The finished paths of a run file, exported into `scratch`."""
    with RunStore.read(path) as store:
        problems = SearchedProblems(store, any_grammar=True)
        file = scratch / "trajectories.jsonl"
        sources: set[str] = set()

        def noted(item: SearchedProblem) -> SearchedProblem:
            sources.add(item.problem.source or "")
            return item

        write_rows(file, TrajectoryRow, trajectory_rows(map(noted, problems)))
        conditions = store.conditions()
    facts = {"origin": {"run": path.name, "conditions": conditions}}
    known = tuple(sorted(source for source in sources if source))
    return Contents("data", path.stem, {file.name: file}, facts=facts, sources=known)
