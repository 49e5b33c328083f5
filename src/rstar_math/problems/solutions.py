"""Solutions that come with problems, as in GSM8K: calculations marked <<48/2=24>>, a last line
`#### 72`."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.problems.sources import TOLD, parse_source, rows_of, told_by

_FINAL = "####"


@dataclass(frozen=True, slots=True)
class Solved:
    """A problem's text with its solution."""

    id: str | None
    """None where the file gives none."""
    text: str
    solution: str
    answer: str


def read_solutions(source: str) -> Iterator[Solved]:
    """The solutions of a source (see `problems.sources`); none of a source that has no column
    "solution", and no "answer" that holds one. Raises `InputError` and `MissingExtra`."""
    kind = parse_source(source)
    if kind.kind == "gym":
        return
    if kind.kind in TOLD:
        for told in told_by(kind):
            problem = told.problem
            final = problem.reference or ""
            yield Solved(problem.id, problem.question.text, told.solution, final)
        return
    if kind.kind == "hf":
        for problem in rows_of(kind):
            text = problem.reference or ""
            if _FINAL in text:
                final = text.rpartition(_FINAL)[2].strip()
                yield Solved(problem.id, problem.question.text, text, final)
        return
    for entry in _objects(Path(kind.name)):
        asked = entry.get(kind.options.get("question", "problem")) or entry.get("question")
        answer = entry.get(kind.options.get("answer", "answer"))
        solution = entry.get("solution") or (answer if _FINAL in str(answer) else None)
        if isinstance(asked, str) and isinstance(solution, str) and answer is not None:
            given = entry.get("id")
            final = str(answer).rpartition(_FINAL)[2].strip()
            yield Solved(None if given is None else str(given), asked, solution, final)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, plain or gzipped."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    entry = json.loads(line)
                    if not isinstance(entry, dict):
                        raise ValueError(f"line {number} is no object")
                    yield entry
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a JSONL file of problems with answer and solution ({error})."
        ) from None
