"""Reads, writes and samples problems in JSONL files.

One object a line. The question is under "problem" or "question"; the reference answer, if there
is one, under "answer" or "reference"; "id", "source" and "level" are optional. Without an id the
question's own text gives one.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.files import atomic_write
from rstar_math.seeding import derive
from rstar_math.types import Problem, Question

MAX_QUESTION_CHARS = 20_000
"""Longest question taken, in characters: no model here reads more."""
MAX_LINE_BYTES = 4_000_000
"""Longest line read, in bytes."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Under which keys a problem's question and answer are; of several the first that is there."""

    question: tuple[str, ...] = ("problem", "question")
    answer: tuple[str, ...] = ("answer", "reference")


COLUMNS = Columns()
_A_LINE = 'write one object a line, as {"problem": "...", "answer": "..."}'


def question_id(text: str) -> str:
    """The id of a question that came without one: a hash of its text."""
    return blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def read_problems(
    path: Path, limit: int | None = None, columns: Columns = COLUMNS
) -> list[Problem]:
    """The problems of a file in its order, at most `limit`.

    Raises `InputError` naming the first line that is at fault; nothing is skipped in silence.
    """
    problems: list[Problem] = []
    lines_by_id: dict[str, int] = {}
    for number, problem in islice(_entries(path, columns), limit):
        if problem.id in lines_by_id:
            raise InputError(
                f"{path}, line {number}: the id {problem.id!r} was used in line "
                f"{lines_by_id[problem.id]} already; give each problem an id of its own."
            )
        lines_by_id[problem.id] = number
        problems.append(problem)
    if not problems:
        raise InputError(f"{path} holds no problems; it needs one JSON object a line.")
    return problems


def _entries(path: Path, columns: Columns) -> Iterator[tuple[int, Problem]]:
    """Line numbers and problems of a file."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(
                        f"{path}, line {number} is longer than {MAX_LINE_BYTES} bytes; "
                        "is it a JSON array? It needs one JSON object a line."
                    )
                if line.strip():
                    where = f"{path}, line {number}"
                    yield number, problem_of(_object(line, where), where, columns)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}; give a JSONL file of problems.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give a JSONL file of problems.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read ({error}); give a JSONL file of problems, plain or gzipped."
        ) from error


def _object(line: bytes, where: str) -> Mapping[str, Any]:
    """The JSON object of one line."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); {_A_LINE}.") from None
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not a JSON object; {_A_LINE}.")
    return entry


def problem_of(entry: Mapping[str, Any], where: str, columns: Columns = COLUMNS) -> Problem:
    """The problem of one entry. `where` says in the `InputError` which entry is at fault."""
    text = _text(entry, columns.question, where)
    if text is None or not text.strip():
        seen = ", ".join(map(str, list(entry)[:8])) or "nothing"
        wanted = " or ".join(f'"{key}"' for key in columns.question)
        todo = "write the question there"
        if columns == COLUMNS:
            todo += ", or name its column: rstar prepare 'FILE?question=COLUMN&answer=COLUMN'"
        raise InputError(f"{where} has no text under {wanted} (it has {seen}); {todo}.")
    if len(text) > MAX_QUESTION_CHARS:
        raise InputError(
            f"{where}: the question has {len(text)} characters and the most is "
            f"{MAX_QUESTION_CHARS}; shorten it or take the line out."
        )
    given = _text(entry, ("id",), where)
    return Problem(
        question=Question(given or question_id(text), text),
        reference=_text(entry, columns.answer, where),
        source=_text(entry, ("source",), where),
        level=_text(entry, ("level",), where),
    )


def _text(entry: Mapping[str, Any], keys: tuple[str, ...], where: str) -> str | None:
    """The first of some keys that is there, as text; numbers are taken, other things are not."""
    for key in keys:
        value = entry.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f'{where}: "{key}" is {type(value).__name__}, and must be text.')
        text = str(value)
        if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError(f'{where}: "{key}" holds characters that are not valid text.')
        return text
    return None


def write_problems(
    path: Path,
    problems: Sequence[Problem],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write problems as `read_problems` reads them, gzipped where the name ends in .gz.

    `extra` holds, by problem id, keys to put beside the usual ones. The file appears under its
    name when it is complete and on the disk. Raises `InputError` where it cannot be written.
    """
    lines = [
        json.dumps(_entry(p) | {**(extra or {}).get(p.id, {})}, ensure_ascii=False)
        for p in problems
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    try:
        with atomic_write(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); give another file."
        ) from error


def _entry(problem: Problem) -> dict[str, Any]:
    """A problem as an object, without what is not known."""
    found = {
        "id": problem.id,
        "problem": problem.question.text,
        "answer": problem.reference,
        "source": problem.source,
        "level": problem.level,
    }
    return {key: text for key, text in found.items() if text is not None}


def sample(problems: Sequence[Problem], size: int | None, seed: int) -> list[Problem]:
    """At most `size` of some problems, in their order. Who is drawn depends on ids alone, so that a
    larger draw holds a smaller one."""
    if size is None or size >= len(problems):
        return list(problems)
    ranked = sorted(problems, key=lambda problem: derive(seed, problem.id))
    chosen = {problem.id for problem in ranked[:size]}
    return [problem for problem in problems if problem.id in chosen]
