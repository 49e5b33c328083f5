"""The table of benchmarks: source, size, licence and known faults.

The package contains no benchmark problems. They are read from a local folder or the Hugging Face
hub.
"""

import gzip
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from hashlib import file_digest
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from rstar_math.config.loading import import_object
from rstar_math.errors import InputError
from rstar_math.files import parse_toml
from rstar_math.problems.jsonl import parse_problem, read_problems
from rstar_math.problems.sources import is_source, load_hub_dataset, read_source
from rstar_math.types import Problem


@dataclass(frozen=True, slots=True)
class HubDataset:
    """The location of a benchmark on the Hugging Face hub, and how to read its rows."""

    name: str
    config: str | None
    split: str
    question: str
    """The column of the question. Columns separated by "+" are joined to one text."""
    answer: str
    """The column of the answer."""
    read: str
    """How the reference is extracted from the answer column:

    - "text": the whole text
    - "hashes": the text after the last `####`
    - "boxed": the content of the last `\\boxed{}`
    - "list": the elements, joined by commas
    - "yesno": "yes" or "no" from a truth value
    - "number": a number without a trailing `.0`
    - "unit": the text without any parentheses
    - "module:function": your own function (object -> str or None)
    """


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A public set of problems with reference answers."""

    name: str
    title: str
    split: str
    size: int
    """Number of problems as published."""
    answer: str
    """The form of its answers."""
    licence: str
    faults: str
    """Known faults; "" if none are known."""
    hub: HubDataset | None
    """None if the benchmark is not on the hub."""
    source: str
    """Its authors or repository."""
    rows: int | None
    """Number of problems in the normalised file used for this project's results."""
    sha256: str | None
    """SHA-256 of that file, uncompressed; None if this project has no such file."""

    def file(self, folder: Path) -> Path | None:
        """The benchmark's file in a folder; None if there is none.

        The file is NAME/SPLIT.jsonl or NAME.jsonl, optionally with .gz.
        """
        for stem in (f"{self.name}/{self.split}", self.name):
            for suffix in (".jsonl", ".jsonl.gz"):
                path = folder / f"{stem}{suffix}"
                if path.is_file():
                    return path
        return None


BENCHMARKS_VARIABLE = "RSTAR_BENCHMARKS"
"""Environment variable with the path of a TOML file of additional benchmarks."""


def all_benchmarks() -> tuple[Benchmark, ...]:
    """All benchmarks, easy ones first, followed by those of the file in RSTAR_BENCHMARKS.

    That file holds the same `[[benchmark]]` tables. Raises `InputError` if it cannot be read.
    """
    extra = os.environ.get(BENCHMARKS_VARIABLE)
    return _packaged_benchmarks() + (_read_benchmarks(Path(extra)) if extra else ())


@cache
def _packaged_benchmarks() -> tuple[Benchmark, ...]:
    text = (files("rstar_math.problems") / "benchmarks.toml").read_text(encoding="utf-8")
    return tuple(_parse_benchmark(entry) for entry in tomllib.loads(text)["benchmark"])


def _read_benchmarks(path: Path) -> tuple[Benchmark, ...]:
    """The benchmarks of a user's file."""
    try:
        entries = parse_toml(path.read_text(encoding="utf-8"))["benchmark"]
        return tuple(_parse_benchmark(dict(entry)) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} (from {BENCHMARKS_VARIABLE}) is not a file of benchmarks ({error}); it needs "
            "[[benchmark]] tables with at least name, title, split and size."
        ) from error


def find_benchmark(name: str) -> Benchmark:
    """The benchmark with this name, ignoring case and treating - as _.

    Raises `InputError` for an unknown name.
    """
    normalized = name.lower().replace("-", "_")
    for known in all_benchmarks():
        if known.name == normalized:
            return known
    names = ", ".join(known.name for known in all_benchmarks())
    raise InputError(f"Unknown benchmark {name!r}; use one of {names}, a file, or hf:NAME.")


def _parse_benchmark(entry: dict[str, object]) -> Benchmark:
    """The benchmark of one TOML table."""
    hub = entry.pop("hub", None)
    assert hub is None or isinstance(hub, dict)
    optional = {"rows": None, "sha256": None, "faults": "", "answer": "", "licence": ""}
    optional |= {"source": ""}
    return Benchmark(
        hub=None if hub is None else HubDataset(**{"config": None, "read": "text", **hub}),
        **(optional | entry),  # type: ignore[arg-type]
    )


DATA_VARIABLE = "RSTAR_DATA"
"""Environment variable with the path of the folder of local benchmark files."""


@dataclass(frozen=True, slots=True)
class LoadedProblems:
    """Problems and their origin."""

    problems: list[Problem]
    name: str
    note: str | None = None
    """A remark for the user, for example that the file differs from the one used for our results.
    """


