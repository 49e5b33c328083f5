"""Folders of training data, complete or absent, with a dataset card.

    README.md           dataset card
    sft.jsonl ...       one file per kind of data that has rows
    curation.json       manifest, written last: files with row counts, report, options, source run

A folder is written under a temporary name and renamed when complete. Equal runs and options give
equal bytes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rstar_math import __version__
from rstar_math.errors import InputError, StoreError
from rstar_math.prompts.grammar import FORMATS
from rstar_math.runs.export import Format, cannot_write, read_file, write_rows
from rstar_math.training.curation.records import Curated, CurationConfig, Data
from rstar_math.training.rows import ROWS, Row, rows_of

_DESCRIPTIONS = {
    "sft": "right solutions to imitate: the best of each problem by mean Q (`prompt`, "
    "`completion`; `outputs` marks program output, which is not trained on)",
    "preference": "pairs for a preference model: next steps of one node, and whole solutions "
    "(`prompt`, `chosen`, `rejected`, `weight`)",
    "outcome": "whole solutions and whether they are right (`prompt`, `completion`, `label`)",
    "value": "prefixes of solutions and their Q in [-1, 1] (`prompt`, `completion`, `value`)",
}
_LICENCE_NOTE = """\
## Licence

This data comes without a licence of its own. Questions and references belong to their sources, and
the model named above wrote the solutions. The licences of both apply. Some model licences restrict
training on model output. Check them before you publish this data or a model trained on it.
"""


def dataset_card(manifest: Mapping[str, Any]) -> str:
    """The dataset card (README.md) of a folder with this manifest."""
    by_kind = _files_by_kind(manifest)
    lines = ["---", "license: unknown", "tags: [reasoning, mathematics, rstar-math]", "configs:"]
    for kind, (name, _) in by_kind.items():
        lines += [f"- config_name: {kind}", f"  data_files: {name}"]
    origin = manifest["origin"]
    lines += [
        "---",
        "",
        "# Training data from search trees",
        "",
        f"Made by rstar-math {manifest['version']} from the run {escape(origin['run'])} "
        f"(SHA-256 of its content: `{origin['digest']}`).",
        "",
        f"Policy: {escape(str(origin['conditions'].get('model.name')))}. Problem sources: "
        f"{', '.join(escape(source or 'unnamed') for source in origin['sources'])}.",
        "",
        *data_table(manifest),
    ]
    lines += ["", '    datasets.load_dataset("FOLDER", "sft")', "", "## Kept and dropped", ""]
    lines += ["| what | outcome | count |", "|---|---|---|"]
    for group, counts in manifest["report"].items():
        label = group.replace("_", " ")
        lines += [f"| {label} | {reason} | {count} |" for reason, count in counts.items()]
    lines += ["", *_suspect_table(manifest["suspects"]), "## Curation options", "", "```json"]
    lines += [json.dumps(manifest["config"], indent=2), "```", "", _LICENCE_NOTE]
    return "\n".join(lines)


def _files_by_kind(manifest: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Name and number of rows of each file, by its kind of data."""
    files: dict[str, dict[str, Any]] = manifest["files"]
    return {entry["data"]: (name, entry["rows"]) for name, entry in files.items()}


def data_table(manifest: Mapping[str, Any]) -> list[str]:
    """Markdown lines with the kinds of data in a folder with this manifest."""
    by_kind = _files_by_kind(manifest)
    rows = [
        f"| `{kind}` | {by_kind[kind][1]} | {_DESCRIPTIONS[kind]} |"
        for kind in ROWS
        if kind in by_kind
    ]
    return ["| data | rows | description |", "|---|---|---|", *rows]


def _suspect_table(suspects: list[dict[str, Any]]) -> list[str]:
    """Markdown lines for the problems that were dropped because their reference is suspect."""
    if not suspects:
        return []
    lines = ["## Left out: probably mislabelled", "", "| problem | reference | solutions say |"]
    lines.append("|---|---|---|")
    for suspect in suspects:
        cells = (
            suspect["problem"],
            suspect["reference"],
            f"{suspect['answer']} ({suspect['share']:.0%})",
        )
        lines.append("| " + " | ".join(escape(str(cell)) for cell in cells) + " |")
    return [*lines, ""]


def escape(text: str) -> str:
    """Untrusted text, escaped for one line of Markdown."""
    for sign in "\\`|<>[]*_":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


MANIFEST_FILE = "curation.json"
FORMAT = 2
"""Version of the folder format, stored in the manifest."""
R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """The run that training data comes from."""

    run: str
    """Name of the run file."""
    digest: str
    """SHA-256 of the run's content (`RunStore.digest`)."""
    conditions: dict[str, Any]
    """Options that the run's results depend on, such as the model and the search options."""
    strategies: tuple[str, ...]


