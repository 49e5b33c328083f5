"""Folders of training data, complete or absent, with a dataset card.

    README.md           the card
    sft.jsonl ...       one file for each kind of data that has rows
    curation.json       the mark, written last: files and their sizes, counts, options, origin

All is written beside its place and moved there at the end. Equal runs and options give equal bytes.
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

_ABOUT = {
    "sft": "right solutions to imitate: the best of each problem by mean Q (`prompt`, "
    "`completion`; `outputs` marks what the interpreter wrote, not to be trained on)",
    "preference": "pairs for a preference model: next steps of one node, and whole solutions "
    "(`prompt`, `chosen`, `rejected`, `weight`)",
    "outcome": "whole solutions and whether they are right (`prompt`, `completion`, `label`)",
    "value": "beginnings of solutions and their Q in [-1, 1] (`prompt`, `completion`, `value`)",
    "steps": "solutions with a label for each step (`prompt`, `completions`, `labels`, `shares`)",
}
_WARNING = """\
## Licence

None is given by making this data. The questions and references are those of their sources, and the
solutions were written by the model named above: the licences of both apply, and some models'
licences restrict what may be trained on their output. Check them before you publish this data or a
model trained on it.
"""


def card(mark: Mapping[str, Any]) -> str:
    """The card of a folder whose mark is `mark` (see `folder`)."""
    files: dict[str, dict[str, Any]] = mark["files"]
    by_kind = {entry["data"]: (name, entry["rows"]) for name, entry in files.items()}
    lines = ["---", "license: unknown", "tags: [reasoning, mathematics, rstar-math]", "configs:"]
    for kind, (name, _) in by_kind.items():
        lines += [f"- config_name: {kind}", f"  data_files: {name}"]
    origin = mark["origin"]
    lines += [
        "---",
        "",
        "# Training data from search trees",
        "",
        f"Made by rstar-math {mark['version']} from the run {_quoted(origin['run'])} (SHA-256 of "
        f"its content `{origin['digest']}`).",
        "",
        f"Policy: {_quoted(str(origin['conditions'].get('model.name')))}. Problems from: "
        f"{', '.join(_quoted(source or 'no source named') for source in origin['sources'])}.",
        "",
        "| data | rows | what |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{kind}` | {by_kind[kind][1]} | {_ABOUT[kind]} |" for kind in ROWS if kind in by_kind
    ]
    lines += ["", '    datasets.load_dataset("FOLDER", "sft")', "", "## Kept and dropped", ""]
    lines += ["| what | outcome | count |", "|---|---|---|"]
    for group, counts in mark["report"].items():
        named = group.replace("_", " ")
        lines += [f"| {named} | {reason} | {count} |" for reason, count in counts.items()]
    lines += ["", *_suspects(mark["suspects"]), "## Options of curation", "", "```json"]
    lines += [json.dumps(mark["config"], indent=2), "```", "", _WARNING]
    return "\n".join(lines)


def _suspects(suspects: list[dict[str, Any]]) -> list[str]:
    """The problems that were left out since their reference is doubted."""
    if not suspects:
        return []
    lines = ["## Left out: probably mislabelled", "", "| problem | reference | solutions say |"]
    lines.append("|---|---|---|")
    for one in suspects:
        cells = (one["problem"], one["reference"], f"{one['answer']} ({one['share']:.0%})")
        lines.append("| " + " | ".join(_quoted(str(cell)) for cell in cells) + " |")
    return [*lines, ""]


def _quoted(text: str) -> str:
    """Foreign text for a line of Markdown."""
    for sign in "\\`|<>[]*_":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


MANIFEST_FILE = "curation.json"
FORMAT = 2
R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """The run that training data was made from."""

    run: str
    """Name of its file."""
    digest: str
    """`RunStore.digest()`."""
    conditions: dict[str, Any]
    """What the run's results depend on: the model, the options of the search."""
    strategies: tuple[str, ...]


