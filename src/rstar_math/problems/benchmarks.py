"""The table of benchmarks: source, size, licence, known faults. No row of them is part of this
package."""

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
from rstar_math.problems.jsonl import problem_of, read_problems
from rstar_math.problems.sources import is_source, load_hub_dataset, read_source
from rstar_math.types import Problem


@dataclass(frozen=True, slots=True)
class Hub:
    """Where a set is on the Hugging Face hub, and how its rows are read."""

    name: str
    config: str | None
    split: str
    question: str
    """The question's column; several to be joined with "+" between them, alternatives with "|"."""
    answer: str
    """The answer's column."""
    read: str
    """How the answer is taken out of it: "text"; "hashes", after the last ####; "boxed", the last
    box; "list", its parts joined by commas; "yesno", a truth value; "number", without .0; "unit",
    without what stands in parentheses; "module:function" for your own (object -> str or None)."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A public set of problems."""

    name: str
    title: str
    split: str
    size: int
    """Problems as published."""
    answer: str
    """What its answers look like."""
    licence: str
    faults: str
    """What is known to be wrong with it; "" where nothing is."""
    hub: Hub | None
    source: str
    """Who made it, and where else it is found."""
    rows: int | None
    """Problems in the normalised file that our own figures are made on."""
    sha256: str | None
    """Checksum of that file, unpacked; None where we have none."""

    def file(self, folder: Path) -> Path | None:
        """The local file in a folder of sets: NAME/SPLIT.jsonl, NAME.jsonl, or one of them with
        .gz; None where there is none."""
        for stem in (f"{self.name}/{self.split}", self.name):
            for end in (".jsonl", ".jsonl.gz"):
                path = folder / f"{stem}{end}"
                if path.is_file():
                    return path
        return None


OWN_FILE_VARIABLE = "RSTAR_BENCHMARKS"
"""Environment variable that names a TOML file with benchmarks of your own."""


def benchmarks() -> tuple[Benchmark, ...]:
    """All benchmarks, easier ones first, then those of the file that RSTAR_BENCHMARKS names: the
    same `[[benchmark]]` tables. Raises `InputError` for a file that cannot be read."""
    own = os.environ.get(OWN_FILE_VARIABLE)
    return _packaged() + (_own(Path(own)) if own else ())


@cache
def _packaged() -> tuple[Benchmark, ...]:
    text = (files("rstar_math.problems") / "benchmarks.toml").read_text(encoding="utf-8")
    return tuple(_benchmark(entry) for entry in tomllib.loads(text)["benchmark"])


def _own(path: Path) -> tuple[Benchmark, ...]:
    """The benchmarks of a user's file."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["benchmark"]
        return tuple(_benchmark(dict(entry)) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} ({OWN_FILE_VARIABLE}) is no file of benchmarks ({error}); it needs "
            "[[benchmark]] tables with at least name, title, split and size."
        ) from error


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name, in any case and with - for _. Raises `InputError` for an unknown
    one."""
    wanted = name.lower().replace("-", "_")
    for known in benchmarks():
        if known.name == wanted:
            return known
    names = ", ".join(known.name for known in benchmarks())
    raise InputError(f"{name!r} is no benchmark; give one of {names}, a file, or hf:NAME.")


def _benchmark(entry: dict[str, object]) -> Benchmark:
    """One table of the data file."""
    hub = entry.pop("hub", None)
    assert hub is None or isinstance(hub, dict)
    optional = {"rows": None, "sha256": None, "faults": "", "answer": "", "licence": ""}
    optional |= {"source": ""}
    return Benchmark(
        hub=None if hub is None else Hub(**{"config": None, "read": "text", **hub}),
        **(optional | entry),  # type: ignore[arg-type]
    )


FOLDER_VARIABLE = "RSTAR_DATA"
"""Environment variable that names the folder of local sets."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Problems, and what there is to say of where they came from."""

    problems: list[Problem]
    name: str
    note: str | None = None