def write_folder(
    target: Path,
    curated: Curated,
    origin: DatasetSource,
    config: CurationConfig,
    *,
    data: Collection[Data] = ("sft", "preference"),
    format: Format = "jsonl",
) -> dict[str, Any]:
    """Write a folder of training data and return its manifest. An older one is replaced.

    Raises `InputError` if the folder holds other files, and `MissingDependencyError` for Parquet
    without pyarrow. Raises `StoreError` if it cannot be written; an older folder is then unchanged.
    """
    target = target.resolve()
    _check_replaceable(target)
    partial = target.with_name(f".partial-{target.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        manifest = _write_files(partial, curated, (origin, config), data, format)
        _replace(partial, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of training data.

    Raises `InputError` if it is missing or damaged, `StoreError` for another format version.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {MANIFEST_FILE}: it is not a folder of training data, or it is "
            f"incomplete; create it with rstar curate RUN --out {folder}."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / MANIFEST_FILE} cannot be read ({error}); run rstar curate again."
        ) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise InputError(f"{folder / MANIFEST_FILE} is damaged; run rstar curate again.")
    if manifest.get("format") != FORMAT:
        raise StoreError(
            f"{folder} has format {manifest.get('format')!r}, but this version reads format "
            f"{FORMAT}; run rstar curate again."
        )
    return manifest


def read_rows(folder: Path, model: type[R]) -> list[R]:
    """All rows of one kind, validated, for example `read_rows(folder, PreferenceRow)`.

    Raises `InputError` if there are no such rows, a row is invalid or the file is cut short, and
    `StoreError` for another format version.
    """
    files = {
        entry["data"]: (name, entry["rows"])
        for name, entry in read_manifest(folder)["files"].items()
    }
    if model.data not in files:
        raise InputError(
            f"{folder} has no {model.data} data (it has {', '.join(files) or 'none'}); run rstar "
            f"curate with --data {model.data} on a run that gives such rows."
        )
    name, expected = files[model.data]
    rows = read_file(folder / Path(name).name, model)
    if len(rows) != expected:
        raise InputError(
            f"{folder / name} has {len(rows)} rows instead of {expected}; copy it again, or run "
            "rstar curate again."
        )
    return rows


def _write_files(
    folder: Path,
    curated: Curated,
    provenance: tuple[DatasetSource, CurationConfig],
    data: Collection[Data],
    format: Format,
) -> dict[str, Any]:
    """Write all files into an empty folder, the manifest last, and return the manifest."""
    origin, config = provenance
    files: dict[str, dict[str, Any]] = {}
    for kind in ROWS:
        if kind in data:
            path = folder / f"{kind}.{format}"
            rows = write_rows(path, ROWS[kind], rows_of(curated, kind, FORMATS[config.format]))
            if rows:
                files[path.name] = {"data": kind, "rows": rows, "sha256": _sha256(path)}
            else:
                path.unlink()
    sources = sorted({source or "" for source in curated.sources.values()})
    unreliable = [asdict(problem) for problem in curated.unreliable]
    manifest = {
        "format": FORMAT,
        "version": __version__,
        "files": files,
        "report": curated.report.as_json(),
        "suspects": [asdict(suspect) for suspect in curated.suspects],
        **({"unreliable": unreliable} if unreliable else {}),
        "config": config.model_dump(mode="json"),
        "origin": {**asdict(origin), "sources": sources},
    }
    _write_text(folder / "README.md", dataset_card(manifest))
    _write_text(folder / MANIFEST_FILE, json.dumps(manifest, indent=2, ensure_ascii=True) + "\n")
    return manifest


def _write_text(path: Path, text: str) -> None:
    """Write a text file and flush it to disk."""
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_replaceable(target: Path) -> None:
    """Raise `InputError` if replacing `target` would delete anything but training data."""
    if target == Path.cwd() or target in Path.cwd().parents:
        raise InputError(
            f"{target} is the current working directory or one of its parents; give --out "
            "another folder."
        )
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file; give --out a folder.")
    others = {entry.name for entry in target.iterdir()} - _own_files(target)
    if others:
        raise InputError(
            f"{target} holds other files ({min(others)}) that would be deleted; give --out a new "
            "folder."
        )


def _own_files(target: Path) -> set[str]:
    """Names of the files that curation wrote into a folder; empty without a manifest.

    The manifest may come from somebody else, so a file counts only with the content that it had.
    """
    try:
        manifest = json.loads((target / MANIFEST_FILE).read_text(encoding="utf-8"))
        names = {MANIFEST_FILE}
        names |= {
            name
            for name, entry in manifest["files"].items()
            if _is_plain_file(target / name) and _sha256(target / name) == entry["sha256"]
        }
        card = target / "README.md"
        if _is_plain_file(card) and card.read_text(encoding="utf-8") == dataset_card(manifest):
            names.add(card.name)
        return names
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set()


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _replace(partial: Path, target: Path) -> None:
    """Rename a complete folder to `target` and delete the older folder there, if any."""
    old = target.with_name(f".old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(partial, target)
    shutil.rmtree(old, ignore_errors=True)