def write_folder(
    target: Path,
    found: Curated,
    origin: DatasetSource,
    config: CurationConfig,
    *,
    data: Collection[Data] = ("sft", "preference"),
    format: Format = "jsonl",
) -> dict[str, Any]:
    """Write a folder of training data and return its mark; one that was there is replaced.

    Raises `InputError` where the folder holds something else, `StoreError` where the disk will not
    have it (then what was there before is still there), `MissingDependencyError` for Parquet.
    """
    target = target.resolve()
    _check_replaceable(target)
    partial = target.with_name(f".partial-{target.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        mark = _fill(partial, found, (origin, config), data, format)
        _move(partial, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return mark


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder of training data was made from and what is in it.

    Raises `InputError` where it is none or was not finished, `StoreError` for another version.
    """
    try:
        mark = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {MANIFEST_FILE}: it is no training data or was not finished; make it "
            f"with rstar curate RUN --out {folder}."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / MANIFEST_FILE} cannot be read ({error}).") from error
    if not isinstance(mark, dict) or not isinstance(mark.get("files"), dict):
        raise InputError(
            f"{folder / MANIFEST_FILE} is damaged; make the data again with rstar curate."
        )
    if mark.get("format") != FORMAT:
        raise StoreError(
            f"{folder} is of format {mark.get('format')!r} and this version reads format {FORMAT}; "
            "make the data again with rstar curate."
        )
    return mark


def read_rows(folder: Path, model: type[R]) -> list[R]:
    """All rows of a kind, for example `read_rows(folder, PreferenceRow)`, each checked.

    Raises `InputError` in one sentence: no such rows, a file cut short, or which line is at fault
    and why; `StoreError` for data of another version.
    """
    files = {
        entry["data"]: (name, entry["rows"])
        for name, entry in read_manifest(folder)["files"].items()
    }
    if model.data not in files:
        raise InputError(
            f"{folder} has no {model.data} data, only {', '.join(files) or 'none at all'}; make it "
            f"with rstar curate --data {model.data}, from a run that has some."
        )
    name, expected = files[model.data]
    rows = read_file(folder / Path(name).name, model)
    if len(rows) != expected:
        raise InputError(
            f"{folder / name} holds {len(rows)} rows and was written with {expected}; copy it "
            "again, or make it again with rstar curate."
        )
    return rows


def _fill(
    folder: Path,
    found: Curated,
    made: tuple[DatasetSource, CurationConfig],
    data: Collection[Data],
    format: Format,
) -> dict[str, Any]:
    """Write all files into an empty folder, the mark last."""
    origin, config = made
    files: dict[str, dict[str, Any]] = {}
    for kind in ROWS:
        if kind in data:
            path = folder / f"{kind}.{format}"
            rows = write_rows(path, ROWS[kind], rows_of(found, kind, FORMATS[config.format]))
            if rows:
                files[path.name] = {"data": kind, "rows": rows, "sha256": _digest(path)}
            else:
                path.unlink()
    sources = sorted({source or "" for source in found.sources.values()})
    unreliable = [asdict(one) for one in found.unreliable]
    mark = {
        "format": FORMAT,
        "version": __version__,
        "files": files,
        "report": found.report.as_json(),
        "suspects": [asdict(one) for one in found.suspects],
        **({"unreliable": unreliable} if unreliable else {}),
        "config": config.model_dump(mode="json"),
        "origin": {**asdict(origin), "sources": sources},
    }
    _write(folder / "README.md", card(mark))
    _write(folder / MANIFEST_FILE, json.dumps(mark, indent=2, ensure_ascii=True) + "\n")
    return mark


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_replaceable(target: Path) -> None:
    """Refuse a place where something else would be lost."""
    if target == Path.cwd() or target in Path.cwd().parents:
        raise InputError(f"{target} is the folder you are in; give --out one of its own.")
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file; give --out a folder.")
    others = {entry.name for entry in target.iterdir()} - _written(target)
    if others:
        raise InputError(
            f"{target} holds other files ({min(others)}) and would be replaced; give --out a new "
            "folder."
        )


def _written(target: Path) -> set[str]:
    """Names of the files in a folder that a curation wrote; none where its mark is not there."""
    try:
        files = json.loads((target / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        return {"README.md", MANIFEST_FILE, *files}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def _move(partial: Path, target: Path) -> None:
    """Put a finished folder into its place, in which an older one may be."""
    old = target.with_name(f".old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(partial, target)
    shutil.rmtree(old, ignore_errors=True)
