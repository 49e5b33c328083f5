"""The benchmarks that are known by name: where to get them, how large they are, what is wrong with
them. None of their rows is part of this package."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from rstar_math.errors import InputError


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
    without what stands in parentheses."""


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


@cache
def benchmarks() -> tuple[Benchmark, ...]:
    """All benchmarks, easier ones first."""
    text = (files("rstar_math.evaluation") / "benchmarks.toml").read_text(encoding="utf-8")
    return tuple(_benchmark(entry) for entry in tomllib.loads(text)["benchmark"])


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
    optional = {"rows": None, "sha256": None, "faults": ""}
    return Benchmark(
        hub=None if hub is None else Hub(**{"config": None, "read": "text", **hub}),
        **(optional | entry),  # type: ignore[arg-type]
    )