def load(name: str, *, folder: Path | None = None, limit: int | None = None) -> Loaded:
    """The problems of a benchmark (from `folder` or the one in RSTAR_DATA, else from the hub), or
    of a source that `problems.sources` reads (`hf:NAME:CONFIG@SPLIT`, a file, ...), or that
    "module:function" returns; at most `limit`.

    Raises `InputError`, or `MissingDependencyError` without the package that it takes.
    """
    if re.fullmatch(r"[\w.]+:[A-Za-z_]\w*", name) and not is_source(name):
        return Loaded(list(islice(_from_function(name), limit)), name)
    if is_source(name):
        return Loaded(read_source(name, limit), name)
    known = benchmark(name)
    folder = folder or (
        Path(os.environ[FOLDER_VARIABLE]) if FOLDER_VARIABLE in os.environ else None
    )
    path = known.file(folder) if folder is not None else None
    if path is not None:
        problems = [replace(p, source=known.name) for p in read_problems(path, limit)]
        return Loaded(problems, known.name, _note(known, path))
    if known.hub is None:
        raise InputError(
            f"{known.title} is not on the hub; put {known.name}/{known.split}.jsonl into a folder "
            f"and name that in {FOLDER_VARIABLE} or with --data (from: {known.source})."
        )
    return Loaded(from_hub(known.hub, known.name, limit), known.name, _fewer(known))


def _from_function(name: str) -> Iterable[Problem]:
    """The problems that "module:function" returns. Raises `ConfigError` and `InputError`."""
    for problem in import_object(name)():
        if not isinstance(problem, Problem):
            raise InputError(f"{name} gave {type(problem).__name__}; it must give Problem objects.")
        yield problem


def from_hub(hub: Hub, name: str, limit: int | None = None) -> list[Problem]:
    """The problems of a data set of the hub, with ids `name/split/row`.

    Raises `MissingDependencyError` or `InputError`.
    """
    rows, _ = load_hub_dataset(hub.name, hub.config, hub.split)
    return from_rows(islice(rows, limit), hub, name)


def from_rows(rows: Iterable[Mapping[str, Any]], hub: Hub, name: str) -> list[Problem]:
    """Problems of a data set's rows, in their order. Raises `InputError` naming the row at
    fault."""
    found: list[Problem] = []
    for number, row in enumerate(rows):
        where = f"{hub.name}, row {number}"
        texts = [_column(row, key, where) for key in hub.question.split("+")]
        entry = {
            "id": f"{name}/{hub.split}/{number}",
            "problem": " ".join(_ended(str(t).strip()) for t in texts[:-1]) + " " + str(texts[-1]),
            "answer": answer_of(_column(row, hub.answer, where), hub.read),
            "level": str(row["level"]) if row.get("level") is not None else None,
            "source": name,
        }
        entry["problem"] = str(entry["problem"]).strip()
        found.append(problem_of(entry, where))
    if not found:
        raise InputError(f"{hub.name} (split {hub.split}) holds no rows.")
    return found


def answer_of(value: object, read: str) -> str | None:
    """The reference answer in a column, as `Hub.read` says; None where there is none."""
    if value is None:
        return None
    if read == "yesno" or isinstance(value, bool):
        return "yes" if str(value).strip().lower() in ("true", "yes", "1") else "no"
    if read == "list" and isinstance(value, list | tuple):
        return ", ".join(str(part).strip().strip("$") for part in value)
    if ":" in read:
        own: str | None = import_object(read)(value)
        return own
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
    """A row's value under a key."""
    if key in row:
        return row[key]
    raise InputError(
        f"{where} has no column {key}, but {', '.join(row)}; name the columns "
        "as in hf:NAME:CONFIG@SPLIT?question=...&answer=...."
    )


def _ended(text: str) -> str:
    """A text that ends as a sentence."""
    return text if text.endswith((".", "?", "!", ":", ",")) else f"{text}."


def _fewer(known: Benchmark) -> str | None:
    """What to say of a whole set where our own figures are made on a part of it."""
    if known.rows is None or known.size is None or known.rows >= known.size:
        return None
    return (
        f"This project's own figures on {known.title} are made on {known.rows:,} of its "
        f"{known.size:,} problems; they may differ from those on all."
    )


def _note(known: Benchmark, path: Path) -> str | None:
    """What to say where a file is not the one that our figures are made on."""
    if known.sha256 is None:
        return None
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if found == known.sha256:
        return None
    return (
        f"{path} is not the file that this project's own figures on {known.title} are made on "
        f"(SHA-256 {found[:12]}..., ours {known.sha256[:12]}...); they may differ."
    )