def load_benchmark(
    name: str, *, folder: Path | None = None, limit: int | None = None
) -> LoadedProblems:
    """The problems of a benchmark, of a source or of a Python function; at most `limit`.

    A benchmark is read from `folder` or the folder in RSTAR_DATA, otherwise from the hub. A source
    is anything that `problems.sources` reads (`hf:NAME:CONFIG@SPLIT`, a file, ...). A function is
    given as "module:function". Raises `InputError`, or `MissingDependencyError` if a package is not
    installed.
    """
    if re.fullmatch(r"[\w.]+:[A-Za-z_]\w*", name) and not is_source(name):
        return LoadedProblems(list(islice(_call_function(name), limit)), name)
    if is_source(name):
        return LoadedProblems(read_source(name, limit), name)
    known = find_benchmark(name)
    folder = folder or (Path(os.environ[DATA_VARIABLE]) if DATA_VARIABLE in os.environ else None)
    path = known.file(folder) if folder is not None else None
    if path is not None:
        problems = [replace(p, source=known.name) for p in read_problems(path, limit)]
        return LoadedProblems(problems, known.name, _checksum_note(known, path))
    if known.hub is None:
        raise InputError(
            f"{known.title} is not on the hub; put {known.name}/{known.split}.jsonl into a folder "
            f"and pass that folder with --data or {DATA_VARIABLE} (source: {known.source})."
        )
    rows, _ = load_hub_dataset(known.hub.name, known.hub.config, known.hub.split)
    problems = problems_from_rows(islice(rows, limit), known.hub, known.name)
    return LoadedProblems(problems, known.name, _subset_note(known))


def _call_function(name: str) -> Iterable[Problem]:
    """The problems that "module:function" returns. Raises `ConfigError` and `InputError`."""
    for problem in import_object(name)():
        if not isinstance(problem, Problem):
            raise InputError(
                f"{name} returned {type(problem).__name__}; it must return Problem objects."
            )
        yield problem


def problems_from_rows(
    rows: Iterable[Mapping[str, Any]], hub: HubDataset, name: str
) -> list[Problem]:
    """The problems of a data set's rows in order, with ids `name/split/row`.

    Raises `InputError` with the number of the first invalid row.
    """
    found: list[Problem] = []
    for number, row in enumerate(rows):
        where = f"{hub.name}, row {number}"
        *parts, last = (str(_column(row, key, where)) for key in hub.question.split("+"))
        entry = {
            "id": f"{name}/{hub.split}/{number}",
            "problem": " ".join([*(_as_sentence(part.strip()) for part in parts), last]).strip(),
            "answer": extract_reference(_column(row, hub.answer, where), hub.read),
            "level": str(row["level"]) if row.get("level") is not None else None,
            "source": name,
        }
        found.append(parse_problem(entry, where))
    if not found:
        raise InputError(f"{hub.name} (split {hub.split}) has no rows; use another data set.")
    return found


def extract_reference(value: object, read: str) -> str | None:
    """The reference answer in a column value, extracted as `HubDataset.read` states.

    None if there is none.
    """
    if value is None:
        return None
    if read == "yesno" or isinstance(value, bool):
        return "yes" if str(value).strip().lower() in ("true", "yes", "1") else "no"
    if read == "list" and isinstance(value, list | tuple):
        return ", ".join(str(part).strip().strip("$") for part in value)
    if ":" in read:
        reference: str | None = import_object(read)(value)
        return reference
    text = str(value).strip()
    if read == "hashes":
        return text.rpartition("####")[2].strip().replace(",", "")
    if read == "boxed":
        from rstar_math.extraction import boxed

        return boxed(text)
    if read == "unit":
        return re.sub(r"\s*\([^()]*\)", "", text)
    if read == "number":
        whole = re.fullmatch(r"(-?\d+)\.0+", text)
        return whole[1] if whole else text
    return text or None


def _column(row: Mapping[str, Any], key: str, where: str) -> object:
    if key in row:
        return row[key]
    raise InputError(
        f"{where} has no column {key} (it has {', '.join(row)}); name the columns "
        "as in hf:NAME:CONFIG@SPLIT?question=...&answer=...."
    )


def _as_sentence(text: str) -> str:
    """The text with a final punctuation mark."""
    return text if text.endswith((".", "?", "!", ":", ",")) else f"{text}."


def _subset_note(known: Benchmark) -> str | None:
    """A note that this project's results use only a part of the benchmark; None if they use all."""
    if known.rows is None or known.rows >= known.size:
        return None
    return (
        f"This project's own results on {known.title} use {known.rows:,} of its {known.size:,} "
        "problems; results on all of them may differ."
    )


def _checksum_note(known: Benchmark, path: Path) -> str | None:
    """A note that a file is not the one used for this project's results; None if it is."""
    if known.sha256 is None:
        return None
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if found == known.sha256:
        return None
    return (
        f"{path} is not the file used for this project's own results on {known.title} "
        f"(SHA-256 {found[:12]}..., expected {known.sha256[:12]}...); results may differ."
    )
